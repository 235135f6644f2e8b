"""Cohorts that every method's config starts from: `configs/baselines/ddpm.py:brats:FLAIR`.

demo       the embedded cohort, synthetic, 64-pixel slices, a minute or two on two CPU cores
slices     any folder of healthy slices, 128 pixels, two CPU cores
brats      S2: BraTS'21 (FLAIR | T1 | T1CE | T2), published settings, one GPU
atlas      S1: IXI for training, ATLAS 2.0 for testing (T1), published settings, one GPU

A modality may follow a second colon. `demo` and `slices` shrink networks and budgets
(`SMALL` of each file); `brats` and `atlas` keep what was published.
"""

from ml_collections import config_dict

from configs import atlas, brats, demo, slices_cpu
from configs.parts import presets

MODALITIES = {
    "demo": ("T1", "T2", "FLAIR"),
    "slices": ("T1", "T2", "FLAIR", "T1CE"),
    "brats": ("FLAIR", "T1", "T1CE", "T2"),
    "atlas": ("T1",),
}
_START = {
    "demo": demo.get_config,
    "slices": slices_cpu.get_config,
    "brats": brats.get_config,
    "atlas": lambda modality: atlas.get_config(),  # T1 alone; its argument is a preset
}


def config(method, argument, settings, published, small):
    """The config of a method on a cohort.

    Args:
      method: its name.
      argument: `cohort` or `cohort:modality`.
      settings: the method's own section.
      published: {dotted key: value} of shared and own sections.
      small: the same, on top of `published`, for `demo` and `slices`.

    Raises ValueError for a cohort or modality that there is not.
    """
    cohort, _, modality = argument.partition(":")
    if cohort not in _START:
        raise ValueError(f"cohort: found {cohort!r}, accepted: {', '.join(_START)}")
    modality = modality or MODALITIES[cohort][0]
    if modality not in MODALITIES[cohort]:
        accepted = ", ".join(MODALITIES[cohort])
        raise ValueError(f"{cohort}: found modality {modality!r}, accepted: {accepted}")
    c = _START[cohort](modality)
    c.name = f"{method}-{cohort}-{modality.lower()}"
    c.method = method
    # What the demo sets for MAD-AD's head at image resolution.
    c.atlas.groups, c.map.sigma = 0, 5.0
    c.methods[method] = config_dict.ConfigDict(settings)
    values = dict(published)
    if cohort in ("demo", "slices"):
        values |= small
    c.lock()  # a mistyped key is an error and not a new key
    c.update_from_flattened_dict(values)
    presets.record(c, "published" if values == published else "small", values)
    c.unlock()
    return c

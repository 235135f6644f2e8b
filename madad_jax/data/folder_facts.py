"""What a folder holds, before an experiment is written for it: slices, or scans.

Headers and a sample of the pixels are read, so that it takes seconds whatever the size.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from madad_jax.core import errors, messages
from madad_jax.data import contents, discovery, name_rules, provenance, scan_names
from madad_jax.data.sources import png_folder, png_pixels
from madad_jax.data.sources import record as record_lib

_SAMPLE = 64  # Slices or scans whose header is read.


@dataclasses.dataclass(frozen=True)
class Split:
    """Slices and people of a split; `levels` counts different slice numbers."""

    slices: int
    people: int
    levels: int


@dataclasses.dataclass(frozen=True)
class Slices:
    """A folder of slices.

    Attributes:
      root: the folder.
      modality: that is planned for.
      modalities: all that `train` has.
      splits: {name: counts}, those with the modality.
      sizes: (height, width) in px of a sample of training slices, the most frequent first.
      bits: of the files.
      level: median over slices of the brain's 99th percentile, share of the files' range.
      prepared: whether the folder says where slices lie in a head (`dataset.json`).
      notes: lines about what contradicts the folder, as a run would print them.
    """

    root: str
    modality: str
    modalities: tuple[str, ...]
    splits: Mapping[str, Split]
    sizes: tuple[tuple[int, int], ...]
    bits: int
    level: float
    prepared: bool
    notes: tuple[str, ...]

    @property
    def side(self) -> int:
        """Side in px of the square that the most frequent size is padded to."""
        return max(self.sizes[0])


@dataclasses.dataclass(frozen=True)
class Scans:
    """A folder of scans.

    Attributes:
      root: the folder.
      modality: that is planned for.
      count: scans of that contrast, by their names.
      voxel_mm: median size of a voxel along the axes; None where no header was read.
      pattern: of their paths, as a cohort's table has it; a guess from the names.
    """

    root: str
    modality: str
    count: int
    voxel_mm: tuple[float, float, float] | None
    pattern: str


def look(root: str, modality: str = "") -> Slices | Scans:
    """What lies in a folder.

    Args:
      root: of slices (`{split}/{id}-slice_{k}-{modality}.png`) or of scans.
      modality: wanted; "" where there is one alone.

    Raises:
      UserError: no such folder, nothing usable in it, or a modality that is not there.
    """
    folder = epath.Path(root)
    if not folder.is_dir():
        raise errors.UserError(f"--in={root}: no such folder; accepted: slices or scans")
    if any(_is_split(path) for path in folder.iterdir()):
        return look_at_slices(root, modality)
    return look_at_scans(root, modality)


def _is_split(path: epath.Path) -> bool:
    """Whether a folder is one of slices: people's folders may begin with `test` as well."""
    if record_lib.split_group(path.name) is None or not path.is_dir():
        return False
    return path.name == "train" or any(file.suffix.lower() == ".png" for file in path.iterdir())


def look_at_slices(root: str, modality: str = "") -> Slices:
    """What a data set of PNG slices holds.

    Raises:
      UserError: no `train`, damaged files, or a modality that `train` lacks.
    """
    found = png_folder.list_contents(root)
    if "train" not in found:
        raise errors.UserError(
            f"--in={root}: no split 'train'; found: {', '.join(found)}; accepted: healthy slices "
            "in train and val"
        )
    modality = _choose(root, found["train"], modality)
    fits = [name for name, kinds in found.items() if modality in kinds]
    sources = {
        name: png_folder.PngFolder(root, split=name, modality=modality, image_size=8)
        for name in fits
    }
    notes, bright = [], {}
    for name, source in sources.items():
        bright[name] = contents.measure_brightness(source)
        notes += source.notes
        notes += contents.brightness_notes(name, bright[name], bright)
    return Slices(
        root=root,
        modality=modality,
        modalities=tuple(found["train"]),
        splits={name: _count(source) for name, source in sources.items()},
        sizes=_sizes(sources["train"]),
        bits=bright["train"].bits,
        level=bright["train"].level,
        prepared=(epath.Path(root) / provenance.DATASET).exists(),
        notes=tuple(notes),
    )


def look_at_scans(root: str, modality: str = "") -> Scans:
    """What a folder of scans holds, by names and headers.

    Raises:
      UserError: no scan, or several contrasts and none chosen.
    """
    found, _ = discovery.discover(root)
    kinds = {name_rules.stated_contrast(scan_names.stem(scan.path.name)) for scan in found}
    named = sorted(kinds - {""})
    modality = _choose(root, named, modality) if named else modality or "T1"
    kept = discovery.keep_contrast(found, modality, asked=False)
    files = [scan.path for scan in kept if not scan.path.is_dir()]
    return Scans(
        root=root,
        modality=modality,
        count=len(kept),
        voxel_mm=_voxels(files),
        pattern=_pattern(epath.Path(root), [scan.path for scan in kept]),
    )


def _choose(root: str, found: list[str], modality: str) -> str:
    """The modality of `found` that is planned for."""
    fits = [kind for kind in found if kind.lower() == modality.lower()]
    if fits or (not modality and len(found) == 1):
        return fits[0] if fits else found[0]
    what = f"--modality={messages.shorten(modality)}" if modality else "--modality is missing"
    raise errors.UserError(f"{what}; found in {root}: {', '.join(map(messages.shorten, found))}")


def _count(source: Any) -> Split:
    records = source.records
    people = {record.subject for record in records}
    return Split(len(records), len(people), len({record.slice for record in records}))


def _sizes(source: Any) -> tuple[tuple[int, int], ...]:
    numbers = np.linspace(0, len(source.records) - 1, min(_SAMPLE, len(source.records)))
    found: collections.Counter[tuple[int, int]] = collections.Counter()
    for i in sorted({int(number) for number in numbers}):
        header = png_pixels.read_header(source.read_encoded(i).image)
        found[header.height, header.width] += 1
    return tuple(size for size, _ in found.most_common())


def _pattern(root: epath.Path, paths: list[epath.Path]) -> str:
    """A pattern that all paths fit, `{id}` being their name or first folder."""
    flat = all(path.parent == root for path in paths)
    if any(path.is_dir() for path in paths):
        return "{id}/" if flat else "{id}/**/*/"
    # The last word of their names, where it is one: "_T1w", and no part of an id.
    ends = {re.sub(r".*?([_-][^_-]*)?$", r"\1", scan_names.stem(path.name)) for path in paths}
    kinds = {path.name[len(scan_names.stem(path.name)) :] for path in paths}
    kind = kinds.pop() if len(kinds) == 1 else "{nii}"
    kind = "{nii}" if kind.lower().startswith(".nii") else kind
    return ("{id}" if flat else "{id}/**/*") + (ends.pop() if len(ends) == 1 else "") + kind


def _voxels(files: list[epath.Path]) -> tuple[float, float, float] | None:
    from madad_jax.scans import volumes  # nibabel for folders of scans alone

    sizes = []
    for path in files[:_SAMPLE]:
        _, affine, _ = volumes.read_grid(path)
        sizes.append(np.linalg.norm(affine[:3, :3], axis=0))
    if not sizes:
        return None
    x, y, z = np.median(sizes, axis=0)
    return float(x), float(y), float(z)

"""How a trained method is judged, from the config's section."""

import dataclasses
import os

from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import data, networks
from madad_jax.core import errors
from madad_jax.data import provenance
from madad_jax.evaluation import lesion_list, runner
from madad_jax.metrics import scan_stacks


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """Which sets are scored, with which weights, and how.

    Attributes:
      sets: splits; the healthy companion of each joins where it exists.
      contrasts: subsets of the run's contrasts that are scored; () for a run of one picture.
      run: folder of the run whose weights are scored; "": this one's.
      checkpoint: `best` by validation loss, or `latest`.
      batch_size: global.
      false_positive_rate: of healthy validation brain pixels, sets the threshold.
      whole_scans: scans are judged in 3-D too.
      spacing_mm: between slices, rows, columns; 0: as the slices were prepared.
      postprocess: name of what is done to a scan's map before it is judged.
      false_positives: numbers of false positives a scan; whole scans get a threshold for each.
      lesions: CSV table of lesions; "": `lesions.csv` in `root`, where there is one.
      root: folder of the slices; "": they are drawn.
      smooth_slices_mm: sigma of a Gaussian over a scan's neighbouring slices; 0: none.
      slice_options: options of the runner that need no preparation.
    """

    sets: tuple[str, ...]
    contrasts: tuple[tuple[str, ...], ...]
    run: str
    checkpoint: str
    batch_size: int
    false_positive_rate: float
    whole_scans: bool
    spacing_mm: tuple[float, float, float]
    postprocess: str
    false_positives: tuple[float, ...]
    lesions: str
    root: str
    smooth_slices_mm: float
    slice_options: runner.Options

    def options(self, preparation: provenance.SourcePreparation | None) -> runner.Options:
        """Options of the runner for slices prepared so.

        Raises UserError when whole scans are judged and nothing says how far apart slices and
        pixels are, or their table of lesions is damaged.
        """
        # Without a preparation slices are taken to be 1 mm apart.
        step = preparation.geometry.level_step if preparation else 1.0
        return dataclasses.replace(
            self.slice_options,
            volumes=self._volumes(preparation) if self.whole_scans else None,
            smooth_slices=self.smooth_slices_mm / step,
        )

    def _volumes(self, preparation: provenance.SourcePreparation | None) -> runner.Volumes:
        spacing = self.spacing_mm
        if not all(spacing):
            if preparation is None:
                raise errors.UserError(
                    f"eval.spacing_mm: found {spacing}, and the slices do not say how they were "
                    "made; with eval.protocol=both give mm between slices, rows and columns"
                )
            geometry = preparation.geometry
            step = preparation.numbers[2] if preparation.numbers else 1
            known = (step * geometry.level_step, geometry.pixel, geometry.pixel)
            slices, rows, columns = (s or k for s, k in zip(spacing, known, strict=True))
            spacing = (slices, rows, columns)
        postprocess = scan_stacks.PRESETS[self.postprocess]
        named = self._named(preparation)
        return runner.Volumes(spacing, postprocess, self.false_positives, named)

    def _named(
        self, preparation: provenance.SourcePreparation | None
    ) -> lesion_list.Lesions | None:
        """The table of lesions, placed in slices prepared so."""
        path = self.lesions
        if not path and self.root:
            beside = epath.Path(self.root) / lesion_list.FILE
            path = os.fspath(beside) if beside.exists() else ""
        if not path:
            return None
        if preparation is None:
            raise errors.UserError(
                f"{path}: found a table of lesions, and the slices do not say where they lie; "
                "accepted: slices made by madad_jax prepare"
            )
        return lesion_list.read(path, self.root, preparation.geometry)


def evaluation_plan(config: config_dict.ConfigDict) -> EvaluationPlan:
    """The plan of `config.eval`, with the smoothing of `config.map`."""
    c = config.eval
    slices, rows, columns = c.spacing_mm
    # Configs of earlier runs have none, and their detectors open for prediction all the same.
    false_positives = c.get("false_positives_per_scan", ())
    return EvaluationPlan(
        sets=tuple(c.sets),
        contrasts=_subsets(config),
        run=c.run,
        checkpoint=c.checkpoint,
        batch_size=c.batch_size,
        false_positive_rate=c.false_positive_rate,
        whole_scans=c.protocol == "both",
        spacing_mm=(float(slices), float(rows), float(columns)),
        postprocess=c.postprocess,
        false_positives=tuple(float(n) for n in false_positives),
        lesions=c.get("lesions", ""),
        root=config.data.root,
        smooth_slices_mm=config.ensemble.smooth_slices,
        slice_options=runner.Options(
            image_size=config.data.image_size,
            sigma=networks.smoothing_sigma(config),
            false_positive_rate=c.false_positive_rate,
            band=c.mean_image_band,
            bootstrap=c.bootstrap,
            panels=c.panels,
            seed=config.seed,
        ),
    )


def _subsets(config: config_dict.ConfigDict) -> tuple[tuple[str, ...], ...]:
    """`eval.contrasts`, each in the order of `data.modality`; all contrasts where it is empty.

    Raises UserError for a contrast that the run does not have, or a subset that is asked twice.
    """
    names = data.contrast_names(config.data.modality)
    found = config.eval.get("contrasts", ())  # records of earlier versions have none
    found = (found,) if isinstance(found, str) else tuple(found)
    if networks.channels(config) is None and not found:
        return ()
    asked = [data.contrast_names(one) for one in found] or [names]
    subsets = tuple(tuple(name for name in names if name in one) for one in asked)
    unknown = sorted({name for one in asked for name in one} - {*names})
    if unknown or len(set(subsets)) < len(subsets):
        raise errors.UserError(
            f"eval.contrasts: found {found}, accepted: different subsets of {','.join(names)}, the "
            f"run's data.modality, as ('{','.join(names)}', '{names[0]}')"
        )
    return subsets if networks.channels(config) is not None else ()

"""One scan in, maps on the scan's own grid out.

scan -> stack of slices (`scan.py`) -> maps in batches on the device -> post-processing in 3-D ->
threshold -> candidates -> back onto the scan's grid. Everything that depends on the healthy scans
(threshold, percentile) comes from the calibration of the same signal and post-processing.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from madad_jax.core import errors, signals
from madad_jax.core.types import Batch
from madad_jax.data import provenance, reading, scan_names
from madad_jax.metrics import calibration as calibration_lib
from madad_jax.metrics import scan_look, scan_stacks
from madad_jax.predict import candidates as candidates_lib
from madad_jax.predict import result as result_lib
from madad_jax.predict import scan as scan_lib
from madad_jax.scans import given_template, slices, to_slices, volumes

Score = Callable[[int, dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a detector does with the maps.

    Attributes:
      signal: one of `signals.STORED`.
      postprocess: name of the post-processing, for the summary.
      options: its steps.
      point: the threshold and how it was chosen; None: calibration alone, no masks.
      healthy: healthy scans under the same signal and options; None: not calibrated.
    """

    signal: str
    postprocess: str
    options: scan_stacks.Options
    point: calibration_lib.Point | None
    healthy: calibration_lib.Healthy | None


class Detector:
    """A trained run, ready for scans. Safe to call from several threads."""

    _channel = 0  # of the reconstruction that is written

    def __init__(
        self,
        score: Score,
        preparation: provenance.SourcePreparation,
        numbers: tuple[int, ...],
        setting: Setting,
        *,
        batch_size: int,
        facts: dict[str, Any],
        looks: scan_look.HealthyLooks | None = None,
        warm: Callable[[], None] | None = None,
    ):
        """Takes the parts; `predict.api.load` puts them together.

        Args:
          score: batch number and batch (`image` [b,H,W,1] in [-1,1], `brain_mask`) -> maps.
          preparation: how the training slices were made.
          numbers: slice numbers to score, rising by a constant step.
          setting: signal, post-processing, operating point.
          batch_size: slices on the device at a time.
          facts: of the model, for summaries.
          looks: of the healthy scans on these slices; None: a scan is not held against any.
          warm: starts to make the program of `score`, without waiting; called once a scan was read.
        """
        self._score = score
        self.preparation = preparation
        self.numbers = numbers
        self.setting = setting
        self._batch_size = batch_size
        self.facts = facts
        self._looks = looks
        self._warm = warm
        # Of a folder of several series, the one of the training's contrast; commands change it.
        self.wish = reading.Wish(contrast=preparation.modality)

    @property
    def spacing(self) -> scan_stacks.Spacing:
        """mm between slices, rows, columns of the stack."""
        g = self.preparation.geometry
        step = self.numbers[1] - self.numbers[0] if len(self.numbers) > 1 else 1
        return (step * g.level_step, g.pixel, g.pixel)

    @property
    def beside(self) -> dict[str, str]:
        """{contrast: path} of what is read beside a scan; {} for a model of one contrast."""
        return {}

    def __call__(self, scan: Any, affine: Any = None, brain_mask: str = "") -> result_lib.Result:
        """Scores a scan.

        Args:
          scan: path of an image file, a folder or a .zip of DICOM files, a nibabel image, a
            `volumes.Volume`, or an array [X, Y, Z] with `affine`.
          affine: voxel -> mm (RAS+) [4, 4] of an array.
          brain_mask: path of a mask on the scan's grid; "" finds it.

        Raises:
          UserError: the scan is unusable; the message names it and says why.
        """
        volume = self._read(scan, affine)
        stack = scan_lib.prepare(volume, self.preparation, self.numbers, brain_mask_file=brain_mask)
        maps, reconstruction = self.maps(stack)
        return self._judge(volume, stack, maps[self.setting.signal], reconstruction)

    def _read(self, scan: Any, affine: Any = None) -> volumes.Volume:
        volume = as_volume(scan, affine, self.wish)
        # After the reading: a file that is none is answered at once. The program is made while the
        # brain is sought.
        warm, self._warm = self._warm, None
        if warm is not None:
            warm()
        return volume

    def maps(self, stack: to_slices.Slices) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """({signal: maps [k,H,W] in [0,1]}, reconstruction [k,H,W] in [0,1]) of a stack.

        Slices without enough brain are skipped; their maps are 0.
        """
        chosen = np.flatnonzero(stack.scored)
        shape = stack.images.shape
        # A signal that the method does not give stays 0, as do slices that are not scored.
        maps = {signal: np.zeros(shape, np.float32) for signal in signals.STORED}
        reconstruction = np.zeros(shape, np.float32)
        for number, start in enumerate(range(0, len(chosen), self._batch_size)):
            part = chosen[start : start + self._batch_size]
            # Always whole batches: one compiled program. The last slice fills the last one.
            rows = np.resize(part, self._batch_size)
            rows[len(part) :] = part[-1]
            out = self._score(number, self._batch(stack, rows))
            for signal in signals.STORED:
                if signal in out:
                    maps[signal][part] = np.clip(out[signal][: len(part)], 0.0, 1.0)
            unit = (out["reconstruction"][: len(part), ..., self._channel] + 1.0) * 0.5
            reconstruction[part] = np.clip(unit, 0.0, 1.0)
        return maps, reconstruction

    def _batch(self, stack: to_slices.Slices, rows: np.ndarray) -> Batch:
        # Networks are trained on [-1, 1].
        image = stack.images[rows, :, :, None] * np.float32(2.0) - np.float32(1.0)
        return {"image": image, "brain_mask": stack.brain[rows]}

    def measure(
        self,
        scan: Any,
        subject: str,
        options: dict[str, scan_stacks.Options],
        brain_mask: str = "",
    ) -> tuple[dict[calibration_lib.Key, calibration_lib.Scan], scan_look.Look]:
        """What a healthy scan adds to a calibration, by signal and post-processing; its look.

        `brain_mask` is the path of a mask on the scan's grid; "" finds it.
        """
        volume = self._read(scan)
        stack = scan_lib.prepare(volume, self.preparation, self.numbers, brain_mask_file=brain_mask)
        maps, _ = self.maps(stack)
        entries = {}
        for signal, values in maps.items():
            for name, option in options.items():
                entries[signal, name] = calibration_lib.measure(
                    subject, values, _scored_brain(stack), self.spacing, option
                )
        return entries, self._look(stack)

    def _look(self, stack: to_slices.Slices) -> scan_look.Look:
        return scan_look.measure(
            stack.images, _scored_brain(stack), self.preparation.geometry.pixel
        )

    def _doubts(self, stack: to_slices.Slices) -> list[str]:
        """A sentence where the scan looks unlike the healthy ones."""
        verdict = None if self._looks is None else self._looks.compare(self._look(stack))
        if verdict is None or not verdict.is_unlike:
            return []
        return [
            f"the scan looks unlike the {len(self._looks.likeness)} healthy "
            f"{self.preparation.modality} scans of the calibration: it lies {verdict.times:.1f} "
            "times as far off as the furthest of them (likeness with their mean "
            f"{verdict.likeness:.2f}, theirs at least {verdict.least_alike:.2f}); another "
            "contrast, scanner or "
            "preparation, or slices that lie elsewhere: the map may mean nothing"
        ]

    def _judge(self, volume, stack, maps, reconstruction) -> result_lib.Result:
        s, g = self.setting, self.preparation.geometry
        if s.point is None:
            raise errors.UserError("no operating point was chosen; accepted: a rate or a threshold")
        final, inside = scan_stacks.process_stack(
            maps, _scored_brain(stack), self.spacing, s.options
        )
        labels, _ = scan_stacks.candidates(final, s.point.threshold, self.spacing, s.options)

        # Pixels of the slices reach beyond the mask that was found in the scan. Labels by the
        # nearest slice: between the candidates 1 and 3 there is no 2.
        anomaly, scored, labels_in_scan, reconstruction_in_scan = slices.to_scan_inside(
            (
                (final, 1),
                (_scored_brain(stack), 0),
                (labels.astype(np.int32), 0),
                (reconstruction, 1),
            ),
            self.numbers,
            *(volume, stack.transform, g, stack.brain_in_scan),
        )
        np.clip(anomaly, 0.0, 1.0, out=anomaly)
        labels_in_scan[~scored] = 0
        # Back to the scanner's units, by the inverse of what scaled the slices.
        low, high = stack.scale.low, stack.scale.high
        reconstruction_in_scan = np.where(scored, reconstruction_in_scan * (high - low) + low, 0.0)
        candidates = candidates_lib.list_candidates(
            labels_in_scan, labels, final, volume, stack.transform, g.grid(self.numbers)
        )
        score = scan_stacks.score(final, inside)
        return result_lib.Result(
            volume=volume,
            anomaly=anomaly,
            labels=labels_in_scan,
            reconstruction=reconstruction_in_scan.astype(np.float32),
            transform=stack.transform,
            summary=self._summary(volume, stack, score, candidates, scored),
            healthy=s.healthy,
        )

    def _summary(self, volume, stack, score, candidates, scored) -> dict[str, Any]:
        s, g = self.setting, self.preparation.geometry
        brain = stack.brain_in_scan
        used = [n for n, yes in zip(stack.numbers, stack.scored, strict=True) if yes]
        overlap = stack.transform.overlap
        to_template = [[round(float(v), 6) for v in r] for r in stack.transform.matrix]
        own: dict[str, Any] = {}
        if self.preparation.template:
            # Readers take `to_template_mm` for the way to ICBM152.
            record = given_template.to_list(self.preparation.template)[0]
            own, to_template = {"template": {**record, "to_mm": to_template}}, None
        scan = {
            "source": scan_names.show(volume.source),
            "sha256": volume.sha256,
            "shape": list(volume.native.shape),
            "voxel_mm": [round(float(v), 4) for v in volume.voxel_mm],
            "brain_ml": round(float(brain.sum()) * volume.voxel_ml, 1),
            "registration": self.preparation.registration,
            "registration_overlap": None if math.isnan(overlap) else round(overlap, 3),
            "to_template_mm": to_template,
            "slices_scored": len(used),
            "levels_mm": [g.level(used[0]), g.level(used[-1])],
            "brain_scored": round(float(scored.sum()) / max(1, int(brain.sum())), 4),
            **own,
        }
        judged = {
            "score": score,
            "score_is": "mean of the map over its highest 1 % of scored brain voxels",
            "percentile": None if s.healthy is None else s.healthy.percentile(score),
            "healthy_scans": 0 if s.healthy is None else len(s.healthy.scans),
        }
        expected = None if s.healthy is None else s.healthy.expected(s.point.threshold)
        point = dataclasses.asdict(s.point) | {"expected_on_healthy_scans": expected}
        post = {"name": s.postprocess, **dataclasses.asdict(s.options)}
        return {
            "scan": scan,
            "scan_score": judged,
            "operating_point": point,
            "candidates": candidates,
            "signal": s.signal,
            "postprocess": post,
            "model": self.facts,
            "warnings": [*stack.warnings, *self._doubts(stack)],
            "not_a_medical_device": result_lib.NOT_A_DEVICE,
        }


def _scored_brain(stack: to_slices.Slices) -> np.ndarray:
    return stack.brain & stack.scored[:, None, None]


def as_volume(
    scan: Any,
    affine: Any = None,
    wish: reading.Wish = reading.Wish(),  # noqa: B008 (it is frozen)
) -> volumes.Volume:
    """A `Volume` of whatever a person has in hand; `wish` says which series of a folder.

    Raises:
      UserError: something else, or an array without `affine`.
    """
    if isinstance(scan, volumes.Volume):
        return scan
    if isinstance(scan, np.ndarray):
        if affine is None:
            raise errors.UserError("an array needs affine=, its voxel -> mm (RAS+) matrix [4, 4]")
        return volumes.from_array(scan, np.asarray(affine, np.float64), source="array")
    # By what it has and not by its class: other libraries wrap nibabel's images.
    if hasattr(scan, "dataobj") and hasattr(scan, "affine"):
        return volumes.from_image(scan)
    if isinstance(scan, str) or hasattr(scan, "__fspath__"):
        return reading.read(epath.Path(scan), wish)
    raise errors.UserError(
        f"scan: found {type(scan).__name__}, accepted: a path, a nibabel image, an array with "
        "affine="
    )

"""Calibration on healthy scans of one's own: another scanner, another range of what is normal."""

from collections.abc import Callable
from typing import Any

from madad_jax.core import errors
from madad_jax.data import discovery
from madad_jax.metrics import calibration as calibration_lib
from madad_jax.metrics import scan_look, scan_stacks
from madad_jax.predict import detector as detector_lib
from madad_jax.predict import model as model_lib
from madad_jax.predict import operating, scan_folder

# One scan has no spread: neither percentile nor interval would mean anything.
FEWEST = 2


def calibrate(
    model: model_lib.Model,
    make_detector: Callable[[detector_lib.Setting, Any], detector_lib.Detector],
    found: list[discovery.Scan],
    *,
    postprocess: str,
    changes: dict[str, float],
    workers: int,
    stopped: Callable[[], bool],
) -> tuple[bytes, int, int] | None:
    """(the file's content, healthy scans in it, scans that failed); None when stopped.

    Raises:
      UserError: fewer than two usable scans.
    """
    # Maps are the expensive part: one pass serves every published post-processing.
    options = dict(scan_stacks.PRESETS)
    if changes:
        setting = operating.choose_setting(
            None,
            where=model.where,
            signal="map",
            postprocess=postprocess,
            changes=changes,
            rates={"threshold": 1.0},
            default_rate=0.5,
        )
        options["custom"] = setting.options
    # Without an operating point, which only the result of this can give.
    plain = detector_lib.Setting("map", "none", scan_stacks.Options(), None, None)
    detector = make_detector(plain, detector_lib)
    measured: dict[str, dict[calibration_lib.Key, calibration_lib.Scan]] = {}
    looks: dict[str, scan_look.Look] = {}

    def measure(scan: discovery.Scan) -> dict[str, Any]:
        entries, looks[scan.name] = detector.measure(scan.path, scan.name, options, scan.brain_mask)
        measured[scan.name] = entries
        return {"status": "done"}

    rows = scan_folder.for_each_scan(
        measure, found, None, single=False, workers=workers, stopped=stopped
    )
    if stopped():
        return None
    if len(measured) < FEWEST:
        failed_rows = [row["message"] for row in rows if row["status"] == "failed"]
        more = f"; and {len(failed_rows) - 3} more" if len(failed_rows) > 3 else ""
        reasons = "; ".join(failed_rows[:3]) + more
        raise errors.UserError(
            f"calibration: found {len(measured)} usable healthy scans, at least {FEWEST} are "
            f"needed (failed: {reasons or 'none'})"
        )
    # Workers end in any order; the file must not depend on it.
    names = sorted(measured)
    healthy = {
        key: calibration_lib.Healthy(tuple(measured[name][key] for name in names))
        for key in measured[names[0]]
    }
    facts = _facts(model, detector, len(names))
    seen = scan_look.collect([looks[name] for name in names])
    calibration = calibration_lib.Calibration(healthy, options, facts, seen)
    failed = sum(row["status"] == "failed" for row in rows)
    return calibration_lib.to_bytes(calibration), len(names), failed


def _facts(model: model_lib.Model, detector: detector_lib.Detector, scans: int) -> dict[str, Any]:
    """What the file says of its own making; a run that takes it checks weights and preparation."""
    first, last = detector.numbers[0], detector.numbers[-1]
    step = detector.numbers[1] - first if len(detector.numbers) > 1 else 1
    return {
        "config": model.parts.record,
        "weights": model.weights,
        "frozen": model.frozen_digests,
        "preparation": detector.preparation.to_dict(),
        "source": f"{scans} healthy scans given by the user",
        "version": model.facts["version"],
        "spacing": list(detector.spacing),
        "numbers": [first, last, step],
    }

"""Which threshold: from a rate of false positives on healthy scans, or as given."""

import dataclasses
from typing import Any

from madad_jax.core import errors, signals
from madad_jax.metrics import calibration as calibration_lib
from madad_jax.metrics import scan_stacks
from madad_jax.predict import detector

RATES = ("voxel_fpr", "false_positives_per_scan", "threshold")


def choose_setting(
    calibration: calibration_lib.Calibration | None,
    *,
    where: str,
    signal: str,
    postprocess: str,
    changes: dict[str, Any],
    rates: dict[str, float | None],
    default_rate: float,
) -> detector.Setting:
    """Signal, post-processing, threshold, and the healthy scans that belong to them.

    Args:
      calibration: of the run; None: it has none.
      where: the run, for messages.
      signal: one of `signals.STORED`.
      postprocess: name of a published setting (`stacks.PRESETS`).
      changes: fields of `stacks.Options` that the user set.
      rates: at most one of `RATES` that is not None.
      default_rate: `voxel_fpr` of a calibrated run when no rate is given.

    Raises:
      UserError: an unknown name, two rates, or a rate without calibration.
    """
    if signal not in signals.STORED:
        accepted = ", ".join(signals.STORED)
        raise errors.UserError(f"signal: found '{signal}', accepted: {accepted}")
    if postprocess not in scan_stacks.PRESETS:
        accepted = ", ".join(scan_stacks.PRESETS)
        raise errors.UserError(f"postprocess: found '{postprocess}', accepted: {accepted}")
    options = dataclasses.replace(scan_stacks.PRESETS[postprocess], **changes)
    # Looked up by value: changes that amount to a published setting are that setting.
    name, healthy = _calibrated(calibration, signal, options)
    given = {key: value for key, value in rates.items() if value is not None}
    if len(given) > 1:
        raise errors.UserError(f"{' and '.join(given)}: give one of them")
    if "threshold" in given:
        value = float(given["threshold"])
        if not 0.0 <= value <= 1.0:
            raise errors.UserError(f"threshold: found {value:g}, accepted: 0 to 1")
        # A threshold needs no healthy scans; the report says so where there are none.
        point = calibration_lib.Point(value, "threshold", value)
    # No default here: a rate of false positives cannot be promised without healthy scans.
    elif healthy is None:
        raise errors.UserError(_how_to_calibrate(calibration, where, signal, options))
    elif "false_positives_per_scan" in given:
        point = healthy.by_false_positives(float(given["false_positives_per_scan"]))
    else:
        point = healthy.by_voxel_fpr(float(given.get("voxel_fpr", default_rate)))
    return detector.Setting(
        signal=signal,
        postprocess=name or ("custom" if changes else postprocess),
        options=options,
        point=point,
        healthy=healthy,
    )


def _calibrated(
    calibration: calibration_lib.Calibration | None, signal: str, options: scan_stacks.Options
) -> tuple[str, calibration_lib.Healthy | None]:
    """(name, healthy scans) of exactly these options; ("", None) when not calibrated."""
    for name, known in calibration.options.items() if calibration else ():
        if known == options and (signal, name) in calibration.healthy:
            return name, calibration.healthy[signal, name]
    return "", None


def _how_to_calibrate(calibration, where: str, signal: str, options: scan_stacks.Options) -> str:
    if calibration is None:
        return (
            f"{where} has no calibration, so that no rate of false positives can be promised; "
            "evaluate it on slices that say where they lie (python -m madad_jax.main "
            f"--mode=evaluate --config=... --workdir={where}), or calibrate it with healthy scans "
            f"(python -m madad_jax predict --mode=calibrate --checkpoint={where} --input=FOLDER "
            f"--output={where}/calibration.npz), or choose a --threshold yourself"
        )
    have = ", ".join(f"{s} with {p}" for s, p in sorted(calibration.healthy))
    changed = ", ".join(f"{k}={v}" for k, v in dataclasses.asdict(options).items() if v)
    return (
        f"signal '{signal}' with {changed or 'no post-processing'} has no calibration (found: "
        f"{have}); calibrate these options with healthy scans (python -m madad_jax predict "
        f"--mode=calibrate --checkpoint={where} --input=FOLDER --output=FILE.npz and the same "
        "options, then --calibration=FILE.npz), or choose a --threshold yourself"
    )

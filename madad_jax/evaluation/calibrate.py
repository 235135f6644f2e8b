"""Calibration of a run on healthy scans: maps of its slices, grouped by scan, to operating points.

Stored as `<run>/calibration.npz` with the config that made the maps; see
`metrics/calibration.py`.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from etils import epath
from jaxtyping import Bool, Float32

from madad_jax.core import atomic_files, errors
from madad_jax.data.sources import record as record_lib
from madad_jax.metrics import calibration as calibration_lib
from madad_jax.metrics import scan_look, scan_stacks
from madad_jax.scans import geometry as geometry_lib

_LOG = logging.getLogger(__name__)

FILE = "calibration.npz"
Calibration = calibration_lib.Calibration  # For rooms that do not know `metrics`.


def from_slices(
    maps: Mapping[str, Float32[np.ndarray, "n H W"]],
    brain: Bool[np.ndarray, "n H W"],
    records: Sequence[Any],
    geometry: geometry_lib.Geometry,
    facts: Mapping[str, Any],
    options: Mapping[str, scan_stacks.Options] | None = None,
    slices: record_lib.Slices | None = None,
) -> calibration_lib.Calibration:
    """Calibrates every signal under every post-processing.

    Args:
      maps: by signal, in [0, 1].
      brain: brain masks.
      records: of the slices, with `subject` and `slice`.
      geometry: where slices lie.
      facts: JSON-able, kept beside.
      options: post-processing by name; the published ones when None.
      slices: the slices themselves, whose looks are kept; None: they are not.
    """
    # All presets at once: the maps are at hand now, and a user chooses the preset only later.
    options = dict(scan_stacks.PRESETS if options is None else options)
    scans = group_by_scan(records)
    numbers = [[records[i].slice for i in order] for order in scans.values()]
    # A new scan must be cut into the same stack, or volumes in ml and counts would not compare.
    first, last, step = stack_numbers(numbers)
    spacing = (step * geometry.level_step, geometry.pixel, geometry.pixel)
    found: dict[calibration_lib.Key, list[calibration_lib.Scan]] = {}
    for subject, order in tqdm.tqdm(scans.items(), desc="calibration", unit="scan"):
        for signal, values in maps.items():
            for name, option in options.items():
                found.setdefault((signal, name), []).append(
                    calibration_lib.measure(subject, values[order], brain[order], spacing, option)
                )
    facts = {**facts, "spacing": list(spacing), "numbers": [first, last, step]}
    healthy = {key: calibration_lib.Healthy(tuple(entries)) for key, entries in found.items()}
    looks = None
    if slices is not None and len(scans) > 1:
        wanted = range(first, last + 1, step)
        looks = scan_look.collect(
            [
                _measure_look(slices, brain, order, records, geometry.pixel, wanted)
                for order in scans.values()
            ]
        )
    return calibration_lib.Calibration(healthy, options, facts, looks)


def _measure_look(
    slices: record_lib.Slices,
    brain: Bool[np.ndarray, "n H W"],
    order: Sequence[int],
    records: Sequence[Any],
    pixel: float,
    wanted: Sequence[int],
) -> scan_look.Look:
    """The look of one scan: its slices `order`, as the slice numbers `wanted`."""
    # Sources give [-1, 1], as networks take it. Of several contrasts the first that is there.
    elements = [slices[i] for i in order]
    first = int(np.argmax(elements[0].get("available", (True,))))
    images = np.stack([one["image"][..., first] for one in elements]) * np.float32(0.5)
    look = scan_look.measure(images + np.float32(0.5), brain[order], pixel)
    return scan_look.place(look, [records[i].slice for i in order], wanted)


def group_by_scan(records: Sequence[Any]) -> dict[str, list[int]]:
    """Places of each subject's slices, in the order of their numbers."""
    scans: dict[str, list[int]] = {}
    for i in sorted(range(len(records)), key=lambda i: (records[i].subject, records[i].slice)):
        scans.setdefault(records[i].subject, []).append(i)
    return scans


def stack_numbers(numbers: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    """(first, last, step) of the slices that scans have: the whole range, the usual step."""
    every = [n for one in numbers for n in one]
    gaps = [g for one in numbers for g in np.diff(sorted(one)).tolist() if g > 0]
    # The median: one slice that failed its checks leaves a gap of two steps and changes nothing.
    step = int(np.median(gaps)) if gaps else 1
    first = min(every)
    # The last number lies on the grid of the first one, which the highest slice need not.
    return first, first + (max(every) - first) // step * step, step


def save(
    workdir: epath.PathLike, calibration: calibration_lib.Calibration, name: str = FILE
) -> None:
    """Writes `<workdir>/<name>`, in one atomic write."""
    atomic_files.write_bytes(epath.Path(workdir) / name, calibration_lib.to_bytes(calibration))


def load(workdir: epath.PathLike, name: str = FILE) -> calibration_lib.Calibration | None:
    """The run's calibration; None when it has none.

    Raises:
      UserError: a damaged file.
    """
    path = epath.Path(workdir) / name
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.UserError(f"{path}: {error.strerror or error}") from error
    return calibration_lib.from_bytes(content, str(path))

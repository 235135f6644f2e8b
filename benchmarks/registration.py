"""Turned heads through the registration, and cut heads through the question "is the skull gone?".

    python -m benchmarks.registration --heads=T1 --brains=SEGMENTATIONS --part=turns --most=20
    python -m benchmarks.registration --heads=T1 --brains=SEGMENTATIONS --part=slabs
    python -m benchmarks.registration --heads=T1 --brains=SEGMENTATIONS --part=upright

`--heads` and `--brains` hold NIfTI files of the same names: whole heads, and what is brain (every
value above 0). `turns` turns each head about its middle, in pitch, roll and yaw, and compares with
the registration of the head as it was; `slabs` cuts heads whose air is 0 at five heights, padded
or not, and strips each brain; `upright` registers each head as it lies. Every input is a line of
`--rows`: the same command goes on where it stopped. `--seconds` ends a part of a long run.
"""

import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import app, flags
from scipy import ndimage

from madad_jax.scans import registration, skull, to_slices, volumes

_HEADS = flags.DEFINE_string("heads", None, "Folder of whole heads.", required=True)
_BRAINS = flags.DEFINE_string("brains", None, "Folder of their brains.", required=True)
_PART = flags.DEFINE_enum("part", "turns", ["turns", "slabs", "upright"], "What is measured.")
_MOST = flags.DEFINE_integer("most", 0, "So many heads, evenly spread; 0 = all.")
_SECONDS = flags.DEFINE_float("seconds", 0.0, "Stop after so long; 0 = at the end.")
_ROWS = flags.DEFINE_string("rows", "/tmp/registration.jsonl", "Finished inputs, one a line.")

ANGLES = (-15, 15, -30, 30, -45, 45, -60, 60, -90, 90, 180)
AXES = {"pitch": 0, "roll": 1, "yaw": 2}
NEAR_MM = 3.0


def read(name: str) -> tuple[volumes.Volume, np.ndarray]:
    """A head and its brain mask."""
    volume = volumes.read(pathlib.Path(_HEADS.value) / name)
    return volume, volumes.read_labels(pathlib.Path(_BRAINS.value) / name, volume) > 0


def turn(volume: volumes.Volume, axis: int, degrees: float) -> np.ndarray:
    """Matrix [4, 4] that turns scanner space about the volume's middle."""
    middle = volume.affine @ np.array([*(np.array(volume.data.shape) - 1) / 2, 1.0])
    matrix, (i, j) = np.eye(4), ((axis + 1) % 3, (axis + 2) % 3)
    angle = np.deg2rad(degrees)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    matrix[:3, 3] = middle[:3] - matrix[:3, :3] @ middle[:3]
    return matrix


def register(volume: volumes.Volume, brain: np.ndarray) -> tuple[np.ndarray | None, dict[str, Any]]:
    """The map, and what a row says of it."""
    start = time.process_time()
    try:
        found = registration.register(volume, "affine", brain=brain)
    except Exception as error:
        return None, {"refused": str(error)[:200]}
    return found.matrix, {
        "seconds": round(time.process_time() - start, 2),
        "overlap": round(found.overlap, 3),
        "agreement": round(found.agreement, 3),
        "rival": round(found.rival, 3),
        "doubts": len(to_slices.find_doubts(found)),
    }


def turns(name: str, done: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of a head at every angle; the error is the mean over the brain, mm."""
    kinds = [f"{axis}{angle:+d}" for axis in AXES for angle in ANGLES]
    if all(f"{name} {kind}" in done for kind in kinds):
        return
    volume, brain = read(name)
    upright, row = register(volume, brain)
    yield {"kind": "upright", **row}
    for axis in AXES if upright is not None else ():
        for angle in ANGLES:
            if f"{name} {axis}{angle:+d}" in done:
                continue
            turned = turn(volume, AXES[axis], angle)
            moved = [
                volumes.from_array(a.astype(np.float32), turned @ volume.affine, source=name)
                for a in (volume.data, brain)
            ]
            inside = moved[1].data > 0
            matrix, row = register(moved[0], inside)
            if matrix is not None:
                points = np.argwhere(inside)[::20]
                points = moved[0].affine @ np.c_[points, np.ones(len(points))].T
                off = (matrix - upright @ np.linalg.inv(turned)) @ points
                lengths = np.linalg.norm(off[:3], axis=0)
                row["mm"] = round(float(lengths.mean()), 2)
                row["most_mm"] = round(float(lengths.max()), 2)
            yield {"kind": f"{axis}{angle:+d}", **row}


def slabs(name: str, done: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of a head with air 0 cut at five heights, padded or not, and of its brain alone."""
    if f"{name} brain, dilated" in done:
        return
    volume, brain = read(name)
    data, sides = volume.data, volume.voxel_mm
    rough = ndimage.gaussian_filter(data, 1.0) > 0.06 * np.percentile(data, 99.0)
    labels, _ = ndimage.label(rough)
    head = ndimage.binary_fill_holes(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
    dark = np.where(head, data, 0.0)
    levels = np.flatnonzero(brain.any((0, 1)))
    # From 2 cm above the brain's base to 3 cm below its top.
    lowest, highest = levels[0] + 20.0 / sides[2], levels[-1] - 30.0 / sides[2]
    for number, level in enumerate(np.linspace(lowest, highest, 5).astype(int)):
        for padding in (0, 8):
            part = np.pad(dark[:, :, level:], padding)
            yield {"kind": f"slab {number}, padded by {padding}", **_ask(part, volume, False)}
    for kind, scale in (("head", 1.0), ("head at 70 %", 0.7)):
        yield {"kind": kind, **_ask(dark, volume, False, scale)}
    for kind, steps in (("brain", 0), ("brain, dilated", 1)):
        mask = ndimage.binary_dilation(brain, iterations=steps) if steps else brain
        # Voxels of 0 inside the brain would be holes.
        only = np.where(mask, np.maximum(data, 1e-3), 0.0)
        yield {"kind": kind, **_ask(only, volume, True)}


def _ask(data: np.ndarray, volume: volumes.Volume, wanted: bool, scale: float = 1.0):
    affine = volume.affine @ np.diag([scale, scale, scale, 1.0])
    scan = volumes.from_array(data.astype(np.float32), affine, source="memory")
    start = time.process_time()
    found = skull.is_stripped(scan)
    return {
        "ml": round(float(np.count_nonzero(data)) * scan.voxel_ml),
        "right": bool(found == wanted),
        "seconds": round(time.process_time() - start, 2),
    }


def upright(name: str, done: set[str]) -> Iterator[dict[str, Any]]:
    """The row of a head as it lies."""
    if f"{name} upright" not in done:
        yield {"kind": "upright", **register(*read(name))[1]}


def summarise(rows: list[dict[str, Any]]) -> str:
    """What the rows of a part come to, in lines."""
    lines = []
    asked = [row for row in rows if "right" in row]
    for kind in sorted({row["kind"] for row in asked}):
        right = [row["right"] for row in asked if row["kind"] == kind]
        lines.append(f"{kind}: {sum(right)} of {len(right)} right")
    found = [row for row in rows if "agreement" in row]
    refused = sum("refused" in row for row in rows)
    turned = [row for row in found if "mm" in row]
    if turned:
        near = sum(row["mm"] <= NEAR_MM for row in turned)
        said = sum(row["mm"] > NEAR_MM and row["doubts"] > 0 for row in turned)
        lines.append(
            f"turned: {near} of {len(turned)} within {NEAR_MM:g} mm, {said} of the others in doubt"
        )
        errors = [row["mm"] for row in turned]
        lines.append(f"  mm: median {np.median(errors):.2f}, most {max(errors):.2f}")
    for name in ("overlap", "agreement", "rival", "seconds") if found else ():
        values = np.array([row[name] for row in found])
        values = values[~np.isnan(values)]  # No rival: every pose climbs to the same.
        lines.append(f"{name}: {values.min():.3f} to {values.max():.3f}, mean {values.mean():.3f}")
    if found or refused:
        doubted = sum(row["doubts"] > 0 for row in found)
        lines.append(f"registrations: {len(found)}, in doubt {doubted}, refused {refused}")
    return "\n".join(lines)


def main(_) -> None:
    """Does what is not done yet of the part, and says what it came to."""
    path, start = pathlib.Path(_ROWS.value), time.monotonic()
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [row for row in rows if row["part"] == _PART.value]
    done = {f"{row['head']} {row['kind']}" for row in rows}
    names = sorted(p.name for p in pathlib.Path(_HEADS.value).glob("*.nii*"))
    if _MOST.value:
        names = names[:: max(1, len(names) // _MOST.value)][: _MOST.value]
    with path.open("a") as file:
        for name in names:
            for row in globals()[_PART.value](name, done):
                row = {"part": _PART.value, "head": name, **row}
                if f"{name} {row['kind']}" not in done:
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                if _SECONDS.value and time.monotonic() - start > _SECONDS.value:
                    print(f"stopped at {name}; the same command goes on")
                    print(summarise(rows))
                    return
    print(summarise(rows))


if __name__ == "__main__":
    app.run(main)

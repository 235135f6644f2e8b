"""Synthetic scans of a real size, and what preparing them takes.

Scans of the ICBM152 brain (182 x 218 x 182 voxels of 1 mm, 16-bit, gzip), each with its own noise,
size, position and axis order, a third with a lesion.
"""

import hashlib
import pathlib
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
from scipy import ndimage

from benchmarks.speed import machine

TABLE = """
title: synthetic scans
licence: none (ICBM152 from nilearn)
images: {T1: '{id}_T1{nii}'}
segmentation: '{id}_seg{nii}'
options: {registration: affine, brain_mask: nonzero}
"""
CODES = ("RAS", "LPS", "PSR", "AIL")


def write_scans(folder: pathlib.Path, count: int) -> None:
    """Scans that differ in all that a scanner changes."""
    from nilearn import datasets

    image = datasets.load_mni152_template(resolution=1)
    mask = datasets.load_mni152_brain_mask(resolution=1)
    data = np.asarray(image.dataobj, np.float32) * (np.asarray(mask.dataobj) > 0)
    for k in range(count):
        rng = np.random.default_rng(k)
        angles, scale = np.deg2rad(rng.normal(0, 6, 3)), np.exp(rng.normal(0, 0.05))
        turn = np.eye(3)
        for axis, angle in enumerate(angles):
            i, j = (axis + 1) % 3, (axis + 2) % 3
            step = np.eye(3)
            step[i, i] = step[j, j] = np.cos(angle)
            step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
            turn = turn @ step
        matrix = turn * scale
        shape = np.array((182, 218, 182))
        offset = (np.array(data.shape) - 1) / 2 - matrix @ ((shape - 1) / 2) + rng.normal(0, 4, 3)
        scan = ndimage.affine_transform(data, matrix, offset, output_shape=tuple(shape), order=1)
        brain = scan > 0.1
        noisy = np.where(brain, scan * 900 + rng.normal(0, 15, scan.shape) + 60, 0)
        affine = np.eye(4)
        affine[:3, 3] = (-90.0, -126.0, -72.0)
        pieces = {"T1": noisy.clip(0)}
        if k % 3 == 0:
            centre = np.array((60, 120, 95)) + rng.integers(-10, 10, 3)
            index = np.indices(scan.shape)
            away = sum((index[a] - centre[a]) ** 2 for a in range(3))
            pieces["seg"] = (away <= rng.integers(6, 14) ** 2) & brain
        for kind, array in pieces.items():
            volume = nib.Nifti1Image(array.astype(np.int16), affine)
            order = nib.orientations.ornt_transform(
                nib.orientations.io_orientation(affine),
                nib.orientations.axcodes2ornt(CODES[k % len(CODES)]),
            )
            nib.save(volume.as_reoriented(order), folder / f"scan{k:04d}_{kind}.nii.gz")


def prepare(
    folder: pathlib.Path, out: pathlib.Path, workers: int, protocol: str
) -> tuple[float, int, str]:
    """(seconds with the start of the processes, largest resident bytes of one, digest of all
    that was written).

    Raises RuntimeError when the preparation fails.
    """
    start = time.monotonic()
    arguments = [
        *(sys.executable, "-m", "madad_jax.prepare", "--cohort=folder"),
        *(f"--cohort_file={folder / 'table.yaml'}", f"--in={folder}", f"--out={out}"),
        *(f"--protocol={protocol}", f"--workers={workers}"),
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max([peak, *(machine.peak_bytes(pid) for pid in _children(process.pid))])
        time.sleep(0.1)
    seconds = time.monotonic() - start
    if process.returncode:
        raise RuntimeError(f"the preparation ended with status {process.returncode}")
    digest = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return seconds, peak, digest.hexdigest()[:12]


def _children(parent: int) -> list[int]:
    found = [parent]
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found

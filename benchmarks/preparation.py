"""Throughput and memory of the preparation, on synthetic scans of a real size.

    python -m benchmarks.preparation --count=100 --out=benchmarks/results/preparation.md

Writes `count` scans of the ICBM152 brain (182 x 218 x 182 voxels of 1 mm, 16-bit, gzip; each
with its own noise, size, position and axis order, a third with a lesion) into a temporary
folder, prepares them with 1, 2, ... processes, and checks that every run leaves the same bytes.
"""

import argparse
import hashlib
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time

import nibabel as nib
import numpy as np
from scipy import ndimage

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


def run(folder: pathlib.Path, out: pathlib.Path, workers: int, protocol: str):
    """(seconds, largest resident memory of a process in MB, digest of the output)."""
    start = time.monotonic()
    arguments = [
        *(sys.executable, "-m", "madad_jax.data.prepare", "--cohort=folder"),
        *(f"--cohort_file={folder / 'table.yaml'}", f"--in={folder}", f"--out={out}"),
        *(f"--protocol={protocol}", f"--workers={workers}"),
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max([peak, *(_resident(pid) for pid in _children(process.pid))])
        time.sleep(0.1)
    seconds = time.monotonic() - start
    if process.returncode:
        raise SystemExit(f"the preparation ended with status {process.returncode}")
    digest = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return seconds, peak, digest.hexdigest()[:12]


def _children(parent: int) -> list[int]:
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def _resident(pid: int) -> int:
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+)", text)
    return int(match[1]) // 1024 if match else 0


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--workers", default="1,2", help="process counts, with commas")
    parser.add_argument("--protocols", default="s2,volume")
    parser.add_argument("--out", default="benchmarks/results/preparation.md")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="preparation-") as place:
        folder = pathlib.Path(place) / "in"
        folder.mkdir()
        write_scans(folder, options.count)
        (folder / "table.yaml").write_text(TABLE)
        for protocol in options.protocols.split(","):
            digests = set()
            for workers in map(int, options.workers.split(",")):
                out = pathlib.Path(place) / f"{protocol}-{workers}"
                seconds, peak, digest = run(folder, out, workers, protocol)
                digests.add(digest)
                rate = 60 * options.count / seconds
                rows.append(
                    f"| {protocol} | {workers} | {seconds:.0f} | {rate:.1f} | "
                    f"{rate / workers:.1f} | {peak} | {digest} |"
                )
                print(rows[-1], flush=True)
            if len(digests) > 1:
                raise SystemExit(f"{protocol}: the output depends on the number of processes")
    load = os.getloadavg()[1]
    text = f"""# Preparation: throughput and memory

`python -m benchmarks.preparation --count={options.count} --workers={options.workers} \
--protocols={options.protocols}` on {os.cpu_count()} CPU cores ({platform.machine()}), load \
average {load:.1f} at the end (above the number of processes, others were using the machine).
{options.count} synthetic scans of 182 x 218 x 182 voxels, affine registration, 256 px; start of \
the processes included. The digest is over every byte of the output: it must not depend on the \
number of processes.

| protocol | processes | seconds | scans a minute | per process | peak MB of a process | digest |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
"""
    pathlib.Path(options.out).write_text(text + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()

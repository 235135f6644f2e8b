"""Lesions painted in 3-D on whole healthy heads, before preparation: heads with an exact truth.

    python -m benchmarks.paint_lesions --in=HEADS --segmentation=PARCELLATIONS --out=OUT --seed=2 \
        --ids='IXI..2-'
    python -m benchmarks.paint_lesions ... --ids=IXI610 --kinds=tumour --ml=8,15 --most=1

HEADS holds T1 heads `{id}.nii.gz`, PARCELLATIONS a file of the same name and grid for each. OUT
gets `{id}.nii.gz` on the head's own grid, type and slope, `{id}_lesions.nii.gz` (1, 2, ... for each
lesion) and `lesions.csv`. What is drawn: `benchmarks/painted/kinds.py`. Truth is where the
brightness changed visibly (`painted.drawing.visible`): by 0.35 of the contrast of white and grey
matter, averaged over a voxel. For a tumour the change is taken against the tissue that was pushed
there: truth is mass and oedema, not what moved aside.

Which kinds and volumes a head gets depends on the seed and the set of heads; the drawing on the
seed and the head's id. The same command writes the same bytes, in any order of heads.
"""

import argparse
import csv
import gzip
import io
import pathlib
import re
import sys
import time

import nibabel as nib
import numpy as np
from etils import epath

from benchmarks.painted import painter, tissues
from madad_jax.core import atomic_files, errors
from madad_jax.scans import volumes

COLUMNS = (
    "id", "lesion", "kind", "volume_ml", "asked_ml", "x_mm", "y_mm", "z_mm", "contrast", "seed"
)  # fmt: skip
_ENDINGS = (".nii.gz", ".nii")


def find_heads(folder: pathlib.Path, parcellations: pathlib.Path, pattern: str) -> dict[str, str]:
    """{id: file name} of the heads whose id the pattern finds; each has a parcellation.

    Raises:
      UserError: no head, or a head without its parcellation.
    """
    heads = {}
    for path in sorted(folder.glob("*.nii*")):
        name = next((path.name[: -len(end)] for end in _ENDINGS if path.name.endswith(end)), "")
        if name and re.search(pattern, name):
            heads[name] = path.name
    if not heads:
        raise errors.UserError(f"'{folder}': no NIfTI file whose name has '{pattern}' (--ids)")
    for file in heads.values():
        if not (parcellations / file).exists():
            raise errors.UserError(
                f"'{parcellations / file}' is missing: every head needs its parcellation, of the "
                "same file name"
            )
    return heads


def paint_file(
    head: pathlib.Path,
    parcellation: pathlib.Path,
    out: pathlib.Path,
    name: str,
    wishes: list[painter.Wish],
    seed: int,
) -> list[dict[str, object]]:
    """Writes a head and its map of lesions; the rows of the table.

    Raises:
      UserError: a file that cannot be read, grids that differ, a parcellation of other numbers.
    """
    volume = volumes.read(head)
    labels = volumes.read_labels(parcellation, volume).astype(np.int16)
    voxel_mm = tuple(float(side) for side in volume.voxel_mm)
    before, level = tissues.measure(volume.data, labels, voxel_mm, parcellation.name)
    image, truth, lesions = painter.paint_head(before, wishes, name, seed)
    source = nib.load(head)
    changed = volumes.to_native(image != before.image, volume)
    stored = store(volumes.to_native(image * level, volume), changed, source)
    atomic_files.write_bytes(out / f"{name}.nii.gz", packed(stored, source))
    volumes.write_nifti(out / f"{name}_lesions.nii.gz", truth, like=volume)
    rows = []
    for number, lesion in enumerate(lesions, 1):
        x, y, z = (volume.affine @ np.array([*lesion.centre, 1.0]))[:3]
        figures = (lesion.ml, lesion.asked_ml, x, y, z, lesion.contrast)
        row = (name, number, lesion.kind, *(round(float(f), 3) for f in figures), lesion.seed)
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def store(painted: np.ndarray, changed: np.ndarray, source: nib.Nifti1Image) -> np.ndarray:
    """The file's stored numbers, with painted intensities where something changed."""
    raw = np.asanyarray(source.dataobj.get_unscaled())
    numbers = (painted[changed] - source.dataobj.inter) / source.dataobj.slope
    if raw.dtype.kind in "iu":
        limits = np.iinfo(raw.dtype)
        numbers = np.clip(np.rint(numbers), limits.min, limits.max)
    stored = raw.copy()
    stored[changed] = numbers.astype(raw.dtype)
    return stored


def packed(stored: np.ndarray, source: nib.Nifti1Image) -> bytes:
    """A gzip-packed file with the header of `source`: same grid, type, slope, codes."""
    # `None` for the affine: both matrices and their codes stay as they stand in the header.
    image = type(source)(stored, None, source.header)
    # nibabel forgets the slope, and stores numbers as they are only where one is set.
    image.header.set_slope_inter(source.dataobj.slope, source.dataobj.inter)
    return gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)


def write_table(path: pathlib.Path, rows: list[dict[str, object]]) -> None:
    """All lesions as CSV, sorted as the heads."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_files.write_bytes(path, text.getvalue().encode())


def read_table(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows that `write_table` wrote.

    Raises:
      UserError: another table, or none.
    """
    text = atomic_files.read_bytes(epath.Path(path)).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    if any(set(row) != set(COLUMNS) for row in rows):
        raise errors.UserError(f"'{path}': found other columns; accepted: {', '.join(COLUMNS)}")
    return rows


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags, checked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--in", dest="heads", type=pathlib.Path, required=True)
    parser.add_argument("--segmentation", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ids", default="", help="regular expression, searched in the id")
    parser.add_argument("--kinds", default=",".join(painter.ML))
    parser.add_argument("--ml", default="", help="LOW,HIGH for every kind, in place of its own")
    parser.add_argument("--most", type=int, default=4, help="kinds a head, 1 to this many")
    flags = parser.parse_args(argv)
    flags.kinds = flags.kinds.split(",")
    if unknown := sorted(set(flags.kinds) - set(painter.ML)):
        raise errors.UserError(f"--kinds: no '{unknown[0]}'; accepted: {', '.join(painter.ML)}")
    try:
        flags.ml = tuple(float(part) for part in flags.ml.split(",")) if flags.ml else None
        if flags.ml and not (len(flags.ml) == 2 and 0 < flags.ml[0] <= flags.ml[1]):
            raise ValueError
    except ValueError:
        raise errors.UserError(
            "--ml: two volumes in ml are accepted, the smaller first: 8,15"
        ) from None
    if not 1 <= flags.most <= len(painter.ML):
        raise errors.UserError(f"--most={flags.most}; accepted: 1 to {len(painter.ML)}")
    return flags


def main(argv: list[str] | None = None) -> int:
    """Paints every head, then writes the table."""
    try:
        flags = parse(argv)
        heads = find_heads(flags.heads, flags.segmentation, flags.ids)
        wishes = painter.plan(list(heads), flags.seed, flags.kinds, flags.ml, flags.most)
        rows = []
        for name, file in heads.items():
            start = time.process_time()
            paths = (flags.heads / file, flags.segmentation / file, flags.out)
            made = paint_file(*paths, name, wishes[name], flags.seed)
            rows += made
            seconds = time.process_time() - start
            left_out = len(wishes[name]) - len(made)
            told = f"; {left_out} found no place" if left_out else ""
            print(f"{name}: {len(made)} lesions, {seconds:.1f} s of CPU{told}", flush=True)
        write_table(flags.out / "lesions.csv", rows)
    except errors.UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

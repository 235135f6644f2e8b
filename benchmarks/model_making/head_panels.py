"""Panels of painted heads as `predict` shows them, small enough for the docs.

    python -m benchmarks.model_making.head_panels --heads=PAINTED --checkpoint=ixi-t1 --out=DIR

PAINTED is what `paint_lesions` wrote. Heads are spread evenly over the ids, never picked by score.
A row is the slice on which a lesion is largest: scan, reconstruction, map, candidates, truth. OUT
gets a PNG a head and `pictures.json`, which says of each lesion whether a candidate lies on it.
"""

import argparse
import io
import json
import pathlib
import sys
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from benchmarks import paint_lesions
from madad_jax.core import atomic_files, errors
from madad_jax.metrics import scan_figures
from madad_jax.scans import volumes

INDEX = "pictures.json"
MOST_BYTES = 150_000
_ROWS = 3  # lesions of a head that have a row, largest first
_SCALES = (1.0, 0.85, 0.7, 0.55, 0.4)


def choose_heads(folder: pathlib.Path, count: int) -> list[str]:
    """Ids spread evenly over those of a folder of painted heads.

    Raises:
      UserError: no painted head.
    """
    names = sorted(path.name.removesuffix("_lesions.nii.gz") for path in folder.glob("*_lesions.*"))
    if not names:
        raise errors.UserError(f"'{folder}': no painted head; accepted: --out of paint_lesions")
    which = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[i] for i in np.unique(which)]


def choose_levels(truth: np.ndarray, rows: int = _ROWS) -> list[int]:
    """Slices to show, rising: of each of the largest lesions the one with most of it.

    Args:
      truth: int [X, Y, Z], the lesion's number.
      rows: at most so many.
    """
    counts = np.bincount(truth.ravel())[1:]
    largest = [i + 1 for i in np.argsort(-counts, kind="stable") if counts[i]][:rows]
    return sorted({int((truth == number).sum((0, 1)).argmax()) for number in largest})


def found_lesions(truth: np.ndarray, labels: np.ndarray) -> dict[int, bool]:
    """{lesion: whether candidates cover the share of it that counts as found}."""
    share = scan_figures.FOUND_SHARE
    numbers = np.unique(truth)
    return {int(n): bool((labels[truth == n] > 0).mean() >= share) for n in numbers if n}


def as_picture(volume: np.ndarray, levels: list[int]) -> np.ndarray:
    """[X, Y, Z] in RAS+ as slices [k, H, W]: front at the top, left on the left."""
    return np.stack([volume[:, ::-1, k].T for k in levels])


def draw(path: pathlib.Path, result: Any, truth: np.ndarray, title: str) -> None:
    """The panel of a scan.

    Args:
      path: PNG to write.
      result: of `Detector`.
      truth: int [X, Y, Z] on the scan's canonical grid.
      title: of each row, before the slice's number.
    """
    from madad_jax.evaluation import pictures

    levels = choose_levels(truth)
    data, made = result.volume.data, result.reconstruction
    top = float(np.percentile(data[data > 0], 99.5))
    grey = [as_picture(np.clip(v / top, 0, 1) * 2 - 1, levels)[..., None] for v in (data, made)]
    # Candidates and not all that the map has above the threshold: what the user is told.
    maps = as_picture(result.anomaly, levels)
    pictures.panels(
        epath.Path(path),
        *(part.astype(np.float32) for part in grey),
        maps.astype(np.float32),
        result.summary["operating_point"]["threshold"],
        as_picture(truth > 0, levels),
        [f"{title}\nslice {k + 1}" for k in levels],
    )
    shrink(path)


def shrink(path: pathlib.Path, most: int = MOST_BYTES) -> None:
    """Makes a PNG of at most `most` bytes: 256 colours, and as many pixels as fit."""
    with Image.open(path) as file:
        whole = file.convert("RGB")
    for scale in _SCALES:
        size = [max(1, round(side * scale)) for side in whole.size]
        content = io.BytesIO()
        picture = whole.resize(size, Image.Resampling.LANCZOS) if scale < 1 else whole
        # By coverage: the median cut spends its colours on grey, and found lesions lose their blue.
        picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        picture.save(content, format="PNG", optimize=True)
        if len(content.getvalue()) <= most:
            atomic_files.write_bytes(epath.Path(path), content.getvalue())
            return
    raise errors.UserError(f"'{path}': larger than {most} bytes however small")


def draw_all(heads: pathlib.Path, checkpoint: str, out: pathlib.Path, count: int) -> list[dict]:
    """Draws; the entries of `pictures.json`.

    Raises:
      UserError: no painted head, or no model.
    """
    import madad_jax

    chosen = choose_heads(heads, count)
    rows = paint_lesions.read_table(heads / "lesions.csv")
    detector = madad_jax.load(checkpoint)
    entries = []
    for name in chosen:
        result = detector(str(heads / f"{name}.nii.gz"))
        labels = volumes.read_labels(heads / f"{name}_lesions.nii.gz", result.volume)
        truth = np.rint(labels).astype(np.int32)
        draw(out / f"{name}.png", result, truth, name)
        hits = found_lesions(truth, result.labels)
        lesions = [
            {
                "kind": row["kind"],
                "volume_ml": float(row["volume_ml"]),
                "hit": hits.get(int(row["lesion"]), False),
            }
            for row in rows
            if row["id"] == name
        ]
        entries.append({"head": name, "file": f"{name}.png", "lesions": lesions})
        print(f"{name}: {sum(x['hit'] for x in lesions)} of {len(lesions)} lesions", flush=True)
    text = json.dumps({"pictures": entries}, indent=1) + "\n"
    atomic_files.write_text(epath.Path(out) / INDEX, text)
    return entries


def main(argv: list[str] | None = None) -> int:
    """Draws the panels."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--heads", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--panels", type=int, default=6)
    flags = parser.parse_args(argv)
    try:
        draw_all(flags.heads, flags.checkpoint, flags.out, flags.panels)
    except errors.UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

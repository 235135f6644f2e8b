"""One picture from which a person sees whether orientation, masks and intensities are right."""

import hashlib
import io
from typing import Any

import matplotlib
import numpy as np
from etils import epath
from matplotlib import figure

from madad_jax.data.sources import png_folder
from madad_jax.prepare import output
from madad_jax.scans import geometry as geometry_lib

_COLUMNS, _ROWS = 6, 4
_INCHES, _TITLE = 2.1, 0.3
_BRAIN, _LESION = "#39c0ff", "#ff4040"


def draw(
    out: epath.Path, rows: tuple[dict[str, Any], ...], geometry: geometry_lib.Geometry
) -> bytes:
    """Random slices with brain (blue) and lesion (red) outlined, as a PNG; b"" without slices.

    Args:
      out: the prepared folder.
      rows: of its manifest.
      geometry: says which side is left.
    """
    chosen = pick(rows, _COLUMNS * _ROWS)
    if not chosen:
        return b""
    count = -(-len(chosen) // _COLUMNS)
    height = _INCHES + _TITLE
    # Not pyplot, which keeps every figure and asks for a display.
    sheet = figure.Figure(figsize=(_COLUMNS * _INCHES, count * height), facecolor="black")
    axes = []
    for k in range(len(chosen)):
        row, column = divmod(k, _COLUMNS)
        place = (column / _COLUMNS, 1 - ((row + 1) * height - 0.02) / (count * height))
        axes.append(sheet.add_axes((*place, 0.97 / _COLUMNS, _INCHES * 0.97 / (count * height))))
        axes[-1].set_axis_off()
    other = "R" if geometry.left == "left" else "L"
    mine = "L" if other == "R" else "R"
    for axis, row in zip(axes, chosen, strict=True):
        stem = row["file"].removesuffix(f"-{row['modality']}.png")
        image = png_folder.read_grey(out / row["file"])
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for kind, colour in (("brainmask", _BRAIN), ("segmentation", _LESION)):
            path = out / f"{stem}-{kind}.png"
            mask = png_folder.read_grey(path) > 0 if path.exists() else np.zeros((2, 2), bool)
            # matplotlib warns at the contour of a constant.
            if mask.any() and not mask.all():
                axis.contour(mask, levels=[0.5], colors=colour, linewidths=0.7)
        axis.set_title(
            f"{_short(row['scan'])} {row['modality']}\n{row['split']}, slice {row['slice']}, "
            f"z {row['level_mm']:+.0f} mm",
            color="white",
            fontsize=6,
            pad=2,
        )
        for text, x, y in ((mine, 0.05, 0.5), (other, 0.95, 0.5), ("A", 0.5, 0.97)):
            axis.text(x, y, text, color="#ffd24a", fontsize=6, transform=axis.transAxes,
                      ha="center", va="center")  # fmt: skip
    content = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 130}):
        # Without the library's version in it: the same slices give the same bytes.
        sheet.savefig(content, format="png", facecolor="black", metadata={"Software": None})
    return content.getvalue()


def pick(rows: tuple[dict[str, Any], ...], count: int) -> list[dict[str, Any]]:
    """Up to `count` rows, at random but always the same: every split, lesions first in half."""
    # A hash and no generator: a slice keeps its place when other scans join.
    order = sorted(rows, key=lambda row: hashlib.sha256(row["file"].encode()).digest())
    groups = [[row for row in order if row["split"] == split] for split in output.SPLITS]
    groups = [_mixed(group) for group in groups if group]
    chosen = []
    while len(chosen) < count and any(groups):
        for group in groups:
            if group and len(chosen) < count:
                chosen.append(group.pop(0))
    return sorted(chosen, key=lambda row: (output.SPLITS.index(row["split"]), row["file"]))


def _mixed(group: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Slices with and without lesion in turn."""
    sick = [row for row in group if row["lesion_pixels"]]
    well = [row for row in group if not row["lesion_pixels"]]
    mixed = [row for pair in zip(sick, well, strict=False) for row in pair]
    return mixed + sick[len(well) :] + well[len(sick) :]


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:11]}..{name[-11:]}"

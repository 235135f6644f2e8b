"""One picture from which a person sees whether orientation, masks and intensities are right."""

import hashlib
from typing import Any

from etils import epath

from madad_jax.data.sources import png_folder
from madad_jax.prepare import output
from madad_jax.prepare import panels as panels_lib
from madad_jax.scans import geometry as geometry_lib

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
    other = "R" if geometry.left == "left" else "L"
    mine = "L" if other == "R" else "R"
    panels = []
    for row in pick(rows, panels_lib.COLUMNS * panels_lib.ROWS):
        stem = row["file"].removesuffix(f"-{row['modality']}.png")
        masks = [
            (png_folder.read_grey(path) > 0, colour)
            for kind, colour in (("brainmask", _BRAIN), ("segmentation", _LESION))
            if (path := out / f"{stem}-{kind}.png").exists()
        ]
        title = (
            f"{panels_lib.shorten_name(row['scan'])} {row['modality']}\n{row['split']}, slice "
            f"{row['slice']}, z {row['level_mm']:+.0f} mm"
        )
        image = png_folder.read_grey(out / row["file"])
        panels.append(panels_lib.Panel(image, title, tuple(masks), (mine, other, "A")))
    return panels_lib.draw_panels(panels)


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

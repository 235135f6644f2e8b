"""Pictures of the page that need no viewer: axial slices, and where the scan stands."""

import html as html_lib
import io
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

_COLUMNS, _ROWS = 4, 2
CELL = (270, 306)  # px of a slice and its title
TITLE, _MARGIN = 22, 6  # px: a title's height; left free around a slice
FONT = 12  # px
_SQUARE = np.ones((3, 3), bool)


def draw_slices(result: Any) -> bytes:
    """PNG of axial slices with candidates outlined in black on white, readable without colour.

    Slices of the largest candidates first, then even ones, in order of height.
    """
    data, labels = result.volume.data, result.labels
    x, y, _ = result.volume.voxel_mm
    some = data[data != 0]
    low, high = min(0.0, float(some.min())), float(np.percentile(some, 99.5))
    canvas = Image.new("L", (_COLUMNS * CELL[0], _ROWS * CELL[1]), 255)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT)
    for place, k in enumerate(_choose_levels(result, _COLUMNS * _ROWS)):
        left, top = place % _COLUMNS * CELL[0], place // _COLUMNS * CELL[1]
        unit = (data[:, :, k] - low) / max(high - low, 1e-6)
        picture = draw_slice(unit, labels[:, :, k] > 0, y / x)
        room = CELL[0] - picture.width, CELL[1] - TITLE - picture.height
        canvas.paste(picture, (left + room[0] // 2, top + TITLE + room[1] // 2))
        numbers = np.unique(labels[:, :, k])[1:]
        title = f"slice {k + 1}" + (
            f": candidate {', '.join(map(str, numbers[:6]))}" * bool(len(numbers))
        )
        # On the picture, wherever in its cell that came to lie.
        middle = left + CELL[0] / 2, top + TITLE + room[1] // 2 - 4
        pen.text(middle, title, fill=0, font=font, anchor="ms")
    content = io.BytesIO()
    canvas.save(content, format="png")
    return content.getvalue()


def draw_slice(
    unit: Float32[np.ndarray, "X Y"], inside: Bool[np.ndarray, "X Y"], aspect: float
) -> Image.Image:
    """One slice over [0, 1], as large as its cell allows; y upwards.

    Args:
      unit: values.
      inside: what is outlined.
      aspect: a voxel's length along y over that along x.
    """
    grey = np.round(255 * np.clip(unit.T[::-1], 0.0, 1.0)).astype(np.uint8)
    height, width = grey.shape
    free = CELL[0] - 2 * _MARGIN, CELL[1] - TITLE - _MARGIN
    scale = min(free[0] / width, free[1] / (height * aspect))
    size = max(1, round(scale * width)), max(1, round(scale * height * aspect))
    pixels = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
    if inside.any() and not inside.all():
        mask = Image.fromarray(np.where(inside.T[::-1], np.uint8(255), np.uint8(0)))
        # A pixel that meets a voxel of a candidate belongs to it: none is too small to be seen.
        seen = np.array(mask.resize(size, Image.Resampling.BOX)) > 0
        line = seen & ~ndimage.binary_erosion(seen, _SQUARE, border_value=1)
        # White on black shows on any grey, and to who cannot tell colours.
        pixels[ndimage.binary_dilation(line, _SQUARE)] = 0
        pixels[line] = 255
    return Image.fromarray(pixels)


def _choose_levels(result: Any, count: int) -> list[int]:
    """Slices of the scan's canonical grid to show, rising."""
    # Candidates come largest first, and several may lie on one slice.
    chosen = list(dict.fromkeys(p["voxel"][2] for p in result.candidates))[:count]
    scored = np.flatnonzero((result.reconstruction != 0).any(axis=(0, 1)))
    if len(scored) and len(chosen) < count:
        even = scored[np.linspace(0, len(scored) - 1, count).round().astype(int)].tolist()
        chosen += [k for k in even if k not in chosen][: count - len(chosen)]
    return sorted(set(chosen))


def draw_healthy_range(healthy: Any, score: dict[str, Any]) -> str:
    """An SVG with the healthy scans' scores, a dot each, and this scan's as a triangle."""
    if healthy is None:
        return (
            "<p>The run is not calibrated: nothing is known of healthy scans. Evaluate the run on "
            "prepared slices, or calibrate it with healthy scans of your own.</p>"
        )
    values = np.sort([s.score for s in healthy.scans])
    own = score["score"]
    low, high = min(values[0], own), max(values[-1], own)
    # Equal scores would leave an axis without length.
    margin = 0.06 * (high - low) + 1e-3
    low, high = max(0.0, low - margin), high + margin

    def x_of(value: float) -> float:
        return 30 + 640 * (value - low) / (high - low)

    dots = "".join(
        f'<circle cx="{x_of(v):.1f}" cy="{62 - 7 * (i % 4)}" r="4" fill="none" stroke="#16181d"/>'
        for i, v in enumerate(values)
    )
    ticks = "".join(
        f'<line x1="{x_of(t):.1f}" y1="74" x2="{x_of(t):.1f}" y2="80" stroke="#16181d"/>'
        f'<text x="{x_of(t):.1f}" y="95" text-anchor="middle">{t:.3f}</text>'
        for t in np.linspace(low, high, 5)
    )
    caption = (
        f"Scores of {len(values)} healthy scans, {values[0]:.3f} to {values[-1]:.3f}; this scan "
        f"{own:.3f}, percentile {score['percentile']:.0f} among them"
    )
    x, side = x_of(own), "end" if x_of(own) > 500 else "start"
    return (
        f'<svg role="img" viewBox="0 0 700 104" width="700" font-size="13" '
        f'aria-label="{html_lib.escape(caption)}">'
        f'<line x1="30" y1="74" x2="670" y2="74" stroke="#16181d"/>{ticks}{dots}'
        f'<path d="M{x:.1f} 72 l-8 -16 h16 z" fill="#16181d"/>'
        f'<line x1="{x:.1f}" y1="56" x2="{x:.1f}" y2="22" stroke="#16181d"/>'
        f'<text x="{x + (-6 if side == "end" else 6):.1f}" y="20" text-anchor="{side}" '
        f'font-weight="700">this scan: {own:.3f}</text></svg>'
        f"<p>{html_lib.escape(caption)}. Circles: healthy scans.</p>"
    )

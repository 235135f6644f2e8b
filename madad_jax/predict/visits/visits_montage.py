"""The page's picture: axial slices halfway, first visit, second visit and difference in a row."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from madad_jax.predict import montage
from madad_jax.predict.visits import halfway

_ROWS = 5
_LEAST_TOP = 0.1  # of the difference: what is smaller must not look large
_TITLES = ("first visit", "second visit", "second - first")


def draw(comparison: halfway.Comparison) -> bytes:
    """PNG; places are outlined in black on white, readable without colour."""
    levels = choose_levels(comparison, _ROWS)
    width, height = montage.CELL
    canvas = Image.new("L", (3 * width, max(1, len(levels)) * height), 255)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(montage.FONT)
    units = [scale(scan) for scan, scale in zip(comparison.scans, comparison.scales, strict=True)]
    units.append(_shade(comparison))
    masks = [part.mask for part in comparison.maps]
    masks.append(comparison.numbers > 0)
    for row, k in enumerate(levels):
        z = comparison.grid.affine[2, 3] + k * comparison.side
        for column in range(3):
            inside = masks[column][:, :, k]
            picture = montage.draw_slice(units[column][:, :, k], inside, 1.0)
            left, top = column * width, row * height
            room = width - picture.width, height - montage.TITLE - picture.height
            canvas.paste(picture, (left + room[0] // 2, top + montage.TITLE + room[1] // 2))
            places = np.unique(comparison.numbers[:, :, k][inside])
            named = f": place {', '.join(map(str, places[:5]))}" * bool(len(places))
            title = f"{_TITLES[column]}, z {z:.0f}{named}"
            middle = left + width / 2, top + montage.TITLE + room[1] // 2 - 4
            pen.text(middle, title, fill=0, font=font, anchor="ms")
    content = io.BytesIO()
    canvas.save(content, format="png")
    return content.getvalue()


def describe_key(comparison: halfway.Comparison) -> str:
    """What the greys of the difference mean."""
    return (
        "Subject's left is on the left; z in mm halfway. Outlined: above the threshold, numbered "
        "as in the table. Difference of the maps: middle grey no change, white "
        f"+{_find_top(comparison):.2f} and more, black -{_find_top(comparison):.2f}; "
        "white around: not scored in both."
    )


def choose_levels(comparison: halfway.Comparison, count: int) -> list[int]:
    """Slices to show, rising: those of the places that changed most, then even ones."""
    order = sorted(
        range(len(comparison.places)),
        key=lambda k: -abs(np.subtract(*comparison.places[k].voxels)),
    )
    chosen: list[int] = []
    shown: set[int] = set()
    for k in order:
        level = comparison.places[k].voxel[2]
        # A large place is seen on the slices of its neighbours.
        if k + 1 not in shown and level not in chosen and len(chosen) < count:
            chosen.append(level)
            shown |= set(np.unique(comparison.numbers[:, :, level]).tolist())
    scored = np.flatnonzero(comparison.both.any(axis=(0, 1)))
    if len(scored) and len(chosen) < count:
        even = scored[np.linspace(0, len(scored) - 1, count + 2).round().astype(int)[1:-1]]
        chosen += [int(k) for k in even if k not in chosen][: count - len(chosen)]
    return sorted(set(chosen))


def _find_top(comparison: halfway.Comparison) -> float:
    return max(_LEAST_TOP, float(np.abs(comparison.difference).max()))


def _shade(comparison: halfway.Comparison) -> np.ndarray:
    """The difference over [0, 1], middle grey for none."""
    unit = 0.5 + 0.5 * comparison.difference / np.float32(_find_top(comparison))
    return np.where(comparison.both, unit, np.float32(1.0)).astype(np.float32)

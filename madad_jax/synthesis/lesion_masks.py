"""Masks of lesions from those of a few examples: deformed, turned, mirrored and placed in a brain.

A lesion is one connected component of an example's segmentation. Each drawn mask is one of them:

    elastic     p + G_s * U(-1, 1) a          a up to `elastic` of its size
    affine      turned by up to `turn` degrees, scaled by `least_scale` to `most_scale`
    mirror      left for right, for a half
    shift       any that leaves 90 % of it inside the brain, each as likely

On the host, in numpy: a mask costs less than a millisecond. No second network draws masks, which
is where this differs from AnomalyDiffusion (Hu et al., AAAI 2024, arXiv 2312.05767).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from madad_jax.core import errors

IN_BRAIN = 0.9  # share of a mask that lies in the brain


@dataclasses.dataclass(frozen=True)
class Deformation:
    """How far masks are deformed.

    Attributes:
      turn: largest angle, degrees.
      least_scale, most_scale: of both axes.
      elastic: largest shift of the elastic field, in shares of a lesion's size.
      mirror: share that is mirrored, left for right.
    """

    turn: float = 20.0
    least_scale: float = 0.8
    most_scale: float = 1.25
    elastic: float = 0.1
    mirror: float = 0.5

    def __post_init__(self):
        if not 0 < self.least_scale <= self.most_scale:
            raise errors.UserError(
                f"least_scale, most_scale: found {self.least_scale}, {self.most_scale}; accepted: "
                "0 < least_scale <= most_scale"
            )


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A lesion of an example, cut out with a margin.

    Attributes:
      example: id of its slice.
      number: of the component in that slice.
      mask: [h,w] its pixels.
      grey: [h,w] the slice there, [0, 1].
    """

    example: str
    number: int
    mask: Bool[np.ndarray, "h w"]
    grey: Float32[np.ndarray, "h w"]


def components(mask: Bool[np.ndarray, "H W"]) -> list[tuple[slice, slice, np.ndarray]]:
    """(rows, columns, mask there) of each component; pixels that touch at a corner are one."""
    from scipy import ndimage  # Half a second: `--help` needs none of it.

    labels, _ = ndimage.label(mask, np.ones((3, 3), int))
    found = ndimage.find_objects(labels)
    return [(*place, labels[place] == n) for n, place in enumerate(found, 1)]


def cut(
    example: str, grey: Float32[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"], margin: int = 8
) -> list[Lesion]:
    """The lesions of a slice, with `margin` pixels around; the edge is repeated beyond it."""
    greys = np.pad(grey, margin, mode="edge")
    lesions = []
    for number, (rows, columns, inside) in enumerate(components(mask)):
        # In the padded picture a crop begins where the component began in the unpadded one.
        place = slice(rows.start, rows.stop + 2 * margin)
        beside = slice(columns.start, columns.stop + 2 * margin)
        lesions.append(Lesion(example, number, np.pad(inside, margin), greys[place, beside]))
    return lesions


def deform(
    draw: np.random.Generator, lesion: Lesion, options: Deformation
) -> tuple[Bool[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """(mask, grey values) of a lesion, both moved alike. A mask that would vanish stays as it was.

    The crop grows with the scale, so that no part is cut off.
    """
    from scipy import ndimage

    scale = np.exp(draw.uniform(np.log(options.least_scale), np.log(options.most_scale), 2))
    angle = np.deg2rad(draw.uniform(-options.turn, options.turn))
    flip = draw.uniform() < options.mirror
    height, width = lesion.mask.shape
    # A turned rectangle needs up to its diagonal.
    side = int(np.ceil(np.hypot(height, width) * max(1.0, options.most_scale)))
    # As even or odd as the crop: else an undeformed lesion would fall between pixels.
    high, wide = side + (side - height) % 2, side + (side - width) % 2
    rows, columns = np.mgrid[:high, :wide].astype(np.float64)
    rows, columns = rows - (high - 1) / 2, columns - (wide - 1) / 2
    across = -columns if flip else columns
    size = np.sqrt(lesion.mask.sum())
    field = draw.uniform(-1, 1, (2, high, wide))
    smooth = ndimage.gaussian_filter(field, (0, size / 2 + 1, size / 2 + 1))
    largest = np.abs(smooth).max((1, 2), keepdims=True)
    moved = smooth / np.maximum(largest, 1e-9) * options.elastic * size
    cos, sin = np.cos(angle), np.sin(angle)
    r = (cos * rows - sin * across) / scale[0] + moved[0] + (height - 1) / 2
    c = (sin * rows + cos * across) / scale[1] + moved[1] + (width - 1) / 2
    soft = ndimage.map_coordinates(lesion.mask.astype(np.float32), [r, c], order=1)
    grey = ndimage.map_coordinates(lesion.grey, [r, c], order=1, mode="nearest")
    mask = soft > 0.5
    if not mask.any():
        return lesion.mask, lesion.grey
    return mask, grey.astype(np.float32)


def place(
    draw: np.random.Generator, mask: Bool[np.ndarray, "h w"], brain: Bool[np.ndarray, "H W"]
) -> tuple[int, int] | None:
    """(row, column) of the mask's corner in the picture, which may lie outside of it.

    Each shift that leaves `IN_BRAIN` of the mask in the brain is as likely; None: there is none.
    """
    from scipy import signal

    count = int(mask.sum())
    # Correlation counts the brain pixels under the mask for every shift at once.
    counts = signal.fftconvolve(brain.astype(np.float64), mask[::-1, ::-1].astype(np.float64))
    valid = np.flatnonzero(np.round(counts) >= IN_BRAIN * count)
    if not len(valid):
        return None
    row, column = np.unravel_index(draw.choice(valid), counts.shape)
    return int(row) - mask.shape[0] + 1, int(column) - mask.shape[1] + 1


def paint(
    canvas: Float[np.ndarray, "H W"] | Bool[np.ndarray, "H W"] | Int[np.ndarray, "H W"],
    patch: np.ndarray,
    corner: tuple[int, int],
    where: Bool[np.ndarray, "h w"],
) -> None:
    """Writes a patch into the canvas at a corner, where `where` says; what lies beyond is cut."""
    (row, column), (height, width) = corner, patch.shape
    top, left = max(0, -row), max(0, -column)
    bottom, right = min(height, canvas.shape[0] - row), min(width, canvas.shape[1] - column)
    if top >= bottom or left >= right:
        return
    target = canvas[row + top : row + bottom, column + left : column + right]
    np.copyto(target, patch[top:bottom, left:right], where=where[top:bottom, left:right])


def soften(mask: Bool[np.ndarray, "H W"], rim: float = 2.0) -> Float32[np.ndarray, "H W"]:
    """Weight of a change: 1 on the mask, falling to exactly 0 about two `rim` pixels beyond it.

    The mask grows by `rim` before it is blurred: else the blur would fade lesions of a few pixels.
    """
    from scipy import ndimage

    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    grown = ndimage.distance_transform_edt(~mask) <= rim
    blurred = ndimage.gaussian_filter(grown.astype(np.float32), rim / 2, truncate=2.0)
    # A tail of a thousandth would change pixels that nobody can see changed.
    return np.where(mask, 1.0, np.where(blurred < 0.02, 0.0, blurred)).astype(np.float32)


def similarity(a: Float32[np.ndarray, "*shape"], b: Float32[np.ndarray, "*shape"]) -> float:
    """Normalised cross-correlation of two arrays, -1 to 1; 0 where one is constant."""
    x, y = a - a.mean(), b - b.mean()
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / size) if size > 1e-9 else 0.0

"""Random changes of a training slice: rotation, shift, brightness and contrast.

Two styles:

- `paper`: rotation U(-5, 5) degrees, shift U(-1/32, 1/32) of the side per axis, contrast
  factor 1 + U(-0.1, 0.1) and brightness U(-0.1, 0.1) of the full range; rotation, shift and
  intensity each happen with probability 0.5.
- `official`: what the published code really does with the augmentation library it pins:
  the rotation is exactly +5 degrees (counter-clockwise on the screen), the shift exactly
  +8 px right and +8 px down at side 256; only brightness and contrast are random.

The background is set back to -1 afterwards. All randomness comes from the generator that
is passed in, so a draw depends on (seed, global sample number) alone.
"""

import dataclasses
import difflib
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from madad_jax.core import errors

STYLES = ("paper", "official")
_BACKGROUND = -1.0


@dataclasses.dataclass(frozen=True)
class Augment:
    """A random map over elements, as Grain's `random_map` calls it.

    Attributes:
      style: `paper` or `official`.
      rotate_degrees: largest (paper) or exact (official) rotation, degrees.
      shift: largest (paper) or exact (official) shift, fraction of the side.
      brightness: half-width of the offset, fraction of the full intensity range.
      contrast: half-width of the factor about 1.
      probability: of each of rotation, shift and intensity.
    """

    style: str = "paper"
    rotate_degrees: float = 5.0
    shift: float = 1.0 / 32.0
    brightness: float = 0.1
    contrast: float = 0.1
    probability: float = 0.5

    def __post_init__(self):
        if self.style not in STYLES:
            raise errors.UserError(
                f"augment.style: found '{self.style}', accepted: {', '.join(STYLES)}"
            )
        if not 0.0 <= self.probability <= 1.0:
            raise errors.UserError(
                f"augment.probability: found {self.probability}, accepted: 0 to 1"
            )

    def __call__(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Returns the element with `image` and `brain_mask` changed together."""
        image, mask = element["image"], element["brain_mask"]
        # Every draw is made whatever the coins say: the stream of one sample then keeps
        # its meaning when a probability or a width is set to zero.
        coins = rng.random(3) < self.probability
        angle = self.rotate_degrees * self._draw(rng)
        shift_right = self.shift * self._draw(rng)
        shift_down = self.shift * self._draw(rng)
        gain = 1.0 + self.contrast * rng.uniform(-1.0, 1.0)
        offset = self.brightness * rng.uniform(-1.0, 1.0)
        if coins[0] or coins[1]:
            side = image.shape[0]
            image, mask = warp(
                image,
                mask,
                angle=angle if coins[0] else 0.0,
                shift_right=shift_right * side if coins[1] else 0.0,
                shift_down=shift_down * side if coins[1] else 0.0,
            )
        if coins[2]:
            image = change_intensity(image, gain=gain, offset=offset)
        image = np.where(mask[..., None], image, np.float32(_BACKGROUND))
        return {**element, "image": image, "brain_mask": mask}

    def _draw(self, rng: np.random.Generator) -> float:
        """U(-1, 1); exactly 1 under `official`, whose draws are still taken."""
        value = rng.uniform(-1.0, 1.0)
        return 1.0 if self.style == "official" else value


def from_options(options: dict[str, Any] | None) -> Augment | None:
    """An `Augment` from a plain dict; None, an empty dict or `enabled: False` mean none.

    Raises:
      UserError: unknown key or style.
    """
    options = dict(options or {})
    # Options that do not say `enabled` are meant to be used.
    if not options.pop("enabled", bool(options)):
        return None
    known = [field.name for field in dataclasses.fields(Augment)]
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise errors.UserError(
                f"augment: unknown key '{key}'{hint} (accepted: enabled, {', '.join(known)})"
            )
    style = options.pop("style", Augment.style)
    return Augment(style, **{key: float(value) for key, value in options.items()})


def warp(
    image: Float32[np.ndarray, "H W C"],
    mask: Bool[np.ndarray, "H W"],
    *,
    angle: float,
    shift_right: float,
    shift_down: float,
) -> tuple[Float32[np.ndarray, "H W C"], Bool[np.ndarray, "H W"]]:
    """Rotates by `angle` degrees (counter-clockwise on the screen), then shifts in pixels.

    Linear interpolation for the image, nearest for the mask; what comes in from outside is
    background.
    """
    height, width = mask.shape
    # The middle between pixel centres: a half turn brings the picture onto itself.
    centre = ((width - 1) / 2.0, (height - 1) / 2.0)
    matrix = cv2.getRotationMatrix2D(centre, angle, 1.0)
    matrix[:, 2] += (shift_right, shift_down)
    size = (width, height)
    # One channel after the other: OpenCV fills the border of four at most.
    moved = [
        cv2.warpAffine(
            image[..., channel],
            matrix,
            size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=_BACKGROUND,
        )
        for channel in range(image.shape[-1])
    ]
    # Nearest: a threshold on an interpolated mask would thin the brain's outline.
    moved_mask = cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    return np.stack(moved, -1), moved_mask > 0


def change_intensity(
    image: Float32[np.ndarray, "H W C"], *, gain: float, offset: float
) -> Float32[np.ndarray, "H W C"]:
    """`gain * x + offset` on the [0, 1] scale, clipped, in and out in [-1, 1]."""
    # On [0, 1], where the published widths are given.
    unit = (image + 1.0) * 0.5
    changed = np.clip(gain * unit + offset, 0.0, 1.0) * 2.0 - 1.0
    return changed.astype(np.float32)

"""From tissue shares to a scanner's picture: contrast, field, texture, blur, noise.

Intensities are on an arbitrary scale where T1 white matter is about 0.85; `scale` brings a
subject to [0, 1] by a percentile in the brain, as preparation of real volumes does.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.data.cohort import anatomy as anatomy_lib
from madad_jax.data.cohort import random_fields

# Mean intensities of fluid, grey and white matter.
TISSUES = {
    "T1": (0.22, 0.57, 0.81),
    "T2": (0.95, 0.52, 0.38),
    "FLAIR": (0.13, 0.61, 0.51),
}
# Where the 99.5th percentile of the healthy brain goes in [0, 1]. FLAIR keeps head room for
# lesions, which are brighter there than anything healthy.
_PERCENTILE = 99.5
_TOP = {"T1": 0.9, "T2": 0.9, "FLAIR": 0.65}


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One subject's mean intensities in one modality."""

    modality: str
    fluid: float
    grey: float
    white: float

    def mix(self, fluid: np.ndarray, grey: np.ndarray, white: np.ndarray) -> np.ndarray:
        """Intensity of a mixture of tissues."""
        return self.fluid * fluid + self.grey * grey + self.white * white


def draw_contrast(rng: np.random.Generator, modality: str) -> Contrast:
    """Tissue means that vary as between scanners and people.

    Raises:
      UserError: unknown modality.
    """
    if modality not in TISSUES:
        raise errors.UserError(
            f"modality: found '{modality}', the embedded cohort has: {', '.join(TISSUES)}"
        )
    fluid, grey, white = TISSUES[modality]
    middle = 0.5 * (grey + white)
    spread = np.exp(rng.normal(0.0, 0.15))  # Of the contrast between grey and white.
    # About their common middle, so that the brain's mean brightness stays.
    grey, white = middle + spread * (grey - middle), middle + spread * (white - middle)
    fluid = fluid * np.exp(rng.normal(0.0, 0.10))
    return Contrast(modality, float(fluid), float(grey), float(white))


def render(
    rng: np.random.Generator,
    anatomy: anatomy_lib.Anatomy,
    clean: Float32[np.ndarray, "z h w"],
) -> Float32[np.ndarray, "z h w"]:
    """Adds texture, bias field and blur to noise-free intensities; not yet noise."""
    grid = anatomy.grid
    image = clean * (1.0 + 0.02 * random_fields.smooth(rng, grid, 4.0))
    blur = rng.uniform(0.35, 0.75) / grid.pixel  # Point spread, sigma in mm.
    image = ndimage.gaussian_filter(image, (0.0, blur, blur), truncate=2.5)
    field = rng.uniform(0.02, 0.09) * random_fields.smooth(rng, grid, 45.0)
    field += _reception(rng, grid)
    return (image * np.exp(field)).astype(np.float32)


def _reception(rng: np.random.Generator, grid: random_fields.Grid) -> np.ndarray:
    """A head coil's slow rise towards one side and towards the rim, log gain."""
    across = grid.in_plane() / 100.0
    slope = rng.normal(0.0, 0.05, 2)
    rim = rng.normal(0.0, 0.04)
    row, column = across[:, None], across[None, :]
    return slope[0] * row + slope[1] * column + rim * (row**2 + column**2)


def add_noise(
    rng: np.random.Generator, image: Float32[np.ndarray, "z h w"]
) -> Float32[np.ndarray, "z h w"]:
    """Rician noise: the magnitude of a complex signal with Gaussian noise."""
    level = rng.uniform(0.008, 0.025)
    real = image + level * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = level * rng.standard_normal(image.shape, dtype=np.float32)
    return np.hypot(real, imaginary)


def white_level(
    image: Float32[np.ndarray, "z h w"], healthy: Bool[np.ndarray, "z h w"], modality: str
) -> float:
    """The intensity that becomes 1: the 99.5th percentile of the `healthy` brain stands at the
    modality's level in [0, 1]."""
    return float(np.percentile(image[healthy], _PERCENTILE)) / _TOP[modality]


def scale(
    image: Float32[np.ndarray, "z h w"], healthy: Bool[np.ndarray, "z h w"], modality: str
) -> Float32[np.ndarray, "z h w"]:
    """Brings an image to [0, 1] by `white_level`."""
    top = np.percentile(image[healthy], _PERCENTILE)
    return np.clip(image * np.float32(_TOP[modality] / top), 0.0, 1.0)

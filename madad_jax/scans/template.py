"""The ICBM152 average brain that nilearn ships, prepared for drawing subjects.

Source: ICBM152 nonlinear symmetric 2009a (Fonov et al. 2011), T1, grey- and white-matter
maps and brain mask at 1 mm, read from files inside the nilearn wheel: nothing is downloaded.

Arrays are [z, row, column]: rows run from front to back, columns from left to right,
1 mm each. `CENTRE` is the voxel that stands in the middle of the field of view.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from madad_jax.scans import template_files

# Middle of the brain in plane, and the voxel of MNI height 0.
CENTRE = (72.0, 116.0, 98.0)
# T1 of the template's pure tissues, read off its maps (medians).
_T1_CSF, _T1_GREY, _T1_WHITE = 0.28, 0.64, 0.87
# Floor of a probability before its logarithm.
_FLOOR = 0.02


@dataclasses.dataclass(frozen=True)
class Template:
    """What subjects are drawn from, all float32 [z, row, column] at 1 mm.

    Attributes:
      brain: 1 inside the brain, 0 outside.
      fluid_logit: log odds of fluid against tissue.
      white_logit: log odds of white against grey matter.
      depth: distance to the brain's outside, mm (on 2 mm voxels).
      ventricle: signed distance to the ventricles, negative inside, mm (on 2 mm voxels).
    """

    brain: Float32[np.ndarray, "z r c"]
    fluid_logit: Float32[np.ndarray, "z r c"]
    white_logit: Float32[np.ndarray, "z r c"]
    depth: Float32[np.ndarray, "z2 r2 c2"]
    ventricle: Float32[np.ndarray, "z2 r2 c2"]


@functools.lru_cache(maxsize=1)
def load() -> Template:
    """Reads and prepares the template (about four seconds, once per process).

    Raises:
      UserError: nilearn is not installed, or lacks its files.
    """
    image = _orient(template_files.read_t1())
    grey = _orient(template_files.read_grey_matter())
    white = _orient(template_files.read_white_matter())
    brain = template_files.find_brain(image)
    grey, white = grey / grey.max(), white / white.max()
    # Distances are smooth: every second voxel is enough.
    depth = ndimage.distance_transform_edt(brain[::2, ::2, ::2]) * 2.0
    ventricle = _ventricles(image, brain)[::2, ::2, ::2]
    inside = ndimage.distance_transform_edt(ventricle)
    outside = ndimage.distance_transform_edt(~ventricle)
    fluid_logit, white_logit = _tissue_logits(image, grey, white)
    return Template(
        brain=brain.astype(np.float32),
        fluid_logit=fluid_logit,
        white_logit=white_logit,
        depth=depth.astype(np.float32),
        ventricle=ndimage.gaussian_filter((outside - inside) * 2.0, 0.75).astype(np.float32),
    )


def _orient(image: np.ndarray) -> Float32[np.ndarray, "z r c"]:
    """[x, y, z] with y towards the front -> [z, row, column] with rows towards the back."""
    return np.ascontiguousarray(image.transpose(2, 1, 0)[:, ::-1, :])


def _tissue_logits(
    image: np.ndarray, grey: np.ndarray, white: np.ndarray
) -> tuple[Float32[np.ndarray, "z r c"], Float32[np.ndarray, "z r c"]]:
    """Fluid and white-matter log odds, from the maps and the intensity together.

    The maps alone know few sulci (they are averages of 152 people); the intensity alone
    takes every fluid-white border for grey matter. Their mean has neither fault.
    """
    fluid_map = np.clip(1.0 - grey - white, 0.0, 1.0)
    fluid_seen = np.clip((_T1_GREY - image) / (_T1_GREY - _T1_CSF), 0.0, 1.0)
    fluid = 0.5 * (fluid_map + fluid_seen)
    white_seen = np.clip((image - _T1_GREY) / (_T1_WHITE - _T1_GREY), 0.0, 1.0)
    share = white / np.maximum(white + grey, 0.05)
    share = 0.5 * (share + white_seen)
    return _logit(fluid), _logit(share)


def _logit(share: np.ndarray) -> Float32[np.ndarray, "z r c"]:
    return np.log((share + _FLOOR) / (1.0 - share + _FLOOR)).astype(np.float32)


def _ventricles(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Fluid in the middle of the brain: lateral and third ventricles."""
    z, row, column = np.ogrid[tuple(slice(0, n) for n in image.shape)]
    aside = np.abs(column - CENTRE[2])
    # Front-to-back coordinate counted from the back, as in the atlas.
    front = image.shape[1] - 1 - row
    # Bounds in the template's voxels, where its ventricles lie.
    near = (aside < 42) & (front > 60) & (front < 165) & (z > 64) & (z < 108)
    near &= ~((aside > 30) & (front > 95))  # The insula's cisterns.
    near &= ~((aside < 7) & (z > 92))  # The fissure between the hemispheres,
    near &= ~((aside < 14) & (front < 92))  # and the cisterns behind the thalami.
    fluid = brain & (image < 0.5) & near
    return ndimage.binary_opening(fluid)

"""A head with folds of its own, wherever a rigid motion brings it."""

import numpy as np
from scipy import ndimage

from madad_jax.scans import head_pair, registration, resample, rigid_motion, volumes


def draw_head(motion, seed=0, noise=20.0):
    """The template's brain where a motion brings it, with folds of one's own drawn onto it."""
    image, brain, grid = registration.template_brain()
    rng = np.random.default_rng(seed)
    folds = ndimage.gaussian_filter(rng.normal(0, 1, image.shape), 1.7)
    head = np.where(brain, image * 700 + 120 * folds / folds.std(), 0.0).astype(np.float32)
    back = rigid_motion.invert(motion)
    moved = resample.resample(head, grid, grid, back, order=3)
    seen = resample.resample(brain, grid, grid, back, order=0)
    moved = np.where(seen, np.maximum(moved + rng.normal(0, noise, moved.shape), 1.0), 0.0)
    volume = volumes.from_array(moved.astype(np.float32), grid.affine, source=f"head {seed}")
    return head_pair.Head(volume, seen)

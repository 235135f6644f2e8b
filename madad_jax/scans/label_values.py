"""Whether an array holds labels: whole numbers that stand for kinds, and not amounts.

Everything above 0 counts as lesion or brain, so that a map of probabilities would mark ten times
the lesion. Whole values of any size are labels, whatever type they are stored as. Fractions are
refused, and so are maps of whole values that grade from voxel to voxel, as 0..255 pictures do.
"""

import numpy as np
from jaxtyping import Float32

from madad_jax.core import errors

# Labels that were stored with a slope, which may have three digits, come back a rounding away from
# whole; beside 0 only where a float was, for a map of probabilities begins there.
_ROUNDING, _ROUNDING_OF_0 = 1e-2, 1e-3
_MANY = 8  # A parcellation may have more values than this; a small lesion's picture as few.
# Of a value's neighbours that are not 0, how many have the same value. Of 176 parcellations with
# some 146 labels the least was 0.65 at 2 mm and 0.44 at 4 mm (of 12 of their labels 0.99), of
# distances in voxels 0.48; of smoothed masks the most was 0.02 in 255 steps and 0.23 in 10.
_EQUAL_SHARE = 0.25
# A scan of 8 bits has hundreds; a segmentation of tissues or of a tumour has three to ten.
_FEWEST_OF_A_SCAN = 16
_ADVICE = "accepted: whole labels (of a probability map, save what is at least 0.5 as 1, else 0)"


def check(array: Float32[np.ndarray, "X Y Z"], source: str) -> Float32[np.ndarray, "X Y Z"]:
    """The array with exactly whole values; NaN, which some tools write outside, becomes 0.

    Raises:
      UserError: values between whole numbers, infinity, or a picture in whole numbers.
    """
    array = np.nan_to_num(array, posinf=np.inf, neginf=-np.inf)
    whole = np.rint(array)
    if not np.isfinite([whole.min(), whole.max()]).all():
        raise errors.UserError(f"'{source}' holds infinite values; {_ADVICE}")
    between = np.abs(array - whole) > np.where(whole == 0, _ROUNDING_OF_0, _ROUNDING)
    if between.any():
        values = array[between]
        raise errors.UserError(
            f"'{source}' holds values between whole numbers in {values.size} voxels, from "
            f"{values.min():g} to {values.max():g}: probabilities, or labels resampled linearly; "
            f"{_ADVICE}"
        )
    if _is_graded(whole):
        raise errors.UserError(
            f"'{source}' holds whole values up to {whole.max():g} that change from voxel to voxel: "
            f"a picture or probabilities; {_ADVICE}"
        )
    return np.ascontiguousarray(whole)


def _is_graded(whole: np.ndarray) -> bool:
    """Whether most of many values lie beside other values than themselves, background aside."""
    low, high = whole.min(), whole.max()
    if high - low < _MANY:
        return False
    if high - low < 2**16:
        codes = (whole - low).astype(np.uint16)
    else:  # A few labels may be millions apart: their ranks instead, which takes a sort.
        codes = np.unique(whole, return_inverse=True)[1].reshape(whole.shape)
    count = int(codes.max()) + 1
    if np.count_nonzero(np.bincount(codes.ravel(), minlength=count)) < _MANY:
        return False
    inside = whole != 0
    equal, pairs = np.zeros(count, int), np.zeros(count, int)
    for axis in range(3):
        left, right = ((*[np.s_[:]] * axis, part) for part in (np.s_[1:], np.s_[:-1]))
        both = inside[left] & inside[right]
        first, second = codes[left][both], codes[right][both]
        for side in (first, second):
            pairs += np.bincount(side, minlength=count)
            equal += np.bincount(side[first == second], minlength=count)
    if not pairs.any():
        return False  # Single voxels, each numbered.
    # By value and not by voxel: plateaus of certain voxels at both ends would outvote the slope.
    return bool(np.median(equal[pairs > 0] / pairs[pairs > 0]) < _EQUAL_SHARE)


def count_few(values: np.ndarray) -> int:
    """How many different values other than 0 there are, if as few as in a segmentation; else 0."""
    some = values.ravel()
    # A few thousand tell a scan; only what looks like labels is sorted as a whole.
    if len(np.unique(some[:: max(1, some.size // 10_000)])) > _FEWEST_OF_A_SCAN:
        return 0
    count = int(np.count_nonzero(np.unique(some)))
    return count if count < _FEWEST_OF_A_SCAN else 0

"""Whether an array holds labels: whole numbers that stand for kinds, and not amounts.

Everything above 0 counts as lesion or brain, so that a map of probabilities would mark ten times
the lesion. Whole values of any size are labels, whatever type they are stored as. Fractions are
refused, and so are maps of whole values that grade from voxel to voxel, as 0..255 pictures do.
"""

import numpy as np
from jaxtyping import Float32

from madad_jax.core import errors

# Labels that were stored with a slope come back a rounding away from whole.
_ROUNDING = 1e-3
_MANY = 40  # A parcellation may have more values than this; a picture has no fewer.
# Of a value's neighbours that are not 0, how many have the same value. Regions of labels have half
# and more, the shells of a slope a tenth.
_EQUAL_SHARE = 0.25
_ADVICE = "accepted: whole labels (of a probability map, save what is at least 0.5 as 1, else 0)"


def check(array: Float32[np.ndarray, "X Y Z"], source: str) -> Float32[np.ndarray, "X Y Z"]:
    """The array with exactly whole values; NaN, which some tools write outside, becomes 0.

    Raises:
      UserError: values between whole numbers, infinity, or a picture in whole numbers.
    """
    array = np.where(np.isnan(array), np.float32(0.0), array)  # In C order, whatever came in.
    if np.isinf(array).any():
        raise errors.UserError(f"'{source}' holds infinite values; {_ADVICE}")
    whole = np.rint(array)
    between = np.abs(array - whole) > _ROUNDING
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
    return whole


def _is_graded(whole: np.ndarray) -> bool:
    """Whether most of many values lie beside other values than themselves, background aside."""
    low = whole.min()
    if not whole.max() - low >= _MANY:
        return False
    # Numbers of values instead of values: a few labels may be millions apart.
    values, codes = np.unique(whole, return_inverse=True)
    if values.size < _MANY:
        return False
    codes = codes.reshape(whole.shape)
    equal, pairs = np.zeros(values.size, int), np.zeros(values.size, int)
    for axis in range(3):
        first, second = (np.moveaxis(codes, axis, 0)[s] for s in (np.s_[1:], np.s_[:-1]))
        both = (values[first] != 0) & (values[second] != 0)
        first, second = first[both], second[both]
        for side in (first, second):
            pairs += np.bincount(side, minlength=values.size)
            equal += np.bincount(side[first == second], minlength=values.size)
    # By value and not by voxel: plateaus of certain voxels at both ends would outvote the slope.
    return bool(np.median(equal[pairs > 0] / pairs[pairs > 0]) < _EQUAL_SHARE)

"""Exact order statistics of more numbers than memory holds, in two passes over chunks.

A float32 whose bits are read as an integer, with those of negative numbers turned round, sorts
as the number does. The first pass counts the upper 16 bits; that names the bucket in which a rank
lies. The second counts the lower 16 bits of what lies in such buckets. So 2 x 65,536 counts
replace the sort, and the answer is one of the numbers, not a value between two.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float32, UInt32

Chunks = Callable[[], Iterable[Float32[np.ndarray, "n"]]]

_HALF = 1 << 16
_SIGN = np.uint32(1 << 31)


def upper_quantiles(chunks: Chunks, shares: Sequence[float]) -> list[np.float32]:
    """For each share the smallest number that at most this share of all numbers lie above.

    Args:
      chunks: called twice; gives the same finite numbers both times. [] when there are none.
    """
    upper, total = np.zeros(_HALF, np.int64), 0
    for chunk in chunks():
        upper += np.bincount(_keys(chunk) >> 16, minlength=_HALF)
        total += chunk.size
    if not total:
        return []
    # 1e-9: 0.29 * 100 is 28.999999999999996 in float64, and 29 may lie above.
    ranks = [total - 1 - int(share * total + 1e-9) for share in shares]  # from the smallest, 0
    below = np.cumsum(upper) - upper
    buckets = [int(np.searchsorted(below, rank, side="right")) - 1 for rank in ranks]
    # A dict: shares that fall in one bucket share its counts.
    lower = {bucket: np.zeros(_HALF, np.int64) for bucket in buckets}
    for chunk in chunks():
        keys = _keys(chunk)
        high = keys >> 16
        for bucket, counts in lower.items():
            counts += np.bincount(keys[high == bucket] & (_HALF - 1), minlength=_HALF)
    out = []
    for rank, bucket in zip(ranks, buckets, strict=True):
        inside = np.cumsum(lower[bucket])
        low = int(np.searchsorted(inside, rank - below[bucket], side="right"))
        out.append(_number(np.uint32(bucket << 16 | low)))
    return out


def _keys(values: Float32[np.ndarray, "n"]) -> UInt32[np.ndarray, "n"]:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _number(key: np.uint32) -> np.float32:
    bits = key & ~_SIGN if key & _SIGN else ~key
    return np.uint32(bits).view(np.float32)

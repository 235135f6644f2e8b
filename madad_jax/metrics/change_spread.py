"""How far maps of two visits differ in healthy people: what a difference is held against.

A pair of visits of a healthy person adds the distribution of |second - first| over the brain that
both scored, and how many candidates came and went. Pairs count alike, whatever their number of
voxels. Quantiles are upper edges of bins of 0.0005: never below the exact ones.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from madad_jax.core import errors, messages

FORMAT = 1
BINS = 2000  # of |difference|, which lies in [0, 1]
LEVEL = 0.999  # share of healthy voxels below, of the bound that is drawn and counted
_SHOWN = (0.5, 0.9, 0.99, 0.999)
_FEW = 5  # pairs: fewer are said to be few
_MOST_PAIRS = 10_000


@dataclasses.dataclass(frozen=True)
class Pair:
    """What one healthy person's two visits add.

    Attributes:
      shares: of voxels in each bin of |difference|; sums to 1.
      new, gone: candidates that the second, the first visit alone has.
    """

    shares: Float64[np.ndarray, " bins"]
    new: int
    gone: int


@dataclasses.dataclass(frozen=True)
class Spread:
    """Healthy pairs under one model and one setting.

    Attributes:
      identity: of model and setting, as `visits.read_identity` gives it.
      pairs: at least one.
    """

    identity: dict[str, Any]
    pairs: tuple[Pair, ...]

    @property
    def shares(self) -> Float64[np.ndarray, " bins"]:
        """Of voxels in each bin, every pair alike."""
        return np.mean([pair.shares for pair in self.pairs], axis=0)

    def quantile(self, level: float = LEVEL) -> float:
        """|difference| that this share of healthy voxels does not exceed."""
        return _quantile(self.shares, level)

    def to_summary(self) -> dict[str, Any]:
        """What a page and a summary say of it."""
        each = [_quantile(pair.shares, LEVEL) for pair in self.pairs]
        new, gone = ([getattr(p, name) for p in self.pairs] for name in ("new", "gone"))
        return {
            "pairs": len(self.pairs),
            "few_pairs": len(self.pairs) < _FEW,
            "quantiles": {f"{level:g}": self.quantile(level) for level in _SHOWN},
            "level": LEVEL,
            "bound": self.quantile(),
            "bound_of_pairs": [min(each), max(each)],
            "new_a_pair": {"mean": float(np.mean(new)), "least": min(new), "most": max(new)},
            "gone_a_pair": {"mean": float(np.mean(gone)), "least": min(gone), "most": max(gone)},
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON; see `from_dict`. Holds no name and no voxel of anybody."""
        pairs = [
            # Empty bins at the end are most of them.
            {"shares": np.trim_zeros(p.shares, "b").tolist(), "new": p.new, "gone": p.gone}
            for p in self.pairs
        ]
        about = "distribution of |second - first| in healthy pairs"
        return {"format": FORMAT, "about": about, "model": self.identity, "bins": BINS,
                "summary": self.to_summary(), "pairs": pairs}  # fmt: skip


def measure(
    difference: Float32[np.ndarray, "X Y Z"], both: Bool[np.ndarray, "X Y Z"], new: int, gone: int
) -> Pair:
    """What a healthy pair adds.

    Args:
      difference: second - first, within [-1, 1].
      both: where both visits were scored.
      new, gone: candidates of one visit alone.

    Raises:
      UserError: no voxel was scored in both.
    """
    values = np.abs(difference[both])
    if not values.size:
        raise errors.UserError("the two visits have no scored voxel in common")
    counts = np.bincount(_bins(values), minlength=BINS)
    return Pair(counts / values.size, new, gone)


def from_dict(values: dict[str, Any], source: str) -> Spread:
    """The inverse of `Spread.to_dict`.

    Raises:
      UserError: another format, or values of another kind.
    """
    if values.get("format") != FORMAT or values.get("bins") != BINS:
        raise errors.UserError(
            f"'{source}': no healthy spread of format {FORMAT}; accepted: the healthy_spread.json "
            "that madad-jax compare-visits --healthy_pairs writes"
        )
    try:
        pairs = values["pairs"]
        if not isinstance(pairs, list) or not 1 <= len(pairs) <= _MOST_PAIRS:
            raise ValueError("'pairs' is no list of pairs")
        if not isinstance(values["model"], dict):
            raise ValueError("'model' is no object")
        return Spread(values["model"], tuple(_read_pair(pair) for pair in pairs))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        reason = messages.shorten(error)
        raise errors.UserError(f"'{source}': damaged healthy spread: {reason}") from error


def _read_pair(pair: dict[str, Any]) -> Pair:
    shares = np.zeros(BINS)
    found = np.array(pair["shares"], np.float64)
    if found.ndim != 1 or not 1 <= found.size <= BINS or not (found >= 0).all():
        raise ValueError("'shares' are no shares of the bins")
    if abs(found.sum() - 1.0) > 1e-6:
        raise ValueError(f"'shares' sum to {found.sum():g}")
    shares[: found.size] = found
    for name in ("new", "gone"):
        if type(pair[name]) is not int or not 0 <= pair[name] < 10**9:
            raise ValueError(f"'{name}' is no number of candidates")
    return Pair(shares, pair["new"], pair["gone"])


def share_beyond(differences: Sequence[float] | np.ndarray, bound: float) -> float:
    """Share of differences whose size exceeds a bound; 0 of none."""
    values = np.abs(np.asarray(differences))
    return float((values > np.float32(bound)).mean()) if values.size else 0.0


def _bins(values: np.ndarray) -> np.ndarray:
    return np.minimum((values * np.float32(BINS)).astype(np.int64), BINS - 1)


def _quantile(shares: np.ndarray, level: float) -> float:
    # A tolerance: sums of shares round.
    reached = np.flatnonzero(shares.cumsum() >= level - 1e-9)
    return float((reached[0] + 1) / BINS) if len(reached) else 1.0

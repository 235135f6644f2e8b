"""What a layer's inputs span, task by task, from their second moments (numpy, float64).

After task k the moment C = sum xi xi^T of a layer's inputs extends the basis P of the tasks before:
of C' = (I - P P^T) C (I - P P^T) the leading eigenvectors join P until

    tr(P^T C P) + sum l'_i >= energy * tr(C)

One moment [d, d] holds a whole task exactly, whatever the number of its slices, and moments of
batches and devices add up. One-for-More (arXiv 2502.19848; `FuNz-0/One-for-More` 1c748e2) keeps a
stream of truncated decompositions instead, here `isvd`:

    U <- the left singular vectors of [U, inputs of the next slices] that hold 0.999 of their energy
    first task      P = U
    later tasks     R = U - P P^T U; columns of R join P until half of U's energy is captured

The singular values of U are dropped between two batches, so that what came last weighs most; and
columns of R are neither orthogonal nor of length 1, so that P^T P = I no longer holds and part of
an update along them survives the projection. Both are as their code has it.

Decompositions run in one thread: the last digits of OpenBLAS depend on the number of its threads,
and a killed process and the one that goes on must find the same bases.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import threadpoolctl

from madad_jax.core import errors
from madad_jax.core.types import Float

KINDS = ("moments", "isvd")
_STREAM_ENERGY = 0.999  # of the published stream
_LATER_ENERGY = 0.5  # of its tasks after the first
Moments = dict[str, Any]  # {path of a layer: [d, d]}
Bases = dict[str, Any]  # {path of a layer: [d, r], orthonormal columns}


@dataclasses.dataclass(frozen=True)
class Options:
    """How much is kept.

    Attributes:
      kind: "moments", or the published "isvd".
      energy: share of the inputs' second moment that a layer's basis holds, 0 to 1.
      max_rank: most columns of a basis over the d dimensions of the input, above 0 to 1.
    """

    kind: str = "moments"
    energy: float = 0.99
    max_rank: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise errors.UserError(
                f"train.continual.basis: found {self.kind!r}, accepted: {', '.join(KINDS)}"
            )
        for name in ("energy", "max_rank"):
            found = getattr(self, name)
            if not 0.0 < found <= 1.0:
                raise errors.UserError(
                    f"train.continual.{name}: found {found}, accepted: above 0, up to 1"
                )


class Gathering:
    """Moments of one task, batch by batch, and the bases that come of them.

    Args:
      options: how much is kept.
      before: bases of the tasks before; {} for the first.
    """

    def __init__(self, options: Options, before: Mapping[str, np.ndarray]):
        self._options = options
        self._before = before
        self._total: Moments = {}

    def add(self, moments: Mapping[str, Any]) -> None:
        """Adds the moments of a batch."""
        with _one_thread():
            for layer, moment in moments.items():
                moment = np.asarray(moment, np.float64)
                if self._options.kind == "isvd":
                    u = self._total.get(layer, np.zeros((len(moment), 0)))
                    self._total[layer] = _stream(u, moment)
                else:
                    self._total[layer] = self._total.get(layer, 0.0) + moment

    def result(self) -> Bases:
        """The bases of all tasks so far, float32."""
        with _one_thread():
            return {layer: self._extend(layer, found) for layer, found in self._total.items()}

    def _extend(self, layer: str, found: np.ndarray) -> Float[np.ndarray, "d r"]:
        before = self._before.get(layer)
        if before is None:
            before = np.zeros((len(found), 0), np.float32)
        if before.shape[0] != len(found):
            raise errors.UserError(
                f"bases of {layer}: found {before.shape[0]} dimensions, accepted: {len(found)}"
            )
        most = max(1, int(self._options.max_rank * len(found)))
        if self._options.kind == "isvd":
            return _extend_by_columns(before, found, most)
        return extend(before, found, self._options.energy, most)


def extend(
    basis: Float[np.ndarray, "d r"], moment: Float[np.ndarray, "d d"], energy: float, most: int
) -> Float[np.ndarray, "d s"]:
    """The basis with the directions that a new task adds to it, float32.

    Args:
      basis: orthonormal columns, possibly none; they stay as they are.
      moment: of the new task's inputs, symmetric and not negative.
      energy: share of its trace that is captured.
      most: columns.
    """
    old = basis.astype(np.float64)
    total, captured = np.trace(moment), np.trace(old.T @ moment @ old)
    values, vectors = np.linalg.eigh(_outside(old, moment))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    # How many of them are needed: those before whom the share is not reached.
    reached = captured + np.concatenate([[0.0], np.cumsum(values)])
    count = int(np.sum(reached < energy * total * (1.0 - 1e-12)))
    count = min(count, most - old.shape[1], len(moment) - old.shape[1])
    if count <= 0:
        return basis.astype(np.float32)
    # Rounding leaves a trace of the old columns in the new ones, and eigenvectors of values near 0
    # are any: once more out of the span, then orthonormal.
    new = vectors[:, :count]
    new, _ = np.linalg.qr(new - old @ (old.T @ new))
    return np.concatenate([old, new], axis=1).astype(np.float32)


def _one_thread() -> threadpoolctl.threadpool_limits:
    return threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def _outside(basis: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """(I - P P^T) C (I - P P^T), symmetric to the bit."""
    half = moment - basis @ (basis.T @ moment)
    out = half - (half @ basis) @ basis.T
    return 0.5 * (out + out.T)


def _stream(u: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """The left singular vectors of [U, X] are the eigenvectors of U U^T + X X^T."""
    values, vectors = np.linalg.eigh(u @ u.T + moment)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    share = np.cumsum(values) / max(values.sum(), 1e-30)
    return vectors[:, : max(1, int(np.sum(share < _STREAM_ENERGY)))]


def _extend_by_columns(basis: np.ndarray, u: np.ndarray, most: int) -> np.ndarray:
    """As published: columns of the residual as they are, counted by its singular values."""
    if not basis.shape[1]:
        return u[:, :most].astype(np.float32)
    old = basis.astype(np.float64)
    residual = u - old @ (old.T @ u)
    values = np.square(np.linalg.svd(residual, compute_uv=False))
    total = float(u.shape[1])  # its columns have length 1
    reached = total - values.sum() + np.concatenate([[0.0], np.cumsum(values)])
    count = min(int(np.sum(reached < _LATER_ENERGY * total)), residual.shape[1])
    count = max(0, min(count, most - old.shape[1]))
    return np.concatenate([old, residual[:, :count]], axis=1).astype(np.float32)

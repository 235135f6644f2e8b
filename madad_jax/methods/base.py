"""The seam between a method and everything else (training, evaluation, prediction).

A method is a frozen dataclass of options and network functions. It holds no arrays:
`params` are trained, `frozen` are weights that are not (the autoencoder under MAD-AD),
and both are passed in, so that a method can be closed over by `jax.jit` for free.
"""

from typing import Protocol, runtime_checkable

import jax

from madad_jax.core.types import Batch, Metrics, Params


@runtime_checkable
class Method(Protocol):
    """What a row of a results table has to be able to do."""

    name: str
    deterministic: bool  # True switches dropout off, for validation losses

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Fresh parameters for batches of the given shapes ({name: ShapeDtypeStruct})."""
        ...

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """A scalar to minimise and named scalars to log.

        `batch` has `image` [b,H,W,1] in [-1,1], `brain_mask` [b,H,W] and `step` (the
        optimiser step, a scalar, for terms that switch on later).
        """
        ...

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W], `reconstruction` [b,H,W,1], and further maps named `*_map`."""
        ...

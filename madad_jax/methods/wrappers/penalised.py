"""Any method whose network holds a block with a loss of its own (`layers/sspcab.py`).

    L = L_method + lambda mean_k L_k,   k over the network's calls in one loss

Maps are the method's own. Published: lambda = 0.1 (Ristea et al., CVPR 2022).
"""

import dataclasses

import jax

from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import base


@dataclasses.dataclass(frozen=True)
class Penalised:
    """`method` with `weight` times the penalties of its network added to the loss."""

    method: base.Method
    weight: float
    name: str

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """The method's parameters, those of the block among them."""
        return self.method.init(key, batch_spec)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The sum; `penalty` of the metrics stays unweighted (`base.report_penalty`).

        Raises UserError where no network of the method has such a block.
        """
        loss, metrics = self.method.loss(params, frozen, batch, key, train=train)
        # Seen while tracing, thus before any training: preflight traces every loss.
        if "penalty" not in metrics:
            raise errors.UserError(
                f"denoiser.sspcab: found {self.weight} with method={self.name}, which has no "
                "U-Net to put the block in; set denoiser.sspcab=0"
            )
        total = loss + self.weight * metrics["penalty"]
        return total, {**metrics, "loss": total}

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """The method's maps."""
        return self.method.anomaly_map(params, frozen, batch, key)

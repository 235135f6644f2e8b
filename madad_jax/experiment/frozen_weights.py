"""What a method reads and does not train: shapes, trained weights, or random ones."""

import dataclasses
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from madad_jax.assembly import parts as parts_lib
from madad_jax.core import errors, random_keys
from madad_jax.core.types import Params
from madad_jax.experiment import trained_weights
from madad_jax.experiment import workdir as workdir_lib

_ENCODER = "autoencoder"


@dataclasses.dataclass(frozen=True)
class FrozenWeights:
    """The frozen weights of a method.

    Attributes:
      values: what methods take as `frozen`. On latents `autoencoder` (weights) and
        `scaling_factor` (a scalar); what else the method reads, by name.
    """

    values: Params

    @classmethod
    def abstract(cls, parts: parts_lib.Parts) -> "FrozenWeights":
        """Shapes and types alone; nothing is drawn or restored."""
        values = dict(parts.method_weights())
        if parts.autoencoder is not None:
            method, spec = parts.autoencoder.method, parts.image_spec()
            # The key is an argument, so that initial weights are traced and not drawn.
            key = jax.eval_shape(lambda: random_keys.root_key(0))
            values[_ENCODER] = jax.eval_shape(lambda k: method.init(k, spec), key)[_ENCODER]
            values["scaling_factor"] = jax.ShapeDtypeStruct((), jnp.float32)
        return cls(values)

    @classmethod
    def restore(
        cls,
        parts: parts_lib.Parts,
        workdir: workdir_lib.Workdir,
        mesh: jax.sharding.Mesh,
        measure: Callable[[Params], float] | None = None,
    ) -> "FrozenWeights":
        """Trained weights.

        Args:
          parts: of the run.
          workdir: its folder.
          mesh: that the weights are copied over, whole on every device.
          measure: autoencoder weights -> scaling factor, where the config gives none; None: what
            the run recorded.

        Raises:
          UserError: no checkpoint, one of another model, or no recorded factor.
        """
        values = dict(parts.method_weights())
        if parts.autoencoder is not None:
            weights = trained_weights.restore_autoencoder(parts, workdir, mesh)
            factor = parts.autoencoder.scaling_factor
            # 0 asks the run to measure the factor on its own training latents.
            if factor <= 0:
                factor = measure(weights) if measure else recorded_factor(workdir)
            values |= {_ENCODER: weights, "scaling_factor": np.float32(factor)}
        return cls(values)

    @classmethod
    def random(cls, parts: parts_lib.Parts) -> "FrozenWeights":
        """Freshly drawn weights, for programs whose time does not depend on them."""
        values = dict(parts.method_weights())
        if parts.autoencoder is not None:
            size = parts.data.image_size
            network = parts.autoencoder.network
            values[_ENCODER] = network.init(jax.random.key(0), (1, size, size, 1))
            values["scaling_factor"] = np.float32(parts.autoencoder.scaling_factor or 1.0)
        return cls(values)

    def without_autoencoder(self) -> "FrozenWeights":
        """What is left where latents come from a cache: devices keep its memory for the rest."""
        return FrozenWeights({k: v for k, v in self.values.items() if k != _ENCODER})


def recorded_factor(workdir: workdir_lib.Workdir) -> float:
    """The scaling factor that the run measured. Raises UserError where it has not."""
    path = workdir.trained / "latents" / "complete.json"
    try:
        return float(json.loads(path.read_text())["scaling_factor"])
    except (OSError, ValueError, KeyError) as error:
        raise errors.UserError(
            f"{path}: no measured scaling factor; run --mode=train on the run to its end"
        ) from error

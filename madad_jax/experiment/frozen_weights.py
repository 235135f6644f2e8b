"""What a method reads and does not train: shapes, trained weights, or random ones."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import digests
from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.experiment import healthy_atlas, stage_inputs, trained_weights
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.training import projection

_ENCODER, _ATLAS = "autoencoder", "atlas"
Factor = float | list[float]  # one, or one for each contrast


@dataclasses.dataclass(frozen=True)
class FrozenWeights:
    """The frozen weights of a method.

    Attributes:
      values: what methods take as `frozen`. On latents `autoencoder` (weights) and
        `scaling_factor` (a scalar); what else the method reads, by name.
      autoencoder: digest of its weights; "": there is none, or it was not restored.
    """

    values: Params
    autoencoder: str = ""

    @classmethod
    def abstract(cls, parts: parts_lib.Parts) -> "FrozenWeights":
        """Shapes and types alone; nothing is drawn or restored."""
        values = dict(parts.method_weights())
        if parts.atlas.groups:
            values[_ATLAS] = healthy_atlas.shapes(parts)
        if parts.autoencoder is not None:
            made = trained_weights.initial_shapes(parts.autoencoder.method, parts.image_spec())
            values[_ENCODER] = made[_ENCODER]
            values["scaling_factor"] = jax.ShapeDtypeStruct(_scale_shape(parts), jnp.float32)
        return cls(values)

    @classmethod
    def restore(
        cls,
        parts: parts_lib.Parts,
        workdir: workdir_lib.Workdir,
        mesh: jax.sharding.Mesh,
        measure: Callable[[Params, str], Factor] | None = None,
        measure_atlas: Callable[[], Params] | None = None,
    ) -> "FrozenWeights":
        """Trained weights.

        Args:
          parts: of the run.
          workdir: its folder.
          mesh: that the weights are copied over, whole on every device.
          measure: (autoencoder weights, their digest) -> scaling factor, where the config gives
            none; None: what the run recorded.
          measure_atlas: gives the atlas of healthy slices; None: the run's own.

        Raises:
          UserError: no checkpoint, one of another model, an autoencoder other than the one that
            the run's denoiser was trained on, or no recorded factor.
        """
        values, digest = dict(parts.method_weights()), ""
        if parts.atlas.groups:
            values[_ATLAS] = (
                measure_atlas() if measure_atlas else healthy_atlas.load(parts, workdir)
            )
        if parts.autoencoder is not None:
            weights = trained_weights.restore_autoencoder(parts, workdir, mesh)
            digest = digests.weights_digest(weights)
            place = str(trained_weights.autoencoder_checkpoints(parts, workdir).parent.parent)
            key = stage_inputs.AUTOENCODER
            stage_inputs.check_read(workdir, "denoiser", key, digest, place)
            factor = parts.autoencoder.scaling_factor
            # 0 asks the run to measure the factor on its own training latents.
            if factor <= 0:
                factor = measure(weights, digest) if measure else recorded_factor(workdir, digest)
            values |= {_ENCODER: weights, "scaling_factor": _as_scale(factor, parts)}
        return cls(values, digest)

    def count(self) -> int:
        """Numbers of the networks that are read; healthy slices to compare with are none."""
        networks = {name: value for name, value in self.values.items() if name != _ATLAS}
        return sum(np.size(leaf) for leaf in jax.tree.leaves(networks))

    @classmethod
    def random(cls, parts: parts_lib.Parts) -> "FrozenWeights":
        """Freshly drawn weights, for programs whose time does not depend on them."""
        values = dict(parts.method_weights())
        if parts.atlas.groups:
            shapes = healthy_atlas.shapes(parts)
            values[_ATLAS] = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
        if parts.autoencoder is not None:
            size = parts.data.image_size
            network = parts.autoencoder.network
            values[_ENCODER] = network.init(jax.random.key(0), (1, size, size, 1))
            values["scaling_factor"] = _as_scale(parts.autoencoder.scaling_factor or 1.0, parts)
        return cls(values)

    def digests(self) -> dict[str, Any]:
        """What of these weights decides the maps: digests by name, and the scaling factor."""
        found: dict[str, Any] = {}
        for name, value in self.values.items():
            if name == "scaling_factor":
                found[name] = np.asarray(value).tolist()
            else:
                known = name == _ENCODER and self.autoencoder
                found[name] = known or digests.weights_digest(value)
        return found

    def with_bases(self, bases: dict[str, np.ndarray]) -> "FrozenWeights":
        """With what earlier tasks' inputs span, which the training step reads."""
        return FrozenWeights({**self.values, projection.KEY: bases}, self.autoencoder)

    def without_autoencoder(self) -> "FrozenWeights":
        """What is left where latents come from a cache: devices keep its memory for the rest."""
        values = {k: v for k, v in self.values.items() if k != _ENCODER}
        return FrozenWeights(values, self.autoencoder)


def _scale_shape(parts: parts_lib.Parts) -> tuple[int, ...]:
    """A number for each contrast where there are several or neighbours; else one."""
    return (len(parts.data.contrasts),) if parts.data.channels else ()


def _as_scale(factor: Factor, parts: parts_lib.Parts) -> Any:
    if not parts.data.channels:
        return np.float32(factor)
    return np.broadcast_to(np.float32(factor), _scale_shape(parts)).copy()


def recorded_factor(workdir: workdir_lib.Workdir, digest: str) -> Factor:
    """The scaling factor that the run measured; of several contrasts one for each.

    Raises:
      UserError: it has measured none, or on an autoencoder other than that of `digest`.
    """
    if not (workdir.trained / "latents" / "complete.json").exists():
        raise errors.UserError(
            f"{workdir.trained}/latents: no measured scaling factor; run --mode=train on the run "
            "to its end"
        )
    try:
        factor = workdir.numbers_here("latents", "scaling_factor")
    except errors.UserError as error:
        raise errors.UserError(f"no measured scaling factor: {error}") from error
    if not measured_on(workdir, digest):
        raise errors.UserError(
            f"{workdir.trained}/latents: the scaling factor was measured on other autoencoder "
            f"weights than those of today (digest {digest[:12]}); give autoencoder.checkpoint the "
            "weights of before, or train anew in another --workdir"
        )
    return factor


def measured_on(workdir: workdir_lib.Workdir, digest: str) -> bool:
    """Whether the recorded factor is of these weights; older records do not say, and are taken."""
    return workdir.facts_here("latents").get("autoencoder", digest) == digest

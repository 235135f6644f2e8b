"""What a training run carries from step to step, and nothing else.

Random keys are not part of it: they are folded from the seed and `step` (core/random_keys.py).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from madad_jax.core.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """`step` counts finished optimiser steps; `ema_params` is None without averaging."""

    step: Any  # int32 scalar, its sharding, or its abstract value
    params: Params
    opt_state: optax.OptState
    ema_params: Params | None

    @property
    def eval_params(self) -> Params:
        """The averaged parameters where there are some, else the trained ones."""
        return self.params if self.ema_params is None else self.ema_params


def create(params: Params, tx: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step."""
    return TrainState(
        # On the device: random keys and schedules are folded from it inside the compiled step.
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        # A copy: the step donates both, and one buffer cannot be donated twice.
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    )

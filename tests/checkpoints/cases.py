"""States, saves and comparisons that the checkpoint tests share."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from madad_jax.checkpoints import saver as saver_lib
from madad_jax.devices import parameter_rules
from madad_jax.training import optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The fields of a train state."""

    step: Any
    params: Any
    opt_state: Any
    ema_params: Any


def make_state(step, *, ema=True, width=64):
    """Pseudo-random but exact numbers that differ for every step and leaf."""
    tx, _ = optimizer.make_optimizer(lr=1e-3, schedule="constant", grad_clip_norm=1.0)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(7), step), 3)
    params = {
        "blocks_0": {"mlp_fc1": {"kernel": jax.random.normal(keys[0], (32, width))}},
        "head": {"bias": jax.random.normal(keys[1], (5,), jnp.bfloat16)},
    }
    opt_state = jax.tree.map(
        lambda x: (x + step + jnp.arange(x.size).reshape(x.shape)).astype(x.dtype), tx.init(params)
    )
    average = jax.tree.map(lambda x: x * 2, params) if ema else None
    return State(jnp.asarray(step, jnp.int32), params, opt_state, average)


ABSTRACT = jax.eval_shape(lambda: make_state(0))


def sharded(mesh):
    return parameter_rules.with_shardings(ABSTRACT, parameter_rules.state_shardings(ABSTRACT, mesh))


def equal(a, b):
    leaves_a, tree_a = jax.tree.flatten(a)
    leaves_b, tree_b = jax.tree.flatten(b)
    return tree_a == tree_b and all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() and x.dtype == y.dtype
        for x, y in zip(leaves_a, leaves_b, strict=True)
    )


def save(directory, steps, *, losses=None, **kwargs):
    with saver_lib.Checkpointer(directory, **kwargs) as saver:
        for step in steps:
            metrics = None if losses is None else {"val/loss": losses[step]}
            assert saver.save(step, make_state(step), {"position": 3 * step}, {"x": 1}, metrics)
    return pathlib.Path(directory)

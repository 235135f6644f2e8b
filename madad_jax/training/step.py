"""One optimiser step as a single compiled program, for any method.

The global batch is split into `accum_steps` microbatches along its first axis and their
gradients averaged by `lax.scan`; then clip, update and moving average. The state is
donated, so a step needs no second copy of parameters and optimiser moments.

Under `fsdp` parameters are gathered for use and forgotten, in the forward and again in the
backward pass, and gradients return to their shards (ZeRO stage 3, arXiv 1910.02054). It is
written out because the compiler, left alone, splits small activations like the weights they meet
and then moves them back and forth.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from madad_jax.core import random_keys
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.devices import parameter_rules
from madad_jax.methods import base
from madad_jax.training import projection
from madad_jax.training.state import TrainState


def _gathering(loss: Callable[..., Any], shardings: Any) -> Callable[..., Any]:
    """`loss` of parameters that lie in `shardings`, and are gathered over `fsdp` for use."""
    whole = parameter_rules.gathered(shardings)

    @jax.custom_vjp
    def gather(params: Params) -> Params:
        return jax.lax.with_sharding_constraint(params, whole)

    # Without a rule of its own the gradient would be gathered as the parameters are.
    gather.defvjp(
        lambda params: (gather(params), None),
        lambda _, gradients: (jax.lax.with_sharding_constraint(gradients, shardings),),
    )

    def gathering(params: Params, *inputs: Any) -> Any:
        return loss(gather(params), *inputs)

    def saved(primitive: Any, *unused: Any, **also_unused: Any) -> bool:
        return primitive.name != "sharding_constraint"

    return jax.checkpoint(gathering, policy=saved)


def loss_and_gradients(
    loss: Callable[..., Any],
    params: Params,
    frozen: Params,
    batch: Batch,
    key: jax.Array,
    accum_steps: int,
) -> tuple[Params, Metrics]:
    """Mean gradients and metrics of `loss(params, frozen, batch, key)` over a batch.

    Scalars in the batch (`step`) are shared by all microbatches.
    """
    gradient = jax.grad(loss, has_aux=True)
    if accum_steps == 1:
        return gradient(params, frozen, batch, key)
    split = {k: v for k, v in batch.items() if jnp.ndim(v)}
    shared = {k: v for k, v in batch.items() if not jnp.ndim(v)}
    # Microbatch i takes every accum_steps-th sample, so that each device keeps its own rows.
    split = {
        k: v.reshape(v.shape[0] // accum_steps, accum_steps, *v.shape[1:]).swapaxes(0, 1)
        for k, v in split.items()
    }
    keys = jax.random.split(key, accum_steps)

    def body(total, entry):
        part, k = entry
        return jax.tree.map(jnp.add, total, gradient(params, frozen, {**part, **shared}, k)), None

    first = jax.eval_shape(
        lambda: gradient(params, frozen, {k: v[0] for k, v in split.items()} | shared, key)
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), first)
    total, _ = jax.lax.scan(body, zeros, (split, keys))
    return jax.tree.map(lambda v: v / accum_steps, total)


def make_train_step(
    method: base.Method,
    tx: optax.GradientTransformation,
    *,
    accum_steps: int = 1,
    ema_decay: float = 0.0,
    shardings: Any = None,
) -> Callable[[TrainState, Params, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """`step(state, frozen, batch, root_key) -> (state, metrics)`, compiled, state donated.

    `shardings` is (state, frozen, batch, replicated) NamedShardings, or None on one device.
    """

    loss = method.loss
    if shardings is not None and shardings[-1].mesh.shape["fsdp"] > 1:
        loss = _gathering(loss, shardings[0].params)

    def step(state: TrainState, frozen: Params, batch: Batch, root_key: jax.Array):
        key = random_keys.at_step(root_key, "train", state.step)
        batch = {**batch, "step": state.step}
        gradients, metrics = loss_and_gradients(loss, state.params, frozen, batch, key, accum_steps)
        # Of a task after others: what their inputs span, for `projection.py`.
        more = {k: frozen[k] for k in (projection.KEY,) if k in frozen}
        updates, opt_state = tx.update(gradients, state.opt_state, state.params, **more)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema_params
        if ema is not None:
            # Early averages would be dominated by the initial weights without the ramp.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema, params)
        metrics = {**metrics, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    state_s, frozen_s, batch_s, replicated = shardings
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state_s, frozen_s, batch_s, replicated),
        out_shardings=(state_s, replicated),
    )


def make_loss(
    method: base.Method, shardings: Any = None
) -> Callable[[Params, Params, Batch, jax.Array, jax.Array], Metrics]:
    """`loss(params, frozen, batch, key, step) -> metrics`, for validation.

    `shardings` is (params, frozen, batch, replicated) or None.
    """

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array):
        return method.loss(params, frozen, {**batch, "step": step}, key, train=False)[1]

    if shardings is None:
        return jax.jit(loss)
    params_s, frozen_s, batch_s, replicated = shardings
    return jax.jit(
        loss,
        in_shardings=(params_s, frozen_s, batch_s, replicated, replicated),
        out_shardings=replicated,
    )

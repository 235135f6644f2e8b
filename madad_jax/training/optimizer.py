"""Optimisers.

AdamW is the decoupled one of arXiv 1711.05101, p <- p - lr (m/(sqrt(v)+eps) + wd p), which is
what PyTorch computes too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from madad_jax.core import errors
from madad_jax.training import schedules

OPTIMIZERS = ("adamw", "adam", "muon")
DECAY_MASKS = ("all", "matrices")


def _is_kernel(path: tuple[Any, ...], p: Any) -> bool:
    """Two or more axes, and no bias: those of parallel maps have two axes."""
    return jnp.ndim(p) >= 2 and getattr(path[-1], "key", "") != "bias"


def decay_matrices(params: Any) -> Any:
    """True for kernels (two or more axes): biases and norm scales are not decayed."""
    return jax.tree_util.tree_map_with_path(_is_kernel, params)


# Axes that go in and that come out: (in, out), (in, parts, out), (height, width, in, out).
_MATRIX_AXES = {2: ((0,), (1,)), 3: ((0,), (1, 2)), 4: ((0, 1, 2), (3,))}


def _matrix_dimensions(params: Any) -> Any:
    """How muon reads each kernel as one matrix of inputs by outputs."""

    def numbers(path: tuple[Any, ...], p: Any) -> Any:
        axes = _MATRIX_AXES.get(jnp.ndim(p)) if _is_kernel(path, p) else None
        return axes and optax.contrib.MuonDimensionNumbers(*axes)

    return jax.tree_util.tree_map_with_path(numbers, params)


def make_optimizer(
    *,
    name: str = "adamw",
    lr: float,
    schedule: str = "warmup_cosine",
    warmup_steps: int = 0,
    total_steps: int = 1,
    final_lr_ratio: float = 0.0,
    steps_per_epoch: int = 1,
    warmup_epochs: int = 0,
    epochs: int = 1,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    grad_clip_norm: float | None = None,
    decay_mask: str = "all",
    muon_lr_ratio: float = 10.0,
) -> tuple[optax.GradientTransformation, schedules.Schedule]:
    """The gradient transformation and its learning rate as a function of the step.

    Args:
      name: "adamw" (decoupled decay), "adam" (no decay) or "muon" (orthogonalised momentum for
        matrices and convolution kernels, those as matrices of inputs by outputs, AdamW with
        Nesterov momentum for all else; learns a small transformer in about half the steps).
      lr: peak learning rate.
      schedule: "warmup_cosine" (per step), "official_epochs" (per epoch) or "constant"; the
        numbers of the other schedules are not looked at.
      warmup_steps: optimiser steps over which `warmup_cosine` rises to the peak.
      total_steps: optimiser steps of the run, at which `warmup_cosine` has fallen.
      final_lr_ratio: rate at the end of `warmup_cosine` over the peak rate, 0 to 1.
      steps_per_epoch: optimiser steps for which `official_epochs` keeps one rate.
      warmup_epochs: epochs over which `official_epochs` rises to the peak.
      epochs: epochs of the run, over which `official_epochs` stretches its cosine.
      weight_decay: decoupled, multiplied by the rate of the step.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      eps: added to the root of the second moment.
      grad_clip_norm: global norm above which gradients are scaled down; None or 0 for never.
      decay_mask: "all" parameters (official code) or "matrices" only, which muon cannot.
      muon_lr_ratio: rate of muon's matrices over `lr`.

    Raises:
      UserError: for an unknown name or numbers that make no sense together.
    """
    schedules.check_choice("name", name, OPTIMIZERS)
    schedules.check_choice("decay_mask", decay_mask, DECAY_MASKS)
    rate = schedules.make_schedule(
        schedule,
        lr=lr,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final_lr_ratio=final_lr_ratio,
        steps_per_epoch=steps_per_epoch,
        warmup_epochs=warmup_epochs,
        epochs=epochs,
    )
    _check_decay(name, weight_decay, decay_mask)
    if name == "adam":
        tx = optax.adam(rate, b1=beta1, b2=beta2, eps=eps)
    elif name == "muon":
        # An orthogonalised update is as large in every direction, whatever its gradient: matrices
        # need a rate of their own.
        tx = optax.contrib.muon(
            lambda step: muon_lr_ratio * rate(step),
            adam_learning_rate=rate,
            muon_weight_dimension_numbers=_matrix_dimensions,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            adam_b1=beta1,
            adam_b2=beta2,
            eps=eps,
        )
    else:
        mask = decay_matrices if decay_mask == "matrices" else None
        tx = optax.adamw(rate, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay, mask=mask)
    if grad_clip_norm:
        # Before the moments, so that one bad batch does not stay in them for a thousand steps.
        tx = optax.chain(optax.clip_by_global_norm(grad_clip_norm), tx)
    return tx, rate


def _check_decay(name: str, weight_decay: float, decay_mask: str) -> None:
    """Raises UserError for a decay that the optimiser cannot do."""
    if name == "adam" and weight_decay:
        raise errors.UserError(
            f"config.optim.weight_decay: found {weight_decay} with name='adam', which has "
            "none; set it to 0 or choose 'adamw'"
        )
    if name == "muon" and weight_decay and decay_mask != "all":
        raise errors.UserError(
            f"config.optim.decay_mask: found {decay_mask!r} with name='muon', which decays all "
            "parameters; choose 'all', or weight_decay=0"
        )

r"""Learning-rate schedules.

`warmup_cosine` (per step s, warm-up w, total n, final ratio r):

    lr(s) = lr (s+1)/w                                       for s < w
    lr(s) = lr (r + (1-r) (1 + cos(pi (s-w)/(n-w))) / 2)     for w <= s < n, then lr r

`official_epochs`, constant within an epoch e = s // steps_per_epoch, with W warm-up epochs
and E epochs (official code; the first epoch therefore trains with a rate of 0, and the rate
does not fall to 0 because the cosine is stretched to 1.2 E):

    lr(e) = lr e/W                                           for e < W
    lr(e) = lr (1 + cos(pi (e-W)/(1.2 E - W))) / 2           otherwise
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from madad_jax.core import errors

Schedule = Callable[[Any], Any]

SCHEDULES = ("warmup_cosine", "official_epochs", "constant")


def check_choice(key: str, value: Any, accepted: tuple[str, ...]) -> None:
    """Raises UserError unless `value` is one of the accepted, naming `config.optim.<key>`."""
    if value not in accepted:
        raise errors.UserError(
            f"config.optim.{key}: found {value!r}, accepted are {', '.join(accepted)}"
        )


def warmup_cosine(
    lr: float, warmup_steps: int, total_steps: int, final_lr_ratio: float
) -> Schedule:
    """step -> rate; see the module docstring. The first step already moves."""
    # At least 1: a run may be all warm-up.
    decay = max(total_steps - warmup_steps, 1)

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        # step + 1: a first step with a rate of 0 would be wasted.
        rise = (step + 1) / max(warmup_steps, 1)
        turn = jnp.clip((step - warmup_steps) / decay, 0, 1)
        fall = final_lr_ratio + (1 - final_lr_ratio) * 0.5 * (1 + jnp.cos(jnp.pi * turn))
        return lr * jnp.where(step < warmup_steps, rise, fall)

    return schedule


def official_epochs(lr: float, warmup_epochs: int, epochs: int, steps_per_epoch: int) -> Schedule:
    """step -> rate of the official code, stepped once per epoch; see the module docstring."""

    def schedule(step: Any) -> jax.Array:
        # Integer division: a float32 step number loses whole steps above 2^24.
        epoch = (jnp.asarray(step) // steps_per_epoch).astype(jnp.float32)
        # 1.2 is the official code's, and so is the first epoch at a rate of 0.
        turn = (epoch - warmup_epochs) / max(1.2 * epochs - warmup_epochs, 1)
        fall = jnp.maximum(0.5 * (1 + jnp.cos(jnp.pi * turn)), 0)
        return lr * jnp.where(epoch < warmup_epochs, epoch / max(warmup_epochs, 1), fall)

    return schedule


def make_schedule(
    name: str,
    *,
    lr: float,
    warmup_steps: int,
    total_steps: int,
    final_lr_ratio: float,
    steps_per_epoch: int,
    warmup_epochs: int,
    epochs: int,
) -> Schedule:
    """The schedule `name`: a function from the step (from 0) to the learning rate.

    Raises:
      UserError: for an unknown name or numbers that make no schedule.
    """
    check_choice("schedule", name, SCHEDULES)
    if lr < 0:
        raise errors.UserError(f"config.optim.lr: found {lr}, must not be negative")
    if name == "constant":
        return lambda step: jnp.full(jnp.shape(step), lr, jnp.float32)
    if name == "warmup_cosine":
        if total_steps < 1 or warmup_steps < 0 or warmup_steps > total_steps:
            raise errors.UserError(
                f"config.optim.warmup_steps: found {warmup_steps} of {total_steps} steps; "
                "must lie between 0 and the number of steps"
            )
        return warmup_cosine(lr, warmup_steps, total_steps, final_lr_ratio)
    if steps_per_epoch < 1 or epochs < 1 or not 0 <= warmup_epochs <= epochs:
        raise errors.UserError(
            f"config.optim.warmup_epochs: found {warmup_epochs} of {epochs} epochs of "
            f"{steps_per_epoch} steps; must lie between 0 and the number of epochs"
        )
    return official_epochs(lr, warmup_epochs, epochs, steps_per_epoch)

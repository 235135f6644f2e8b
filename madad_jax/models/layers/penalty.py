"""Losses of blocks inside a network, handed to whoever traces a method's loss.

A block says `self.sow("penalty", name, value)`. `collect` gathers what was said while a function
was traced, so that a block's loss needs no word in any method. Nothing is kept between calls.
"""

import contextvars
from collections.abc import Callable
from typing import Any

import jax

_FOUND: contextvars.ContextVar[list[jax.Array] | None] = contextvars.ContextVar(
    "found", default=None
)


def collect(function: Callable[[], Any]) -> tuple[Any, list[jax.Array]]:
    """(function(), the penalties said meanwhile, scalars).

    `function` calls the network directly, not inside a scan of its own.
    """
    token = _FOUND.set([])
    try:
        out, found = function(), _FOUND.get()
    finally:
        _FOUND.reset(token)
    return out, found


def keep(apply: Callable[..., Any]) -> Any:
    """What a network's `apply` returns; its penalties are kept where somebody collects."""
    found = _FOUND.get()
    if found is None:
        return apply()
    out, said = apply(mutable=["penalty"])
    found += jax.tree.leaves(said)
    return out

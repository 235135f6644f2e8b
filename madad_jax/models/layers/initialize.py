"""Initial parameters of a network, without compiling a program as large as the network.

Drawing every tensor with its own random call compiles one kernel per tensor: half a minute for
the smallest U-Net on two cores. Here an initialiser only says what to draw. The network is
traced once with shapes alone, then one uniform and one normal vector are drawn for all tensors
together and cut up: by numpy when the key is concrete, and inside the trace under `jax.jit`
(to initialise straight into shards), with the same numbers.
"""

import contextvars
import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Placeholders handed out during a trace, by id; the array itself is kept so that ids stay unique.
_RECORD: contextvars.ContextVar[dict[int, tuple[Any, Any]] | None] = contextvars.ContextVar(
    "record", default=None
)


@dataclasses.dataclass(frozen=True)
class Draw:
    """What fills a tensor: mean + scale * ("uniform" in [-1, 1) | "normal" | nothing).

    Called by a network as an initialiser, it returns a placeholder of the right shape.
    """

    kind: str = "constant"
    scale: float = 0.0
    mean: float = 0.0

    def __call__(self, key: Any, shape: tuple[int, ...]) -> Any:
        """A zero-stride array of `shape`; `key` is unused, the common vectors are cut up."""
        # Stride 0: a placeholder of a large kernel takes four bytes.
        placeholder = np.broadcast_to(np.float32(self.mean), shape)
        record = _RECORD.get()
        if record is not None:
            record[id(placeholder)] = (placeholder, self)
        return placeholder

    def fill(self, values: Any, shape: tuple[int, ...]) -> Any:
        """A tensor of `shape` from its piece of the common vector."""
        return values.reshape(shape) * np.float32(self.scale) + np.float32(self.mean)


zeros = Draw()
ones = Draw(mean=1.0)


def normal(std: float, mean: float = 0.0) -> Draw:
    """N(mean, std)."""
    return Draw("normal", std, mean)


def torch_default(fan_in: int) -> Draw:
    """PyTorch's default for kernels and biases: uniform within 1/sqrt(fan_in)."""
    return Draw("uniform", 1 / math.sqrt(fan_in))


def xavier(fan_in: int, fan_out: int) -> Draw:
    """Glorot's uniform initialisation."""
    return Draw("uniform", math.sqrt(6 / (fan_in + fan_out)))


def init(module: nn.Module, key: jax.Array, *inputs: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """Fresh parameters of `module` called on `inputs`: a nested dict of float32 arrays."""
    placeholders, draws = _trace(module, inputs)
    leaves, structure = jax.tree.flatten(placeholders)
    drawn = [draws[id(leaf)][1] for leaf in leaves]
    totals = {"uniform": 0, "normal": 0, "constant": 0}
    offsets = []
    for leaf, draw in zip(leaves, drawn, strict=True):
        offsets.append(totals[draw.kind])
        totals[draw.kind] += leaf.size
    pools = {kind: _pool(key, kind, totals[kind]) for kind in ("uniform", "normal")}
    # Slicing numpy compiles nothing; slicing a device array compiles once a shape.
    if not isinstance(key, jax.core.Tracer):
        pools = {kind: np.asarray(pool) for kind, pool in pools.items()}
    filled = []
    for leaf, draw, offset in zip(leaves, drawn, offsets, strict=True):
        values = leaf
        if draw.kind != "constant":
            values = draw.fill(pools[draw.kind][offset : offset + leaf.size], leaf.shape)
        filled.append(jnp.asarray(values))
    return jax.tree.unflatten(structure, filled)


def _trace(module: Any, inputs: tuple[jax.ShapeDtypeStruct, ...]) -> tuple[Any, dict[int, Any]]:
    """Placeholder tree and record. Without remat, whose own trace would hide placeholders."""
    if getattr(module, "remat", False):
        # Parameters are the same with and without it.
        module = module.clone(remat=False)
    record: dict[int, Any] = {}
    captured = {}

    def run(key: jax.Array, *arrays: jax.Array) -> None:
        captured.update(module.init({"params": key}, *arrays)["params"])

    token = _RECORD.set(record)
    try:
        # The key is never drawn from: `Draw` only leaves its placeholder.
        jax.eval_shape(run, jax.random.key(0), *inputs)
    finally:
        _RECORD.reset(token)
    return captured, record


@functools.partial(jax.jit, static_argnums=(1, 2))
def _pool(key: jax.Array, kind: str, size: int) -> jax.Array:
    """The common vector of one kind."""
    if kind == "normal":
        # Keys of their own: from one key the two vectors would be correlated.
        return jax.random.normal(jax.random.fold_in(key, 1), (size,))
    return jax.random.uniform(jax.random.fold_in(key, 0), (size,), minval=-1.0, maxval=1.0)

"""Which axis of which parameter is split over which mesh axis."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from madad_jax.core import errors, trees, units

# (path pattern, axis counted from the end that is split over `tensor`)
TENSOR_RULES: tuple[tuple[str, int], ...] = (
    (r"(^|[/_])qkv/(kernel|bias)$", -1),
    (r"attn[^/]*[/_]proj/kernel$", -2),  # DiT
    (r"block[^/]*/proj_out/kernel$", -2),  # U-Net
    (r"(^|[/_])fc1/(kernel|bias)$", -1),
    (r"(^|[/_])fc2/kernel$", -2),
)


def _spec(
    path: str, shape: Sequence[int], mesh: Mesh, rules: Sequence[tuple[str, int]], min_size: int
) -> PartitionSpec:
    """The partition of one parameter: tensor rule first, then the FSDP shape rule."""
    axes: list[str | None] = [None] * len(shape)
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    if tensor > 1:
        hit = next((axis for pattern, axis in rules if re.search(pattern, path)), None)
        if hit is not None and -hit <= len(shape) and shape[hit] % tensor == 0:
            axes[hit] = "tensor"
    if fsdp > 1 and math.prod(shape) >= min_size:
        divisible = [i for i, n in enumerate(shape) if axes[i] is None and n and n % fsdp == 0]
        if divisible:
            axes[max(divisible, key=lambda i: shape[i])] = "fsdp"
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes)


def param_shardings(
    abstract_params: Any,
    mesh: Mesh,
    *,
    rules: Sequence[tuple[str, int]] = TENSOR_RULES,
    min_size: int = 1024,
    max_replicated: float = 0.05,
) -> Any:
    """A tree of `NamedSharding` for a tree of parameters (arrays or abstract values).

    Args:
      abstract_params: anything whose leaves have a shape.
      mesh: from `make_mesh`.
      rules: (path pattern, axis from the end) for tensor parallelism; the first match counts.
      min_size: arrays with fewer elements are not split over `fsdp`.
      max_replicated: the share of elements that may stay whole under `fsdp` > 1.

    Raises:
      UserError: when more than `max_replicated` of the elements stayed whole under `fsdp` > 1.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        spec = _spec(trees.path_string(path), np.shape(leaf), mesh, rules, min_size)
        return NamedSharding(mesh, spec)

    shardings = jax.tree_util.tree_map_with_path(one, abstract_params)
    if mesh.shape["fsdp"] > 1:
        _check_split(abstract_params, shardings, mesh, max_replicated)
    return shardings


def _check_split(abstract_params: Any, shardings: Any, mesh: Mesh, limit: float) -> None:
    """Raises when FSDP would leave too much whole: memory would not fall as promised."""
    sizes = {path: math.prod(np.shape(x)) for path, x in trees.flatten(abstract_params).items()}
    whole = {
        path: sizes[path]
        for path, sharding in trees.flatten(shardings).items()
        if "fsdp" not in sharding.spec
    }
    total = sum(sizes.values())
    # Below a megabyte there is nothing to save: tiny networks are mostly biases and norms.
    if sum(whole.values()) > max(limit * total, 2**18):
        worst = sorted(whole, key=lambda path: -whole[path])[:3]
        raise errors.UserError(
            f"config.mesh: fsdp={mesh.shape['fsdp']} leaves "
            f"{100 * sum(whole.values()) / total:.1f} % of the parameters on every device "
            f"(at most {100 * limit:.1f} % accepted), the largest being {', '.join(worst)}; "
            "choose a size that divides the model's widths"
        )


def state_shardings(
    abstract_state: Any,
    mesh: Mesh,
    *,
    rules: Sequence[tuple[str, int]] = TENSOR_RULES,
    min_size: int = 1024,
    max_replicated: float = 0.05,
) -> Any:
    """A tree of `NamedSharding` shaped like a train state (a tree with a field `params`).

    A leaf whose path ends in a parameter's path and has its shape (Adam's moments, the
    average) is split as that parameter is; others by the shape rule alone; scalars are whole.

    Raises:
      UserError: see `param_shardings`.
    """
    table: Mapping[str, Any] = trees.flatten(
        param_shardings(
            abstract_state.params,
            mesh,
            rules=rules,
            min_size=min_size,
            max_replicated=max_replicated,
        )
    )
    shapes = {path: np.shape(x) for path, x in trees.flatten(abstract_state.params).items()}

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        for start in range(len(path)):
            tail = trees.path_string(path[start:])
            if shapes.get(tail) == shape:
                return table[tail]
        return NamedSharding(mesh, _spec("", shape, mesh, (), min_size))

    return jax.tree_util.tree_map_with_path(one, abstract_state)


def gathered(shardings: Any) -> Any:
    """The same shardings without `fsdp`: parameters as a layer uses them."""

    def one(sharding: NamedSharding) -> NamedSharding:
        spec = (None if axis == "fsdp" else axis for axis in sharding.spec)
        return NamedSharding(sharding.mesh, PartitionSpec(*spec))

    return jax.tree.map(one, shardings)


def with_shardings(abstract_tree: Any, shardings: Any) -> Any:
    """`ShapeDtypeStruct`s of `abstract_tree` that carry `shardings` (a restore target)."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract_tree, shardings
    )


def _device_bytes(tree: Any, shardings: Any) -> int:
    """Bytes of `tree` that one device holds."""
    sizes = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(tuple(np.shape(x)))) * np.dtype(x.dtype).itemsize,
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def describe(abstract_state: Any, mesh: Mesh, **kwargs: Any) -> str:
    """One line: the mesh, the parameter count, and bytes per device by part of the state."""
    shardings = state_shardings(abstract_state, mesh, **kwargs)
    count = sum(math.prod(np.shape(x)) for x in jax.tree.leaves(abstract_state.params))
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    parts = []
    for field, name in (
        ("params", "parameters"),
        ("opt_state", "optimiser state"),
        ("ema_params", "averaged parameters"),
    ):
        part = getattr(abstract_state, field, None)
        if part is not None:
            size = _device_bytes(part, getattr(shardings, field))
            parts.append(f"{name} {units.human(size)}")
    return f"mesh {axes}; {count:,} parameters; per device: {', '.join(parts)}"

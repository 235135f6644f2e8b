"""Device meshes, and which axis of each array is split over which mesh axis.

The mesh has three named axes, in this order: `data` (batch only), `fsdp` (batch, and
parameters are split over it) and `tensor` (attention and MLP kernels are split over it). Axis
types are `Auto`, so the compiler propagates shardings and inserts the collectives (GSPMD).

Parameters are split by rule, not by annotations in model code:

1. `TENSOR_RULES`: path pattern -> the axis (counted from the end) that goes over `tensor`,
   after Megatron-LM (arXiv 1909.08053): the first layer of a pair is split by output, the
   second by input, so that a pair costs one all-reduce.
2. A shape rule for `fsdp`: the largest axis that it divides; small arrays stay whole.

Optimiser statistics and averaged parameters follow their parameter.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from madad_jax.core import errors, trees
from madad_jax.core.types import Int

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# (path pattern, axis counted from the end that is split over `tensor`)
TENSOR_RULES: tuple[tuple[str, int], ...] = (
    (r"(^|[/_])qkv/(kernel|bias)$", -1),
    (r"attn[^/]*[/_]proj/kernel$", -2),  # DiT
    (r"block[^/]*/proj_out/kernel$", -2),  # U-Net
    (r"(^|[/_])fc1/(kernel|bias)$", -1),
    (r"(^|[/_])fc2/kernel$", -2),
)


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
    *,
    dcn_data: int = -1,
    dcn_fsdp: int = 1,
    slices: int = 0,
) -> Mesh:
    """The mesh `(data, fsdp, tensor)` over `devices` (default: all of the job's).

    At most one of the three sizes may be -1 and then takes what is left. Where devices lie in
    several slices (TPU slices joined by the data centre's network), `data` spans `dcn_data` and
    `fsdp` `dcn_fsdp` of them, as the outer part of the axis, and all else stays within a slice.

    Args:
      data: size of the axis, as are `fsdp` and `tensor`.
      fsdp: see `data`.
      tensor: see `data`.
      devices: `jax.Device`s, in the order of `jax.devices()`.
      dcn_data: slices that `data` spans; -1 for all that there are over `dcn_fsdp`.
      dcn_fsdp: slices that `fsdp` spans.
      slices: how many equal runs of `devices` are slices; 0 for what the devices say
        (`slice_index`), or dcn_data x dcn_fsdp of those that do not say.

    Raises:
      UserError: when the sizes do not multiply to the number of devices, or not to the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    count = len(devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise errors.UserError(
            f"config.mesh: found {asked}; sizes must be positive and at most one may be -1"
        )
    if free and count % fixed == 0:
        sizes[free[0]] = count // fixed
    if math.prod(sizes.values()) != count:
        raise errors.UserError(
            f"config.mesh: found {asked}, but there are {count} devices; "
            f"the product of the sizes must be {count}, or a divisor of it where one size is -1"
        )
    shape, kinds = tuple(sizes[name] for name in AXES), (AxisType.Auto,) * 3
    across = _across_slices(sizes, dcn_data, dcn_fsdp, devices, slices)
    if math.prod(across) == 1:
        return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)
    return Mesh(hybrid_grid(shape, across, devices, slices), AXES, axis_types=kinds)


def hybrid_grid(
    shape: Sequence[int], across: Sequence[int], devices: Sequence[Any], slices: int = 0
) -> np.ndarray:
    """Devices in a grid of `shape` whose axes span `across` slices, as their outer parts.

    Slices are those that the devices tell of, or equal runs of `devices` where they do not, or
    where `slices` says so.
    """
    within = tuple(size // dcn for size, dcn in zip(shape, across, strict=True))
    if not slices and _says_slice(devices):
        return mesh_utils.create_hybrid_device_mesh(within, across, devices)
    grid = np.array(devices).reshape(*across, *within)
    return grid.transpose(0, 3, 1, 4, 2, 5).reshape(shape)


def _says_slice(devices: Sequence[Any]) -> bool:
    return getattr(devices[0], "slice_index", None) is not None


def _across_slices(
    sizes: Mapping[str, int],
    dcn_data: int,
    dcn_fsdp: int,
    devices: Sequence[Any],
    slices: int,
) -> tuple[int, int, int]:
    """Slices that each axis spans."""
    found = slices or (len({d.slice_index for d in devices}) if _says_slice(devices) else 0)
    asked = f"config.mesh: found dcn_data={dcn_data}, dcn_fsdp={dcn_fsdp}"
    if dcn_fsdp < 1 or (dcn_data < 1 and dcn_data != -1):
        raise errors.UserError(f"{asked}; both must be positive, and dcn_data may be -1")
    if dcn_data == -1:
        dcn_data = max(found or dcn_fsdp, 1) // dcn_fsdp
    if found and dcn_data * dcn_fsdp != found:
        raise errors.UserError(f"{asked}, but there are {found} slices; their product must be that")
    for name, dcn in (("data", dcn_data), ("fsdp", dcn_fsdp)):
        if sizes[name] % dcn:
            raise errors.UserError(
                f"{asked}; {name}={sizes[name]} does not divide over {dcn} slices, so that tensor "
                "or fsdp would cross them; choose sizes whose product is that of one slice"
            )
    return dcn_data, dcn_fsdp, 1


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over `data` and `fsdp`, the others are whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[name] for name in BATCH_AXES)


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


def data_process(mesh: Mesh) -> tuple[int, int]:
    """(index, count) of the batch slice that this process has to read.

    Processes that hold the same rows (a `tensor` axis that spans hosts) read the same slice.

    Raises:
      UserError: when processes hold rows that overlap only in part.
    """
    owners = np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)
    return slice_of(owners.reshape(batch_shards(mesh), -1), jax.process_index())


def slice_of(owners: Int[np.ndarray, "shards tensor"], process: int) -> tuple[int, int]:
    """`data_process` of any process, from the process that owns each (batch shard, tensor)."""
    held = {p: tuple(np.flatnonzero((owners == p).any(axis=1))) for p in np.unique(owners)}
    slices = sorted(set(held.values()))
    if sum(map(len, slices)) != len(owners) or len(set(map(len, slices))) != 1:
        raise errors.UserError(
            f"config.mesh: {len(owners)} batch shards x {owners.shape[1]} tensor shards lie "
            f"unevenly over {len(held)} processes; let tensor divide the devices of one process, "
            "or be a multiple of them"
        )
    return slices.index(held[process]), len(slices)


def global_batch(mesh: Mesh, batch: Any) -> Any:
    """This process's numpy arrays as its part of global JAX arrays.

    Leading axes are split over the mesh's batch axes and grow by the number of slices
    (`data_process`); scalars are replicated. Every process must call it.

    Raises:
      UserError: when the rows do not divide by the mesh.
    """
    split, whole = batch_sharding(mesh), replicated(mesh)
    local_shards = batch_shards(mesh) // data_process(mesh)[1]

    def one(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        if array.ndim == 0:
            return jax.make_array_from_process_local_data(whole, array)
        if len(array) % local_shards:
            raise errors.UserError(
                f"batch {trees.path_string(path)!r}: {len(array)} rows do not divide by the "
                f"{local_shards} batch shards that this process holds (config.mesh)"
            )
        return jax.make_array_from_process_local_data(split, array)

    return jax.tree_util.tree_map_with_path(one, batch)


def check_batch_size(
    batch_size: int, mesh: Mesh, accum_steps: int = 1, key: str = "config.batch_size"
) -> None:
    """Raises a `UserError` unless each microbatch divides by the mesh's batch axes."""
    need = batch_shards(mesh) * accum_steps
    if batch_size < 1 or accum_steps < 1 or batch_size % need:
        shape = mesh.shape
        raise errors.UserError(
            f"{key}: found {batch_size}; it must be a positive multiple of {need} "
            f"(mesh data={shape['data']} x fsdp={shape['fsdp']} x {accum_steps} "
            "accumulation steps)"
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
            parts.append(f"{name} {human(size)}")
    return f"mesh {axes}; {count:,} parameters; per device: {', '.join(parts)}"


def human(size: float | int) -> str:
    """Bytes in binary units, as `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError

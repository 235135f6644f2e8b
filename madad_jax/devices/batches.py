"""Batches of hosts as global arrays: who reads which rows."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from madad_jax.core import errors, trees
from madad_jax.core.types import Int
from madad_jax.devices import mesh as mesh_lib


def data_process(mesh: Mesh) -> tuple[int, int]:
    """(index, count) of the batch slice that this process has to read.

    Processes that hold the same rows (a `tensor` axis that spans hosts) read the same slice.

    Raises:
      UserError: when processes hold rows that overlap only in part.
    """
    owners = np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)
    return slice_of(owners.reshape(mesh_lib.batch_shards(mesh), -1), jax.process_index())


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
    split, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    local_shards = mesh_lib.batch_shards(mesh) // data_process(mesh)[1]

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
    need = mesh_lib.batch_shards(mesh) * accum_steps
    if batch_size < 1 or accum_steps < 1 or batch_size % need:
        shape = mesh.shape
        raise errors.UserError(
            f"{key}: found {batch_size}; it must be a positive multiple of {need} "
            f"(mesh data={shape['data']} x fsdp={shape['fsdp']} x {accum_steps} "
            "accumulation steps)"
        )

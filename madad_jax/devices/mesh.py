"""The device mesh: its axes, its shape over hosts and slices, the two usual shardings."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from madad_jax.core import errors

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


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

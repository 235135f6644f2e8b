"""The brain of a head scan, by the networks of deepbet run through JAX.

Two passes of one small network (networks/brain_extraction.py): the whole volume at 128^3 finds a
box, the box at 256^3 finds the brain; then the largest component, its holes filled. Method and
weights: Fisch et al. 2024, doi 10.1016/j.compbiomed.2024.108845. `brain_command` is the command.
"""

import functools
import importlib.metadata
import threading
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Float32, Shaped
from scipy import ndimage

from madad_jax.convert import containers, torch_file
from madad_jax.core import errors
from madad_jax.models.networks import brain_extraction
from madad_jax.runtime import executables

_SMALL, _LARGE = 128, 256
_LOW, _HIGH = 0.005, 0.995  # quantiles that become 0 and 1
_MEAN, _SPREAD = 0.449, 0.226  # what the networks were trained on
_MARGIN = 0.1  # of the box, on every side
_LEAST_SHARE = 0.02  # of a plane, for it to belong to the box
_INSTALL = "pip install --no-deps deepbet"
# One network at a time, whatever the number of scans in work: it takes 0.3 GB.
_LOCK = threading.Lock()


def weights_folder() -> epath.Path:
    """Where deepbet was installed to. Raises UserError when it was not."""
    try:
        distribution = importlib.metadata.distribution("deepbet")
    except importlib.metadata.PackageNotFoundError as error:
        raise errors.UserError(
            f"the built-in brain extraction needs the weights of deepbet; accepted: {_INSTALL}"
        ) from error
    return epath.Path(str(distribution.locate_file("data/models")))


@functools.cache
def load(name: str) -> dict[str, jax.Array]:
    """Weights of `model.pt` or `bbox_model.pt`.

    Raises:
      UserError: not installed, damaged, or of another network.
    """
    path = weights_folder() / name
    if not path.exists():
        raise errors.UserError(f"'{path}' does not exist; accepted: {_INSTALL}")
    with path.open("rb") as stream, torch_file.opened(str(path), stream, scripted=True) as root:
        found = dict(containers.walk_scripted(str(path), root))
        brain_extraction.check(str(path), found)
        # Not by `jax.numpy`, which compiles a program for every shape among them.
        return jax.device_put({key: tensor.read() for key, tensor in found.items()})


@functools.cache
def _program(part: Callable, name: str, shape: tuple[int, ...]) -> jax.stages.Compiled:
    """A part of the network with the weights `name`; kept whole for the next scan."""
    inputs = (load(name), jax.ShapeDtypeStruct(shape, np.float32))
    # Whatever precision the model's config sets for this process: a mask is the same for all.
    with jax.default_matmul_precision("default"):
        return executables.compiled(
            f"brain extraction, {part.__name__}",
            *(jax.jit(part), inputs, part, jax.local_devices()[:1]),
        )


def _encode(name: str, volume: Float[np.ndarray, "X Y Z"]) -> jax.Array:
    with _LOCK:
        return _program(brain_extraction.encode, name, volume.shape)(load(name), volume)


def _decide(name: str, features: Float[jax.Array, "x y z 16"]) -> Bool[np.ndarray, "X Y Z"]:
    with _LOCK:
        found = _program(brain_extraction.decide, name, features.shape)(load(name), features)
        return np.asarray(found)


def find(data: Float32[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "X Y Z"]:
    """The brain mask of a volume in canonical orientation (RAS+), whatever its voxels.

    Raises:
      UserError: no weights, or nothing that looks like a head.
    """
    small = resize(data, (_SMALL,) * 3)
    # One range for both passes: a box around the brain has other quantiles than a head.
    limits = np.quantile(small, (_LOW, _HIGH))
    if not limits[1] > limits[0]:
        raise errors.UserError("the volume is constant: there is no head in it")
    # In two calls, so that the volume of 256^3 is gone when the largest features are there.
    features = _encode("bbox_model.pt", sample_normalised(small, _SMALL, limits))
    rough = _decide("bbox_model.pt", features)
    if not rough.any():
        raise errors.UserError("no brain was found in the volume")
    box = _box(_largest(rough), data.shape)
    features = _encode("model.pt", sample_normalised(data[box], _LARGE, limits))
    fine = _decide("model.pt", features)
    inside = resize(fine, data[box].shape)
    mask = np.zeros(data.shape, bool)
    if inside.any():
        mask[box] = ndimage.binary_fill_holes(_largest(inside))
    return mask


def resize(data: Shaped[np.ndarray, "X Y Z"], shape: Sequence[int]) -> Shaped[np.ndarray, "A B C"]:
    """Nearest neighbour by voxel centres."""
    for axis, (old, new) in enumerate(zip(data.shape, shape, strict=True)):
        data = data.take(_nearest(old, new), axis)
    return data


def sample_normalised(
    data: Float[np.ndarray, "X Y Z"], side: int, limits: Float[np.ndarray, " 2"]
) -> Float32[np.ndarray, "side side side"]:
    """`resize` to a cube, `limits` to 0 and 1, then the mean and spread that the networks know.

    Voxels are scaled before they are repeated: a head of 2 mm has a thirtieth of them.
    """
    found = [np.unique(_nearest(old, side), return_counts=True) for old in data.shape]
    for axis, (index, _) in enumerate(found):
        data = data.take(index, axis)
    x, y, z = (times / side for _, times in found)  # how much of the cube is one of them
    unit = np.clip((data - limits[0]) / (limits[1] - limits[0]), 0.0, 1.0)
    centred = unit - unit @ z @ y @ x
    count = side**3
    spread = np.sqrt((np.square(centred) @ z @ y @ x) * (count / (count - 1)))
    out = (centred * (_SPREAD / max(float(spread), 1e-6)) + _MEAN).astype(np.float32)
    for axis, (_, times) in enumerate(found):
        out = out.repeat(times, axis)
    return out


def _nearest(old: int, new: int) -> np.ndarray:
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(int), old - 1)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest component, neighbours at corners included."""
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    return labels == np.bincount(labels[mask]).argmax()


def _box(rough: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Where the rough brain lies in a volume of `shape`, with a margin."""
    found = []
    for axis, length in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        planes = np.flatnonzero(rough.mean(others) > _LEAST_SHARE)
        if not planes.size:
            raise errors.UserError("no brain was found in the volume, only specks")
        scale = length / rough.shape[axis]
        low, high = planes[0], planes[-1] + 1
        centre = np.round(scale * (low + high) / 2)
        size = np.round(scale * (high - low) * (1 + 2 * _MARGIN))
        found.append(slice(max(0, int(centre - size / 2)), min(length, int(centre + size / 2))))
    return tuple(found)

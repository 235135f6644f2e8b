"""Tensors of a weights file that are described now and read later.

A file is opened without reading its weights: shapes and names are checked first, and what is
not asked for (an optimiser, a discriminator, a text encoder) is never read. Numbers come out
as plain numpy arrays; bfloat16, which numpy lacks, is widened to float32, which is exact.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from madad_jax.core import errors, messages

# Element type by PyTorch's name: (numpy type of the bytes, bytes per element).
DTYPES = {
    "float64": ("f8", 8),
    "float32": ("f4", 4),
    "float16": ("f2", 2),
    "bfloat16": ("u2", 2),
    "int64": ("i8", 8),
    "int32": ("i4", 4),
    "int16": ("i2", 2),
    "int8": ("i1", 1),
    "uint64": ("u8", 8),
    "uint32": ("u4", 4),
    "uint16": ("u2", 2),
    "uint8": ("u1", 1),
    "bool": ("u1", 1),
}
MAX_AXES = 32
MAX_TENSORS = 100_000  # of one file; the largest networks that are passed around have some thousand


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A flat run of elements in a file. `read()` returns its bytes, checked for length.

    `place` says where in the file: tensors that share a storage share it.
    """

    dtype: str
    numel: int
    read: Callable[[], bytes]
    big_endian: bool = False
    place: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A strided view of a storage: element (i, j, ..) is at offset + i stride_0 + j stride_1 ...

    Storages may be shared between tensors. `check` has bounded it before one is made.
    """

    name: str  # of the file, for complaints
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> str:
        """PyTorch's name of the element type."""
        return self.storage.dtype

    def read(self) -> np.ndarray:
        """The values, in a fresh contiguous array.

        Raises:
            UserError: the bytes are not there or the element type has no numpy equivalent.
        """
        if self.dtype not in DTYPES:
            raise errors.UserError(
                f"{self.name}: tensor of element type {messages.shorten(self.dtype)}; accepted "
                f"are {', '.join(DTYPES)}"
            )
        code, width = DTYPES[self.dtype]
        kind = np.dtype((">" if self.storage.big_endian else "<") + code)
        data = self.storage.read()
        if len(data) < self.storage.numel * width:
            raise errors.UserError(f"{self.name}: damaged: it ends within a tensor")
        if 0 in self.shape:
            return _converted(np.zeros(self.shape, kind), self.dtype)
        # `check` has shown that the last element lies inside. Of a storage that many tensors share
        # only this one's elements are converted.
        flat = np.frombuffer(data, kind, self.storage.numel)[self.offset :]
        view = np.lib.stride_tricks.as_strided(flat, self.shape, [s * width for s in self.strides])
        return _converted(np.array(view, order="C"), self.dtype)


def check(
    name: str, numel: int, offset: object, shape: object, strides: object, limit: int
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """(offset, shape, strides) of a tensor, when they make sense for its storage.

    Args:
        name: the file, for complaints.
        numel: elements in the storage.
        offset: as found in the file; so are shape and strides.
        shape: sequence of lengths.
        strides: sequence of steps in elements.
        limit: most elements that a tensor may have (a broadcast one can be larger than its
            storage).

    Raises:
        UserError: not whole numbers, negative, or beyond the storage.
    """
    lists: list[tuple[int, ...]] = []
    for value in ((offset,), shape, strides):
        if not isinstance(value, tuple | list) or len(value) > MAX_AXES:
            raise errors.UserError(f"{name}: damaged: a tensor's shape is no list of numbers")
        if not all(type(n) is int and 0 <= n < 2**48 for n in value):
            raise errors.UserError(
                f"{name}: damaged: a tensor's offset, shape or strides are no whole numbers"
            )
        lists.append(tuple(value))
    (start,), sizes, steps = lists
    if len(sizes) != len(steps):
        raise errors.UserError(f"{name}: damaged: {len(sizes)} axes but {len(steps)} strides")
    last = start + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
    # An empty tensor takes no memory, but numpy counts its other axes.
    elements = math.prod(max(n, 1) for n in sizes)
    if elements > (2**48 if 0 in sizes else limit) or (0 not in sizes and last >= numel):
        raise errors.UserError(
            f"{name}: damaged: a tensor of shape {sizes} reaches beyond its {numel} elements"
        )
    return start, sizes, steps


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array of `shape`."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _converted(array: np.ndarray, dtype: str) -> np.ndarray:
    """Elements as they lie in a file -> numbers in the machine's byte order."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if dtype == "bfloat16":  # the upper half of a float32
        return np.asarray(array.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array != 0) if dtype == "bool" else array

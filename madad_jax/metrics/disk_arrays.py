"""Arrays that are too many for memory: appended to a nameless temporary file, read as one.

The file lies where Python puts temporary files ($TMPDIR), has no name that could stay behind,
and goes with the last reader.
"""

import tempfile
import weakref

import numpy as np


class DiskArray:
    """Grows along the first axis. All parts have one dtype and one shape behind that axis."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as its readers
        # Closed by name with the last reference; a mapping has a descriptor of its own.
        weakref.finalize(self, self._file.close)
        self._length = 0
        self._like: np.ndarray | None = None

    def append(self, part: np.ndarray) -> None:
        """Appends [n, ...].

        Raises ValueError for another dtype or shape than that of the first part.
        """
        if self._like is None:
            self._like = part[:0]
        if part.dtype != self._like.dtype or part.shape[1:] != self._like.shape[1:]:
            raise ValueError(
                f"part: found {part.dtype} {part.shape[1:]}, "
                f"accepted: {self._like.dtype} {self._like.shape[1:]}"
            )
        # Bytes in the order of the axes, whatever the part's strides.
        self._file.write(np.ascontiguousarray(part).tobytes())
        self._length += len(part)

    def read(self) -> np.ndarray:
        """All parts as one array, read from disk where it is read. Nothing may be added after.

        Raises ValueError when nothing was added.
        """
        if self._like is None:
            raise ValueError("found no part")
        shape = (self._length, *self._like.shape[1:])
        if not np.prod(shape):  # a file of no bytes cannot be mapped
            return np.zeros(shape, self._like.dtype)
        self._file.flush()
        return np.memmap(self._file, self._like.dtype, mode="r", shape=shape)

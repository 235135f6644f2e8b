"""MGH files (FreeSurfer), compressed (.mgz) or not: bytes to an array and its place.

nibabel reads values and geometry; the header's claims are held against the file's length before.
"""

import hashlib
import io
import math

import nibabel as nib
import numpy as np
from etils import epath
from jaxtyping import Float64

from madad_jax.core import atomic_files, errors, messages
from madad_jax.scans import file_bytes, nifti_file

ENDINGS = (".mgz", ".mgh", ".mgh.gz")
_HEADER = 284
# Behind the image: the scanner's parameters, then tags with tables of colours and old commands.
_MOST_AFTER = 2**24
_Header = nib.freesurfer.mghformat.MGHHeader
_TYPES = nib.freesurfer.mghformat.data_type_codes
_UNKNOWN = "the header states no orientation (goodRASFlag is 0): left and right are a guess"


def read(path: epath.Path) -> nifti_file.Content:
    """Reads an MGH file to its end; its `header` is None.

    Raises:
      UserError: the file is missing, damaged, longer or shorter than its header says, or not one
        volume of numbers.
    """
    header, end, odd = _read_layout(path)
    shape = _shape(header)
    content = atomic_files.read_bytes(path)
    with file_bytes.guard(path):
        stream = file_bytes.open_plain(content)
        body, _ = file_bytes.take(stream, end, path, shape, _MOST_AFTER)
    values = np.frombuffer(body, header.get_data_dtype(), offset=_HEADER)
    # The first axis runs fastest, as in NIfTI.
    array = values.reshape(shape, order="F").astype(np.float32)
    digest = hashlib.sha256(content).hexdigest()
    return nifti_file.Content(None, array, digest, odd, _affine(header))


def read_grid(path: epath.Path) -> tuple[tuple[int, ...], Float64[np.ndarray, "4 4"]]:
    """The three sides and the voxel -> mm matrix (RAS+).

    Raises:
      UserError: as `read`, as far as the file's first bytes and its length tell.
    """
    header, _, _ = _read_layout(path)
    return _shape(header), _affine(header)


def _read_layout(path: epath.Path) -> tuple[_Header, int, tuple[str, ...]]:
    """The header, the byte at which the image ends, and what is odd about the header."""
    start = file_bytes.read_start(path, _HEADER)
    # Version, three sides, volumes, type of the numbers: what is claimed, before nibabel sees it.
    claims = np.frombuffer(start.content[:24], ">i4").tolist()
    if len(start.content) < _HEADER or claims[0] != 1:
        raise errors.UserError(f"'{path}' is no MGH file (no header of version 1)")
    shape, frames, kind = tuple(claims[1:4]), claims[4], claims[5]
    if frames != 1:
        raise errors.UserError(
            f"'{path}' has {frames} volumes; accepted: one (split a series of volumes first)"
        )
    if kind not in _TYPES.value_set():
        raise file_bytes.no_numbers(str(path), f"numbers of type {kind}")
    file_bytes.check_sides(path, shape)
    end = _HEADER + math.prod(shape) * _TYPES.numpy_dtype[kind].itemsize
    file_bytes.check_length(
        path, start.size, end, shape, packed=start.packed, most_after=_MOST_AFTER
    )
    # From the bytes: nibabel sets the flag when it puts a matrix of its own in.
    placed = int.from_bytes(start.content[28:30], "big") != 0
    try:
        header = _Header.from_fileobj(io.BytesIO(start.content))
        return header, end, () if placed else (_UNKNOWN,)
    except nifti_file.UNREADABLE as error:
        reason = messages.shorten(str(error), 200)
        raise errors.UserError(f"'{path}' is no readable MGH file: {reason}") from error


def _shape(header: _Header) -> tuple[int, ...]:
    return tuple(int(n) for n in header.get_data_shape())


def _affine(header: _Header) -> Float64[np.ndarray, "4 4"]:
    with np.errstate(all="ignore"):  # Of damaged headers; the grid is checked after.
        return np.asarray(header.get_affine(), np.float64)

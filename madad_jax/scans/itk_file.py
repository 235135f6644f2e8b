"""NRRD and MHA files: text headers before their numbers, in one file.

The header is parsed here, because a stranger's may name other files, claim more than is there, or
place its numbers elsewhere. SimpleITK then sees a clean header without numbers: it says where the
voxels lie, and no other file is ever opened.
"""

import dataclasses
import hashlib
import io
import math
import re
import tempfile
import zlib

import numpy as np
from etils import epath
from jaxtyping import Float64

from madad_jax.core import atomic_files, errors, messages
from madad_jax.scans import file_bytes, itk, nifti_file

NRRD, MHA = ".nrrd", ".mha"
DETACHED = (".nhdr", ".mhd")
_MOST_HEADER = 2**20
_MOST_AFTER = 2**16
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(rf"\s*{_NUMBER}(?:\s+{_NUMBER})*\s*")
_VECTORS = re.compile(rf"\s*(?:\(\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*\)\s*)+")
# ITK's axes run to the left and the back.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNKNOWN = "the header states no orientation ({}): left and right are a guess"
_SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), "right-anterior-superior"),
    **dict.fromkeys(("left-anterior-superior", "las"), "left-anterior-superior"),
    **dict.fromkeys(("left-posterior-superior", "lps"), "left-posterior-superior"),
}
_NRRD_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2"},
    **{"ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4"},
    **{"longlong": "i8", "int64": "i8", "ulonglong": "u8", "uint64": "u8"},
    **{"float": "f4", "double": "f8"},
}
_MHA_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_MHA_SAME = {
    **dict.fromkeys(("Position", "Origin"), "Offset"),
    **dict.fromkeys(("Rotation", "Orientation"), "TransformMatrix"),
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What a header says, once it is believed.

    Attributes:
      shape: sides; the first axis runs fastest.
      kind: of the numbers, with their byte order.
      start: byte at which they begin.
      packed: whether they are compressed.
      header: a clean one that says where the voxels lie.
      warnings: what is odd, one sentence each.
    """

    shape: tuple[int, ...]
    kind: np.dtype
    start: int
    packed: bool
    header: str
    warnings: tuple[str, ...]


def read(path: epath.Path) -> nifti_file.Content:
    """Reads an NRRD or MHA file to its end; its `header` is None.

    Raises:
      UserError: the file is missing, damaged, longer or shorter than its header says, not one
        volume of numbers, or its numbers lie in another file.
    """
    layout = _read_layout(path)
    content = atomic_files.read_bytes(path)
    end = math.prod(layout.shape) * layout.kind.itemsize
    with file_bytes.guard(path):
        stream = _open(content[layout.start :], layout)
        body, after = file_bytes.take(stream, end, path, layout.shape, _MOST_AFTER)
    if any(after):
        raise file_bytes.too_long(path, end, layout.shape, _MOST_AFTER)
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.frombuffer(body, layout.kind).astype(np.float32)
    return nifti_file.Content(
        None,
        array.reshape(layout.shape, order="F"),
        hashlib.sha256(content).hexdigest(),
        layout.warnings,
        _read_affine(layout, path),
    )


def read_grid(path: epath.Path) -> tuple[tuple[int, ...], Float64[np.ndarray, "4 4"]]:
    """The three sides and the voxel -> mm matrix (RAS+).

    Raises:
      UserError: as `read`, as far as the header and the file's length tell.
    """
    layout = _read_layout(path)
    return layout.shape, _read_affine(layout, path)


def refuse_detached(path: epath.Path) -> errors.UserError:
    """Of a header whose numbers lie in another file."""
    return errors.UserError(
        f"'{path}' holds a header whose image lies in another file, which is not followed; "
        "accepted: both in one file (.nrrd, .mha, .nii)"
    )


def _read_layout(path: epath.Path) -> _Layout:
    start = file_bytes.read_start(path, _MOST_HEADER)
    if start.packed:
        raise errors.UserError(f"'{path}' is packed as a whole; accepted: unpacked, or .nii.gz")
    is_nrrd = start.content[:5] == b"NRRD0"
    layout = (_parse_nrrd if is_nrrd else _parse_mha)(start.content, path)
    file_bytes.check_sides(path, layout.shape)
    end = math.prod(layout.shape) * layout.kind.itemsize
    size = start.size - layout.start
    file_bytes.check_length(
        path, size, end, layout.shape, packed=layout.packed, most_after=_MOST_AFTER
    )
    return layout


def _parse_nrrd(start: bytes, path: epath.Path) -> _Layout:
    """The format's own text: `field: value` lines up to an empty one."""
    match = re.search(rb"\r?\n\r?\n", start)
    if match is None:
        raise _odd(path, "no empty line ends the header", "one within 1 MiB")
    fields: dict[str, str] = {}
    for line in start[: match.start()].decode("latin-1").splitlines()[1:]:
        name, colon, value = line.partition(":")
        # Comments, and `key:=value` of programs.
        if line.startswith("#") or not colon or value.startswith("="):
            continue
        name = name.strip().lower()
        if name in fields:
            raise _odd(path, f"'{messages.shorten(name)}' is there twice", "once")
        fields[name] = value.strip()
    if {"data file", "datafile"} & set(fields):
        raise refuse_detached(path)
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(name, "0") != "0":
            raise _odd(path, f"'{name}' is {messages.shorten(fields[name])}", "0")
    shape = _shape(path, fields.get("dimension"), fields.get("sizes"), "sizes")
    if not set(fields.get("kinds", "").lower().split()) <= {"domain", "space", "???", "none"}:
        raise file_bytes.no_numbers(str(path), f"axes of the kinds {fields['kinds']}")
    # "unsigned short int", "ushort" and "uint16_t" are one.
    name = re.sub(r"(?<=.) int$|_t$|\bsigned ", "", fields.get("type", "").lower())
    kind = _NRRD_TYPES.get(name.replace("unsigned ", "u").replace("long long", "longlong"))
    if kind is None:
        raise file_bytes.no_numbers(str(path), fields.get("type") or "numbers of no stated type")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise _odd(path, f"encoding is '{messages.shorten(encoding)}'", "raw, gzip")
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big") and (endian or kind[1] != "1"):
        raise _odd(path, f"endian is '{messages.shorten(endian)}'", "little, big")
    lines, warnings = _place_nrrd(fields, path)
    header = (
        f"NRRD0005\ntype: float\ndimension: 3\nsizes: {' '.join(map(str, shape))}\n"
        f"encoding: raw\nendian: little\n{lines}\n"
    )
    order = ">" if endian == "big" else "<"
    return _Layout(shape, np.dtype(order + kind), match.end(), encoding != "raw", header, warnings)


def _place_nrrd(fields: dict[str, str], path: epath.Path) -> tuple[str, tuple[str, ...]]:
    """Lines of a clean header that place the voxels, and what is odd about it."""
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", ""))))
    if not units <= {"mm", ""}:
        raise _odd(path, f"its unit is {messages.shorten(sorted(units))}", "mm")
    warnings: tuple[str, ...] = ()
    space = fields.get("space", "").lower()
    named = _SPACES.get(space)
    if space and named is None:
        raise _odd(path, f"space is '{messages.shorten(space)}'", f"{', '.join(_SPACES)}")
    if named is None or "space directions" not in fields:
        warnings = (_UNKNOWN.format("no space, or no space directions"),)
    lines = [f"space: {named or 'left-posterior-superior'}"]
    directions, spacings = fields.get("space directions"), fields.get("spacings")
    if directions is None:
        sides = _floats(path, "spacings", spacings, 3) if spacings else [1.0, 1.0, 1.0]
        directions = "({!r},0,0) (0,{!r},0) (0,0,{!r})".format(*sides)
    for name, value, count in (
        ("space directions", directions, 9),
        ("space origin", fields.get("space origin", "(0,0,0)"), 3),
    ):
        if not _VECTORS.fullmatch(value) or len(re.findall(_NUMBER, value)) != count:
            raise _odd(path, f"{name} is '{messages.shorten(value)}'", f"{count} numbers")
        lines.append(f"{name}: {value}")
    return "\n".join(lines) + "\n", warnings


def _parse_mha(start: bytes, path: epath.Path) -> _Layout:
    """MetaImage: `Key = value` lines, of which ElementDataFile is the last."""
    fields: dict[str, str] = {}
    stream = io.BytesIO(start)
    for raw in stream:
        name, equals, value = raw.decode("latin-1").partition("=")
        name = _MHA_SAME.get(name.strip(), name.strip())
        if not equals or len(name) > 100:
            break
        if name in fields:
            raise _odd(path, f"'{messages.shorten(name)}' is there twice", "once")
        fields[name] = value.strip()
        if name == "ElementDataFile":
            break
    if "ElementDataFile" not in fields:
        raise errors.UserError(f"'{path}' is no MHA file (no header that ends in ElementDataFile)")
    if fields["ElementDataFile"].upper() != "LOCAL":
        raise refuse_detached(path)
    for name, accepted in (
        ("ObjectType", "image"),
        ("BinaryData", "true"),
        ("HeaderSize", "0"),
        ("ElementToIntensityFunctionSlope", "1"),
        ("ElementToIntensityFunctionOffset", "0"),
        ("DistanceUnits", "mm"),
    ):
        if fields.get(name, accepted).lower() not in (accepted, f"{accepted}.0"):
            raise _odd(path, f"{name} is '{messages.shorten(fields[name])}'", accepted)
    if fields.get("ElementNumberOfChannels", "1") != "1":
        channels = messages.shorten(fields["ElementNumberOfChannels"], 16)
        raise file_bytes.no_numbers(str(path), f"{channels} numbers a voxel")
    shape = _shape(path, fields.get("NDims"), fields.get("DimSize"), "DimSize")
    kind = _MHA_TYPES.get(fields.get("ElementType", "").upper())
    if kind is None:
        raise file_bytes.no_numbers(str(path), fields.get("ElementType", "no ElementType"))
    flags = {}
    for name in ("CompressedData", "BinaryDataByteOrderMSB"):
        flags[name] = fields.get(name, "False").lower()
        if flags[name] not in ("true", "false"):
            raise _odd(path, f"{name} is '{messages.shorten(flags[name])}'", "True, False")
    lines = "".join(
        f"{name} = {' '.join(map(repr, _floats(path, name, fields[name], count)))}\n"
        for name, count in (("TransformMatrix", 9), ("Offset", 3), ("ElementSpacing", 3),
                            ("ElementSize", 3))
        if name in fields
    )  # fmt: skip
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = False\n{lines}DimSize = {' '.join(map(str, shape))}\n"
        "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    )
    order = ">" if flags["BinaryDataByteOrderMSB"] == "true" else "<"
    packed = flags["CompressedData"] == "true"
    odd = () if "TransformMatrix" in fields else (_UNKNOWN.format("no TransformMatrix"),)
    return _Layout(shape, np.dtype(order + kind), stream.tell(), packed, header, odd)


def _shape(path: epath.Path, count: str | None, sizes: str | None, name: str) -> tuple[int, ...]:
    """The sides that a header states."""
    found = (sizes or "").split()
    if not found or not all(re.fullmatch(r"\d{1,9}", n) for n in found) or count != str(len(found)):
        raise _odd(path, f"{name} is '{messages.shorten(sizes or '')}'", "three whole numbers")
    return tuple(int(n) for n in found)


def _floats(path: epath.Path, name: str, text: str, count: int) -> list[float]:
    if not _NUMBERS.fullmatch(text) or len(text.split()) != count:
        raise _odd(path, f"{name} is '{messages.shorten(text)}'", f"{count} numbers")
    return [float(number) for number in text.split()]


def _odd(path: epath.Path, found: str, accepted: str) -> errors.UserError:
    return errors.UserError(f"'{path}': {found} in the header; accepted: {accepted}")


def _open(content: bytes, layout: _Layout) -> io.BufferedIOBase:
    """The stream of the numbers."""
    if not layout.packed:
        return io.BytesIO(content)
    if layout.header.startswith("NRRD"):
        return file_bytes.open_plain(content)
    return io.BufferedReader(_Inflated(content))


class _Inflated(io.RawIOBase):
    """What a zlib stream holds, unpacked as it is asked for."""

    def __init__(self, content: bytes):
        self._stream = zlib.decompressobj()
        self._packed = content

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer) -> int:
        """Fills a part of `buffer`; 0 at the stream's end.

        Raises:
          EOFError: the file ends before its stream does.
        """
        if self._stream.eof:
            return 0
        piece = self._stream.decompress(self._packed, len(buffer))
        self._packed = self._stream.unconsumed_tail
        if not piece and not self._stream.eof:
            raise EOFError("the stream has no end")
        buffer[: len(piece)] = piece
        return len(piece)


def _read_affine(layout: _Layout, path: epath.Path) -> Float64[np.ndarray, "4 4"]:
    """Where SimpleITK puts the voxels, in RAS+."""
    sitk = itk.load()
    ending = NRRD if layout.header.startswith("NRRD") else MHA
    with tempfile.TemporaryDirectory(prefix="madad_jax-") as folder:
        place = epath.Path(folder) / f"header{ending}"
        place.write_text(layout.header)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(place))
        reader.SetImageIO("NrrdImageIO" if ending == NRRD else "MetaImageIO")
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            # ITK's own text holds its sources' paths and ours.
            what = "found a grid that SimpleITK does not read"
            raise _odd(path, what, "independent axes") from error
        direction = np.array(reader.GetDirection()).reshape(3, 3)
        spacing, origin = np.array(reader.GetSpacing()), np.array(reader.GetOrigin())
    matrix = np.eye(4)
    matrix[:3, :3] = direction * spacing
    matrix[:3, 3] = origin
    return _LPS_TO_RAS @ matrix

"""Opens files of `torch.save`, both formats, without PyTorch and without running them.

Zip (PyTorch 1.6 and later), entries stored without compression under one folder:

    data.pkl    the pickle; storages are persistent ids ("storage", type, key, device, numel)
    data/<key>  the bytes of each storage
    byteorder   "little" or "big"

Legacy (before 1.6): pickles of a magic number, the protocol (1001), facts about the machine, the
object, and the list of storage keys; then for each key an int64 count and the bytes, always
little-endian.

The zip container has a CRC of every entry, which is verified; the legacy one has no checksum,
so a flipped bit inside of its weights cannot be noticed by anybody.
"""

import contextlib
import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from madad_jax.convert import tensors, unpickle
from madad_jax.core import errors, messages

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_PICKLE = 1 << 26  # bytes; those of weights files have some hundred bytes per tensor

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}
# Calls that give nothing of use here; their results are never looked at.
_OPAQUE = (
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.range",
    "builtins.slice",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch.device",
    "torch.serialization._get_layout",
)
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error),
    *(NotImplementedError, RuntimeError, EOFError, OSError, ValueError, OverflowError),
)


@contextlib.contextmanager
def opened(name: str, stream: Any, scripted: bool = False) -> Iterator[Any]:
    """The object in a file of `torch.save`, with `tensors.Tensor` for tensors.

    Args:
        name: of the file, for complaints.
        stream: a seekable binary file, open while the context is.
        scripted: take a TorchScript archive too: its modules come out as `unpickle.Inert`, their
            tensors and submodules as attributes; its code is not looked at.

    Raises:
        UserError: not such a file, damaged, or one that asks to run something.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    start = stream.read(4)
    stream.seek(0)
    if start == b"PK\x03\x04":
        with _zip_opened(name, stream) as archive:
            yield _load_zip(name, archive, size, scripted)
    else:
        yield _Legacy(name, stream, size).load()


@contextlib.contextmanager
def _zip_opened(name: str, stream: Any) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(stream)
    except _ZIP_ERRORS as error:
        raise errors.UserError(f"{name}: damaged zip file: {messages.shorten(error)}") from error
    with archive:
        yield archive


def _load_zip(name: str, archive: zipfile.ZipFile, size: int, scripted: bool) -> Any:
    entries = {info.filename: info for info in archive.infolist()}
    folders = [entry[: -len("data.pkl")] for entry in entries if entry.split("/")[-1] == "data.pkl"]
    if len(folders) != 1 or len(entries) != len(archive.infolist()):
        raise errors.UserError(
            f"{name}: damaged, or no file of torch.save: {len(folders)} entries data.pkl among "
            f"{len(archive.infolist())}"
        )
    # Entries that lie apart are together no larger than their file (packed code is not read).
    claimed = sum(info.compress_size for info in entries.values())
    if claimed > size:
        raise errors.UserError(f"{name}: damaged: its entries hold {claimed} bytes of {size}")
    folder = folders[0]
    if f"{folder}constants.pkl" in entries and not scripted:
        raise errors.UserError(
            f"{name}: TorchScript archive; accepted are state dicts and modules of torch.save"
        )

    def read(entry: str, limit: int) -> bytes:
        info, shown = entries.get(folder + entry), messages.shorten(entry)
        if info is None:
            raise errors.UserError(f"{name}: damaged: it has no entry {shown}")
        plain = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not plain or info.file_size > min(limit, size):
            raise errors.UserError(
                f"{name}: entry {shown} has {info.file_size} bytes or is compressed; expected "
                f"at most {min(limit, size)}, stored"
            )
        try:
            with archive.open(info) as stream:
                return stream.read()
        except _ZIP_ERRORS as error:
            raise errors.UserError(
                f"{name}: damaged: entry {shown}: {messages.shorten(error)}"
            ) from error

    order = read("byteorder", 16) if f"{folder}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise errors.UserError(f"{name}: byteorder {order!r}; accepted are little and big")
    latest = functools.lru_cache(maxsize=1)(read)  # for storages that many tensors share

    def storage(pid: Any) -> tensors.Storage:
        dtype, key, numel, _ = _storage_id(name, pid)
        nbytes = numel * _element_size(dtype)

        def read_bytes() -> bytes:
            data = latest(f"data/{key}", size)
            if len(data) < nbytes:
                raise errors.UserError(
                    f"{name}: damaged: storage {messages.shorten(key)} has {len(data)} bytes "
                    f"instead of {nbytes}"
                )
            return data

        return tensors.Storage(dtype, numel, read_bytes, order == b"big", place=key)

    machine = unpickle.Machine(name, _calls(name, size), storage)
    return machine.load(io.BytesIO(read("data.pkl", MAX_PICKLE)))


class _Window(io.RawIOBase):
    """A stream that ends at `limit` bytes from here and never asks for more than there is."""

    def __init__(self, stream: Any, limit: int):
        self._stream = stream
        self._end = stream.tell() + limit

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._end - self._stream.tell())
        return self._stream.read(left if size < 0 else min(size, left))

    def readline(self, size: int = -1) -> bytes:
        left = max(0, self._end - self._stream.tell())
        return self._stream.readline(left if size < 0 else min(size, left))

    def tell(self) -> int:
        return self._stream.tell()


class _Legacy:
    """Reads a legacy file front to back; storages are found after the pickles."""

    def __init__(self, name: str, stream: Any, size: int):
        self._name = name
        self._stream = stream
        self._size = size
        self._wanted: dict[str, tuple[str, int]] = {}  # key: dtype, numel
        self._places: dict[str, int] = {}  # key: position of the bytes
        self._latest = functools.lru_cache(maxsize=1)(self._read)  # for tensors that share one

    def load(self) -> Any:
        """The object; raises UserError when this is no whole legacy file."""
        accepted = "accepted are files of torch.save (zip or legacy) and .safetensors"
        try:
            magic = self._pickle()
        except errors.UserError as error:
            if "refused" in str(error):
                raise
            raise errors.UserError(
                f"{self._name}: no weights file, or a damaged one; {accepted}"
            ) from error
        if type(magic) is not int or magic != MAGIC:
            raise errors.UserError(f"{self._name}: a pickle, but not of torch.save; {accepted}")
        protocol, _ = self._pickle(), self._pickle()
        if protocol != PROTOCOL:
            raise errors.UserError(f"{self._name}: no file of protocol {PROTOCOL}")
        root = self._pickle(self._storage)
        self._find_storages(self._pickle())
        return root

    def _pickle(self, persistent: Callable[[Any], Any] | None = None) -> Any:
        calls = _calls(self._name, self._size)
        window = _Window(self._stream, min(MAX_PICKLE, self._size))
        return unpickle.Machine(self._name, calls, persistent).load(window)

    def _find_storages(self, keys: Any) -> None:
        if type(keys) is not list or not all(
            type(key) is str and key.isprintable() for key in keys
        ):
            raise errors.UserError(f"{self._name}: damaged: its storage keys are no list of names")
        for key in keys:
            header = self._stream.read(8)
            dtype, numel = self._wanted.get(key, ("", -1))
            if len(header) != 8 or int.from_bytes(header, "little", signed=True) != numel:
                raise errors.UserError(
                    f"{self._name}: damaged: storage {messages.shorten(key)} is not as described"
                )
            place = self._stream.tell()
            end = place + numel * _element_size(dtype)
            if end > self._size:
                raise errors.UserError(
                    f"{self._name}: damaged: it ends within storage {messages.shorten(key)}"
                )
            self._places[key] = place
            self._stream.seek(end)

    def _storage(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # a class with its source text beside it
        dtype, key, numel, view = _storage_id(self._name, pid)
        if self._wanted.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise errors.UserError(
                f"{self._name}: damaged: storage {messages.shorten(key)} is described twice"
            )
        first, count = 0, numel
        if view is not None:
            first, (count,), _ = tensors.check(
                self._name, numel, view[1], (view[2],), (1,), self._size
            )

        def read_bytes() -> bytes:
            if key not in self._places:
                raise errors.UserError(
                    f"{self._name}: damaged: storage {messages.shorten(key)} is missing"
                )
            width = _element_size(dtype)
            return self._latest(self._places[key] + first * width, count * width)

        return tensors.Storage(dtype, count, read_bytes, place=f"{key} {first}")

    def _read(self, place: int, length: int) -> bytes:
        self._stream.seek(place)
        return self._stream.read(length)


def _storage_id(name: str, pid: Any) -> tuple[str, str, int, tuple[Any, Any, Any] | None]:
    """(dtype, key, numel, view) of a persistent id."""
    if isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage":
        _, kind, key, _, numel, *view = pid
        plain = type(key) in (str, int) and type(numel) is int and 0 <= numel < 2**48
        if isinstance(kind, unpickle.Name) and plain and kind.module.split(".")[0] == "torch":
            dtype = STORAGES.get(kind.name, kind.name)
            window = view[0] if view else None
            viewed = window is None or (isinstance(window, tuple) and len(window) == 3)
            if viewed and str(key).isprintable():
                return dtype, str(key), numel, window
    raise errors.UserError(f"{name}: damaged: a storage is described in an unknown way")


def _element_size(dtype: str) -> int:
    return tensors.DTYPES[dtype][1] if dtype in tensors.DTYPES else 1


def _calls(name: str, limit: int) -> dict[str, Callable[..., Any]]:
    """What a pickle of weights may call: {"module.name": ours}."""

    def tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> tensors.Tensor:
        del rest  # requires_grad, hooks, metadata
        if not isinstance(storage, tensors.Storage):
            raise TypeError("no storage")
        return tensors.Tensor(
            name, storage, *tensors.check(name, storage.numel, offset, shape, strides, limit)
        )

    def tensor_v3(
        storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *_
    ) -> tensors.Tensor:
        # The storage holds bytes; the element type stands beside it.
        if not isinstance(storage, tensors.Storage) or not isinstance(dtype, unpickle.Name):
            raise TypeError("no storage or no element type")
        nbytes = storage.numel * _element_size(storage.dtype)
        typed = tensors.Storage(
            dtype.name,
            nbytes // _element_size(dtype.name),
            storage.read,
            storage.big_endian,
            storage.place,
        )
        return tensor(typed, offset, shape, strides)

    def parameter(data: Any, *rest: Any) -> Any:
        del rest  # requires_grad, hooks, attributes
        return data

    def of_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        del kind, state  # a subclass of Tensor, or one with attributes
        name = str(function)
        return rebuild[name](*arguments) if name in rebuild else unpickle.Inert(name)

    rebuild: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": tensor_v3,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
    }
    containers: dict[str, Callable[..., Any]] = {
        "torch._tensor._rebuild_from_type_v2": of_type,
        "torch.Size": _size,
        "collections.OrderedDict": _dict,
        "collections.Counter": _dict,
        "collections.defaultdict": lambda factory=None, items=(): _dict(items),
        "builtins.dict": _dict,
        "builtins.set": _set,
        "builtins.frozenset": _set,
        "copyreg._reconstructor": lambda kind, *rest: unpickle.Inert(str(kind)),
    }
    return rebuild | containers | {opaque: _inert(opaque) for opaque in _OPAQUE}


def _inert(kind: str) -> Callable[..., unpickle.Inert]:
    return lambda *arguments: unpickle.Inert(kind, *arguments)


def _size(lengths: Any = ()) -> tuple[Any, ...]:
    if not isinstance(lengths, tuple | list):
        raise TypeError("torch.Size of no tuple")
    return tuple(lengths)


def _dict(items: Any = ()) -> dict[Any, Any]:
    pairs = items.items() if isinstance(items, dict) else items
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise TypeError("a dictionary of no pairs")
    return {unpickle.key(k): v for k, v in pairs}


def _set(elements: Any = ()) -> set[Any]:
    if not isinstance(elements, tuple | list | set | frozenset):
        raise TypeError("a set of no list")
    return {unpickle.key(element) for element in elements}

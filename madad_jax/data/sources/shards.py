"""ArrayRecord shards: written atomically, read by any number of threads.

A shard is an ArrayRecord file (github.com/google/array_record) of numbered records of bytes.
Names are the usual `{name}-00003-of-00012.array_record`. The library reports a missing,
truncated or unwritable file by an `ok()` of False and no exception: here all become errors that
name the file. Every chunk carries a checksum that it verifies when read.

Local paths only: the library knows no `gs://`.
"""

import bisect
import contextlib
import itertools
import os
from collections.abc import Iterable, Sequence

from array_record.python import array_record_module
from etils import epath

from madad_jax.core import errors

SUFFIX = ".array_record"
# One record a group: random access decodes nothing but what is asked for.
_WRITE = "group_size:1,zstd:3"
_READ = "readahead_buffer_size:0,max_parallelism:0"


def shard_name(name: str, index: int, count: int) -> str:
    """`train-00003-of-00012.array_record`."""
    return f"{name}-{index:05d}-of-{count:05d}{SUFFIX}"


def require_local(folder: epath.PathLike, key: str) -> epath.Path:
    """`folder` as a path. Raises UserError, naming the config `key`, for `gs://` and the like."""
    if "://" in str(folder):
        raise errors.UserError(
            f"{key}: found {str(folder)!r}; ArrayRecord files can be read and written on a local "
            "or mounted folder only"
        )
    return epath.Path(folder)


def write(path: epath.PathLike, records: Iterable[bytes]) -> int:
    """Writes a shard under a scratch name, then renames it; returns the number of records.

    Raises UserError when the folder cannot be written or the disk is full; what stood at `path`
    is then still there.
    """
    path = epath.Path(path)
    scratch = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(b"")  # says why it cannot be written; the library would not
        count = _write_all(scratch, records)
        if not _is_whole(scratch, count):
            raise errors.UserError(f"'{path}' could not be written whole; is the disk full?")
        with scratch.open("rb") as handle:
            os.fsync(handle.fileno())  # a power cut must not leave a name without its bytes
        scratch.replace(path)
    except OSError as error:
        raise errors.UserError(f"'{path}': {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return count


def _write_all(path: epath.Path, records: Iterable[bytes]) -> int:
    writer = array_record_module.ArrayRecordWriter(str(path), _WRITE)
    count = 0
    try:
        for record in records:
            writer.write(record)
            count += 1
        writer.close()
    except RuntimeError as error:
        raise errors.UserError(f"'{path}' could not be written: {_first_line(error)}") from error
    finally:
        with contextlib.suppress(RuntimeError):  # of a full disk, a second time
            if writer.is_open():
                writer.close()
    return count


def _is_whole(path: epath.Path, count: int) -> bool:
    reader = array_record_module.ArrayRecordReader(str(path), _READ)
    try:
        # An empty file is no ArrayRecord; one of no records is, and says so.
        return reader.ok() and reader.num_records() == count
    finally:
        reader.close()


def list_shards(folder: epath.Path, name: str) -> list[epath.Path]:
    """The shards of `name` in `folder`, in order; [] when there is none.

    Raises UserError when the set is not whole: a shard that is missing changes what is trained
    on, silently.
    """
    found = sorted(folder.glob(f"{name}-[0-9]*-of-[0-9]*{SUFFIX}"))
    if not found:
        return []
    text = found[0].name.removesuffix(SUFFIX).rsplit("-of-", 1)[1]
    wanted = [shard_name(name, i, int(text)) for i in range(int(text))]
    names = [path.name for path in found]
    if names != wanted:
        missing = sorted(set(wanted) - set(names))
        what = f"'{missing[0]}' is missing" if missing else "shards of two data sets are mixed"
        raise errors.UserError(f"'{folder}': {what} ({len(names)} of {len(wanted)} shards found)")
    return found


class Reader:
    """The records of several shards as one sequence of bytes."""

    def __init__(self, paths: Sequence[epath.Path]):
        """Opens every shard.

        Raises UserError for one that is missing, truncated or no ArrayRecord.
        """
        self._paths = list(paths)
        self._open()

    def _open(self) -> None:
        self._readers = [_reader(path) for path in self._paths]
        counts = (reader.num_records() for reader in self._readers)
        self._ends = list(itertools.accumulate(counts))

    def __len__(self) -> int:
        """Number of records in all shards."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        """The record `index`. Raises UserError when its bytes are not those written."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        try:
            return self._readers[shard].read([index - first])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise errors.UserError(
                f"'{self._paths[shard]}', record {index - first}: {_first_line(error)}"
            ) from error

    def __getstate__(self) -> dict:
        return {"_paths": self._paths}  # readers cannot be pickled into Grain's workers

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["_paths"])


def _reader(path: epath.Path) -> array_record_module.ArrayRecordReader:
    if not path.exists():
        raise errors.UserError(f"'{path}' does not exist")
    try:
        reader = array_record_module.ArrayRecordReader(str(path), _READ)
    except (RuntimeError, ValueError) as error:
        raise errors.UserError(f"'{path}': {_first_line(error)}") from error
    if not reader.ok():
        raise errors.UserError(f"'{path}' is no whole ArrayRecord file (truncated or another kind)")
    return reader


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]

"""Slices in ArrayRecord shards: a folder of many small files as a few large ones.

    {root}/{split}-{modality}-00000-of-00004.array_record    the PNG bytes of every slice
    {root}/{split}-{modality}.json                           who they are, in order

A record holds the same PNG bytes as `png_folder.py` reads, in the same order, hence the same
training stream to the bit: three lengths (uint32, little endian; a segmentation of 0 bytes is an
unknown truth), then image, brain mask and segmentation. `pack.py` writes them.
"""

import json
import struct
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors, json_file, messages
from madad_jax.data.sources import encoded as encoded_lib
from madad_jax.data.sources import png_folder, png_pixels, shards
from madad_jax.data.sources import record as record_lib

RECORDS_PER_SHARD = 4096  # about 150 MB of 8-bit slices of 256 px
_MOST_INDEX = 1 << 30  # 150 bytes a slice: seven million of them.
_LENGTHS = struct.Struct("<3I")


def pack(encoded: encoded_lib.EncodedSlice) -> bytes:
    """A slice as one record."""
    parts = (encoded.image, encoded.brain_mask, encoded.segmentation)
    contents = [part.content if part else b"" for part in parts]
    return _LENGTHS.pack(*map(len, contents)) + b"".join(contents)


def unpack(record: record_lib.Record, content: bytes, where: str) -> encoded_lib.EncodedSlice:
    """A record as a slice.

    Raises:
      UserError: the lengths do not add up to the record.
    """
    # Three zeros for a record too short to hold lengths; it fails the check below.
    lengths = _LENGTHS.unpack_from(content) if len(content) >= _LENGTHS.size else (0, 0, 0)
    if _LENGTHS.size + sum(lengths) != len(content) or not lengths[0]:
        raise errors.UserError(f"'{where}', slice {record.id}: not a record of a slice")
    parts, start = [], _LENGTHS.size
    for kind, length in zip(("image", "brainmask", "segmentation"), lengths, strict=True):
        name = f"{where}: {record.id}-{kind}"
        parts.append(png_pixels.Part(name, content[start : start + length]))
        start += length
    return encoded_lib.EncodedSlice(record, parts[0], parts[1], parts[2] if lengths[2] else None)


class ArrayRecordFolder:
    """Random access to the slices of one split and one modality (`record.Source`)."""

    def __init__(self, root: epath.PathLike, *, split: str, modality: str, image_size: int):
        """Opens the split.

        Args:
          root: folder of shards and indices, local.
          split: e.g. `train`, `val`, `test`, `test_healthy`.
          modality: e.g. `T1`.
          image_size: side of the square that is handed out, px.

        Raises:
          UserError: nothing packed there, another split or modality, missing or damaged shards,
            a subject that also stands in a split of another group.
        """
        self._root = shards.require_local(root, "data.root")
        self._split = split
        self._modality = modality
        self._image_size = image_size
        self._name = f"{split}-{modality}"
        index = read_index(self._root, split, modality)
        self._fingerprint = index["fingerprint"]
        self.records = [record_lib.Record(**entry) for entry in index["records"]]
        paths = shards.list_shards(self._root, self._name)
        self._reader = shards.Reader(paths)
        if len(self._reader) != len(self.records):
            raise errors.UserError(
                f"'{self._root / self._name}.json' lists {len(self.records)} slices but its "
                f"{len(paths)} shards hold {len(self._reader)}; pack them anew"
            )
        self._check_disjoint()

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See `record.Source`. Raises UserError for a damaged record."""
        return encoded_lib.element(self.read_encoded(index), self._image_size)

    def read_encoded(self, index: int) -> encoded_lib.EncodedSlice:
        """The bytes of the slice `index`."""
        where = str(self._root / self._name)
        return unpack(self.records[index], self._reader[index], where)

    def read_segmentation(self, index: int) -> png_pixels.Part | None:
        """The bytes of a slice's segmentation alone; None where it has none."""
        return self.read_encoded(index).segmentation

    def describe(self) -> str:
        """One line: folder, modality, counts."""
        subjects = len({record.subject for record in self.records})
        return (
            f"{self._root / self._name} (ArrayRecord): {len(self)} {self._modality} slices of "
            f"{subjects} subjects"
        )

    def fingerprint(self) -> str:
        """Of what was packed."""
        return record_lib.digest([self._fingerprint, self._image_size])

    def _check_disjoint(self) -> None:
        others = {}
        for split, modalities in list_contents(self._root).items():
            if record_lib.may_not_share(self._split, split):
                # Over all modalities: T1 of a person here and T2 there is the same person.
                entries = [read_index(self._root, split, m)["records"] for m in modalities]
                others[split] = {entry["subject"] for part in entries for entry in part}
        subjects = {record.subject for record in self.records}
        record_lib.check_disjoint(self._split, subjects, others)


def list_contents(root: epath.PathLike) -> dict[str, list[str]]:
    """Modalities of every split that was packed whole, both sorted."""
    found: dict[str, list[str]] = {}
    for path in sorted(epath.Path(root).glob("*-*.json")):
        split, _, modality = path.name.removesuffix(".json").partition("-")
        found.setdefault(split, []).append(modality)
    return found


def read_index(root: epath.Path, split: str, modality: str) -> dict[str, Any]:
    """What the index of a split says: `fingerprint`, and `records` as plain dicts.

    Raises:
      UserError: no index, or one that is not ours.
    """
    path = root / f"{split}-{modality}.json"
    if not path.exists():
        found = [f"{s}-{m}" for s, kinds in list_contents(root).items() for m in kinds]
        raise errors.UserError(
            f"'{path}' does not exist; '{root}' holds: {', '.join(found) or 'nothing packed'}"
        )
    index = json_file.read_object(path, most_bytes=_MOST_INDEX)
    records, kinds = (
        index.get("records"),
        {"id": str, "subject": str, "modality": str, "slice": int},
    )
    if not isinstance(records, list) or not isinstance(index.get("fingerprint"), str):
        raise errors.UserError(f"'{path}' is no index of packed slices: no records, fingerprint")
    for number, entry in enumerate(records):
        try:
            # Made and dropped: entries of another version fail here, where the file is named.
            record = record_lib.Record(**entry)
            odd = [key for key, kind in kinds.items() if type(getattr(record, key)) is not kind]
        except TypeError as error:
            odd = [messages.shorten(error)]
        if odd:
            raise errors.UserError(
                f"'{path}' is no index of packed slices: entry {number}: {', '.join(odd)}"
            )
    return index


def write(source: png_folder.PngFolder, root: epath.PathLike, split: str, modality: str) -> bool:
    """Packs one split of one modality; returns False where that was done before.

    The index is written last: without it the shards count for nothing and are written anew.

    Raises:
      UserError: a file cannot be read or is no PNG, or `root` cannot be written.
    """
    root = shards.require_local(root, "--out")
    name = f"{split}-{modality}"
    path = root / f"{name}.json"
    count = max(1, -(-len(source) // RECORDS_PER_SHARD))
    wanted = [shards.shard_name(name, i, count) for i in range(count)]
    if path.exists() and _index_fits(root, split, modality, source.fingerprint(), wanted):
        return False
    path.unlink(missing_ok=True)
    # Shards of another count would be taken for a mixture of two data sets.
    for ending in (shards.SUFFIX, f"{shards.SUFFIX}.new"):  # The latter of a run that was killed.
        for old in root.glob(f"{name}-[0-9]*-of-[0-9]*{ending}"):
            old.unlink()
    for old in root.glob(f"{name}.json.*.new"):
        old.unlink()
    for i, shard in enumerate(wanted):
        numbers = range(len(source) * i // count, len(source) * (i + 1) // count)
        shards.write(root / shard, (_pack_checked(source.read_encoded(k)) for k in numbers))
    records = [vars(record) for record in source.records]
    text = json.dumps({"fingerprint": source.fingerprint(), "records": records}, indent=1)
    atomic_files.write_text(path, text)
    return True


def _index_fits(root, split, modality, fingerprint: str, wanted: list[str]) -> bool:
    try:
        index = read_index(root, split, modality)
    except errors.UserError:
        return False
    return index["fingerprint"] == fingerprint and all((root / name).exists() for name in wanted)


def _pack_checked(encoded: encoded_lib.EncodedSlice) -> bytes:
    # A damaged file is found now, by its name, and not in the middle of a training.
    encoded_lib.element(encoded, 8)
    return pack(encoded)

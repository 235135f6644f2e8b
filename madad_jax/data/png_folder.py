"""Slices in folders of PNG files, in the layout of the official code.

    {root}/{split}/{id}-slice_{k}-{modality}.png       8- or 16-bit grey
    {root}/{split}/{id}-slice_{k}-brainmask.png        > 0 inside the brain
    {root}/{split}/{id}-slice_{k}-segmentation.png     > 0 on the lesion; may be missing

The subject is the text before `-slice_`. Images of any size: padded with background to a
square (never stretched), then resized; the area outside the brain mask is set to -1. 8-bit
values are divided by 255, 16-bit values by 65535.

What the listing shows wrong is raised when the source is made, what the pixels show wrong
when a slice is read. Differs from the official code: names are parsed, not replaced in the
whole path, so ids and folders may contain the modality's name; the listing is sorted; masks
are resized by nearest neighbour instead of bicubic.
"""

import dataclasses
import re
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from etils import epath
from jaxtyping import Bool, Float32

from madad_jax import errors
from madad_jax.data import record as record_lib

_NAME = re.compile(r"^(?P<subject>.+)-slice_(?P<slice>\d+)-(?P<kind>.+)\.png$", re.IGNORECASE)
_BRAIN_MASK, _SEGMENTATION = "brainmask", "segmentation"
_LAYOUT = "{split}/{id}-slice_{k}-{modality|brainmask|segmentation}.png"
# Splits that may share subjects are of one group: test and test_healthy hold slices with and
# without lesions of the same people.
_GROUPS = ("train", "val", "test")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class _Files:
    """The files of one slice."""

    image: epath.Path
    brain_mask: epath.Path
    segmentation: epath.Path | None


class PngFolder:
    """Random access to the slices of one split and one modality (`record.Source`)."""

    def __init__(self, root: str, *, split: str, modality: str, image_size: int):
        """Lists the split.

        Args:
          root: folder that holds the split folders; `gs://` paths work too.
          split: folder name, e.g. `train`, `val`, `test`, `test_healthy`.
          modality: the text between `-slice_{k}-` and `.png`, e.g. `T1`.
          image_size: side of the square that is handed out, px.

        Raises:
          UserError: missing root or split, no files of the modality, a slice without a
            brain mask, a subject that also stands in a split of another group.
        """
        self._root = epath.Path(root)
        self._split = split
        self._modality = modality
        self._image_size = image_size
        names = _list_split(self._root, split)
        parsed = _by_slice(names)
        self.records, self._files = _select(self._root / split, parsed, modality)
        _check_disjoint(self._root, split, {record.subject for record in self.records})

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See `record.Source`.

        Raises:
          UserError: a file is not a readable PNG, or a mask has another size than its image.
        """
        files = self._files[index]
        image = read_grey(files.image)
        mask = _read_mask(files.brain_mask, like=image, of=files.image)
        if files.segmentation is None:
            segmentation = np.zeros_like(mask)
        else:
            segmentation = _read_mask(files.segmentation, like=image, of=files.image)
        size = self._image_size
        brain = resize_mask(pad_to_square(mask), size)
        unit = resize_image(pad_to_square(np.where(mask, image, np.float32(0))), size)
        pixels = np.where(brain, unit * 2.0 - 1.0, -1.0).astype(np.float32)
        return {
            "image": pixels[..., None],
            "brain_mask": brain,
            "segmentation": resize_mask(pad_to_square(segmentation), size),
            "has_segmentation": np.bool_(files.segmentation is not None),
        }

    def describe(self) -> str:
        """One line: folder, modality, counts."""
        subjects = len({record.subject for record in self.records})
        truth = sum(files.segmentation is not None for files in self._files)
        return (
            f"{self._root / self._split}: {len(self)} {self._modality} slices of {subjects} "
            f"subjects, {truth} with a segmentation"
        )

    def fingerprint(self) -> str:
        """Of names, sizes and times of the files; of the names alone on a remote store."""
        used = (path for f in self._files for path in (f.image, f.brain_mask))
        return record_lib.digest([self._split, self._image_size, record_lib.file_facts(used)])


def _list_split(root: epath.Path, split: str) -> list[str]:
    folder = root / split
    if not str(root) or not folder.is_dir():
        missing = folder if root.is_dir() else root
        raise errors.UserError(
            f"data folder '{missing}' does not exist; put slices there as {root}/{_LAYOUT}"
        )
    return sorted(path.name for path in folder.iterdir())


def _by_slice(names: list[str]) -> dict[tuple[str, int], dict[str, str]]:
    """(subject, slice) -> {kind: file name}; other files are left alone."""
    slices: dict[tuple[str, int], dict[str, str]] = {}
    for name in names:
        match = _NAME.match(name)
        if match:
            key = (match["subject"], int(match["slice"]))
            slices.setdefault(key, {})[match["kind"]] = name
    return slices


def _select(
    folder: epath.Path, slices: dict[tuple[str, int], dict[str, str]], modality: str
) -> tuple[list[record_lib.Record], list[_Files]]:
    records, files = [], []
    for (subject, number), kinds in sorted(slices.items()):
        if modality not in kinds:
            continue
        if _BRAIN_MASK not in kinds:
            stem = kinds[modality].removesuffix(f"-{modality}.png")
            raise errors.UserError(
                f"brain mask '{folder / stem}-{_BRAIN_MASK}.png' is missing; every slice needs "
                "one (> 0 inside the brain, same size as the image)"
            )
        segmentation = kinds.get(_SEGMENTATION)
        records.append(
            record_lib.Record(
                id=f"{subject}-slice_{kinds[modality].rsplit('-slice_', 1)[1].split('-')[0]}",
                subject=subject,
                slice=number,
                modality=modality,
            )
        )
        files.append(
            _Files(
                image=folder / kinds[modality],
                brain_mask=folder / kinds[_BRAIN_MASK],
                segmentation=folder / segmentation if segmentation else None,
            )
        )
    if not records:
        found = sorted({kind for kinds in slices.values() for kind in kinds})
        found = [kind for kind in found if kind not in (_BRAIN_MASK, _SEGMENTATION)]
        raise errors.UserError(
            f"'{folder}' has no slices of modality '{modality}'; found: "
            f"{', '.join(found) or 'none'}; layout: {_LAYOUT}"
        )
    return records, files


def _group(split: str) -> str:
    return next((group for group in _GROUPS if split.startswith(group)), split)


def _check_disjoint(root: epath.Path, split: str, subjects: set[str]) -> None:
    """A person seen in training and again in testing makes every number worthless."""
    for folder in sorted(root.iterdir()):
        other = folder.name
        if _group(other) == _group(split) or _group(other) not in _GROUPS or not folder.is_dir():
            continue
        shared = subjects & {
            subject for subject, _ in _by_slice([p.name for p in folder.iterdir()])
        }
        if shared:
            raise errors.UserError(
                f"subject '{min(shared)}' is in both '{root / split}' and '{folder}' "
                f"({len(shared)} shared); each subject may be in one of {', '.join(_GROUPS)}"
            )


def read_grey(path: epath.Path) -> Float32[np.ndarray, "H W"]:
    """A grey PNG scaled to [0, 1] by its bit depth; colour is turned into grey.

    Raises:
      UserError: the file is no readable PNG.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error
    pixels = None
    # Checked here because decoders differ in what they let through, and print about it.
    if _is_whole_png(content):
        flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise errors.UserError(
            f"'{path}' is not a readable PNG ({len(content)} bytes: damaged or another format); "
            "accepted: 8- or 16-bit grey PNG"
        )
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def _is_whole_png(content: bytes) -> bool:
    """Whether all chunks up to IEND are there with the checksums they carry."""
    if not content.startswith(_SIGNATURE):
        return False
    position = len(_SIGNATURE)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        if end + 4 > len(content):
            return False
        (checksum,) = struct.unpack_from(">I", content, end)
        if zlib.crc32(content[position + 4 : end]) != checksum:
            return False
        if kind == b"IEND":
            return True
        position = end + 4
    return False


def _read_mask(path: epath.Path, *, like: np.ndarray, of: epath.Path) -> np.ndarray:
    pixels = read_grey(path)
    if pixels.shape != like.shape:
        raise errors.UserError(
            f"'{path}' is {_size(pixels)} px but its image '{of.name}' is {_size(like)}; "
            "they must be of one size"
        )
    return pixels > 0


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def pad_to_square(pixels: np.ndarray) -> np.ndarray:
    """[H, W] -> [S, S] with S = max(H, W), centred on zeros."""
    height, width = pixels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), pixels.dtype)
    square[top : top + height, left : left + width] = pixels
    return square


def resize_image(pixels: Float32[np.ndarray, "S S"], size: int) -> Float32[np.ndarray, "T T"]:
    """Area average when shrinking (no aliasing), bicubic when growing; stays in [0, 1]."""
    if pixels.shape[0] == size:
        return pixels
    method = cv2.INTER_AREA if pixels.shape[0] > size else cv2.INTER_CUBIC
    resized = cv2.resize(pixels, (size, size), interpolation=method)
    return np.clip(resized, 0.0, 1.0)


def resize_mask(pixels: Bool[np.ndarray, "S S"], size: int) -> Bool[np.ndarray, "T T"]:
    """Nearest neighbour, pixel centres aligned."""
    if pixels.shape[0] == size:
        return pixels
    method = cv2.INTER_NEAREST_EXACT
    return cv2.resize(pixels.astype(np.uint8), (size, size), interpolation=method) > 0

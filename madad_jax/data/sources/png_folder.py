"""Slices in folders of PNG files, in the layout of the official code.

    {root}/{split}/{id}-slice_{k}-{modality}.png       8- or 16-bit grey
    {root}/{split}/{id}-slice_{k}-brainmask.png        > 0 inside the brain
    {root}/{split}/{id}-slice_{k}-segmentation.png     > 0 on the lesion; may be missing

The subject is the text before `-slice_`. How bytes become pixels: `encoded.py`.

What the listing shows wrong is raised when the source is made, what the pixels show wrong
when a slice is read. Differs from the official code: names are parsed, not replaced in the
whole path, so ids and folders may contain the modality's name; the listing is sorted; masks
are resized by nearest neighbour instead of bicubic.
"""

import dataclasses
import os
import re
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float32

from madad_jax.core import errors
from madad_jax.data.sources import encoded as encoded_lib
from madad_jax.data.sources import record as record_lib

# Greedy: ids may hold dashes, modality names and `-slice_` itself; the last one counts.
_NAME = re.compile(r"^(?P<subject>.+)-slice_(?P<slice>\d+)-(?P<kind>.+)\.png$", re.IGNORECASE)
_BRAIN_MASK, _SEGMENTATION = "brainmask", "segmentation"
_LAYOUT = "{split}/{id}-slice_{k}-{modality|brainmask|segmentation}.png"


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
        parsed = _group_by_slice(names)
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
        return encoded_lib.element(self.read_encoded(index), self._image_size)

    def read_encoded(self, index: int) -> encoded_lib.EncodedSlice:
        """The bytes of the slice `index`.

        Raises:
          UserError: a file cannot be read.
        """
        files = self._files[index]
        truth = files.segmentation
        return encoded_lib.EncodedSlice(
            self.records[index],
            read_part(files.image),
            read_part(files.brain_mask),
            None if truth is None else read_part(truth),
        )

    def describe(self) -> str:
        """One line: folder, modality, counts."""
        subjects = len({record.subject for record in self.records})
        truth = sum(files.segmentation is not None for files in self._files)
        return (
            f"{self._root / self._split}: {len(self)} {self._modality} slices of {subjects} "
            f"subjects, {truth} with a segmentation"
        )

    def file_sizes(self) -> list[str]:
        """Sizes of each slice's image and brain mask in bytes, as text; "" on a remote store."""
        sizes = []
        for f in self._files:
            local = "://" not in str(f.image)
            pair = [os.stat(path).st_size for path in (f.image, f.brain_mask)] if local else []
            sizes.append("+".join(map(str, pair)))
        return sizes

    def fingerprint(self) -> str:
        """Of names, sizes and times of the files; of the names alone on a remote store."""
        # Without segmentations: nothing that is kept under this digest holds one.
        used = (path for f in self._files for path in (f.image, f.brain_mask))
        return record_lib.digest([self._split, self._image_size, record_lib.file_facts(used)])


def _list_split(root: epath.Path, split: str) -> list[str]:
    folder = root / split
    if not str(root) or not folder.is_dir():
        missing = folder if root.is_dir() else root
        raise errors.UserError(
            f"data folder '{missing}' does not exist; put slices there as {root}/{_LAYOUT}"
        )
    # File systems list in any order, and training must not depend on it.
    return sorted(path.name for path in folder.iterdir())


def _group_by_slice(names: list[str]) -> dict[tuple[str, int], dict[str, str]]:
    """(subject, slice) -> {kind: file name}; other files are left alone."""
    slices: dict[tuple[str, int], dict[str, str]] = {}
    for name in names:
        match = _NAME.match(name)
        if match:
            # A number, so that slice 9 comes before slice 10.
            key = (match["subject"], int(match["slice"]))
            slices.setdefault(key, {})[match["kind"]] = name
    return slices


def _select(
    folder: epath.Path, slices: dict[tuple[str, int], dict[str, str]], modality: str
) -> tuple[list[record_lib.Record], list[_Files]]:
    records, files = [], []
    for (subject, number), kinds in sorted(slices.items()):
        # A slice may lack a modality that others of its subject have.
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
                # The number as the file writes it, zeros included.
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


def list_contents(root: epath.PathLike) -> dict[str, list[str]]:
    """Modalities of every split folder of a data set that holds slices, both sorted.

    Raises:
      UserError: no such folder, or no slice in it.
    """
    root = epath.Path(root)
    found = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if record_lib.split_group(folder.name) is None or not folder.is_dir():
            continue
        kinds = {
            kind for k in _group_by_slice(_list_split(root, folder.name)).values() for kind in k
        }
        if modalities := sorted(kinds - {_BRAIN_MASK, _SEGMENTATION}):
            found[folder.name] = modalities
    if not found:
        raise errors.UserError(f"'{root}' holds no slices; put them there as {root}/{_LAYOUT}")
    return found


def _check_disjoint(root: epath.Path, split: str, subjects: set[str]) -> None:
    others = {}
    for folder in sorted(root.iterdir()):
        # From names alone: opening every split takes minutes on a remote store.
        if record_lib.may_not_share(split, folder.name) and folder.is_dir():
            others[str(folder)] = {
                subject for subject, _ in _group_by_slice([p.name for p in folder.iterdir()])
            }
    record_lib.check_disjoint(str(root / split), subjects, others)


def read_part(path: epath.Path) -> encoded_lib.Part:
    """A file's bytes. Raises UserError when it cannot be read."""
    try:
        return encoded_lib.Part(str(path), path.read_bytes())
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error


def read_grey(path: epath.Path) -> Float32[np.ndarray, "H W"]:
    """A grey PNG scaled to [0, 1] by its bit depth; colour is turned into grey.

    Raises:
      UserError: the file is no readable PNG.
    """
    return encoded_lib.decode_grey(read_part(path))

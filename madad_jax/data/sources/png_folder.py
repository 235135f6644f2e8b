"""Slices in folders of PNG files, in the layout of the official code.

    {root}/{split}/{id}-slice_{k}-{modality}.png       8- or 16-bit grey (`png_pixels`)
    {root}/{split}/{id}-slice_{k}-brainmask.png        > 0 inside the brain
    {root}/{split}/{id}-slice_{k}-segmentation.png     > 0 on the lesion; may be missing

The subject is the text before `-slice_`; names are parsed in `png_names.py`. How bytes become
pixels: `encoded.py`.

What the listing shows wrong is raised when the source is made, what the pixels show wrong
when a slice is read. Differs from the official code: names are parsed, not replaced in the
whole path, so ids and folders may contain the modality's name; the listing is sorted; masks
are not resized as pictures are (`encoded`).
"""

import dataclasses
import os
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float32

from madad_jax.core import errors, messages
from madad_jax.data.sources import encoded as encoded_lib
from madad_jax.data.sources import png_names, png_pixels
from madad_jax.data.sources import record as record_lib


@dataclasses.dataclass(frozen=True)
class _Files:
    """The files of one slice."""

    image: epath.Path
    brain_mask: epath.Path
    segmentation: epath.Path | None


class PngFolder:
    """Random access to the slices of one split and one modality (`record.Source`).

    `notes` has a line for each kind of file in the folder that is passed over.
    """

    def __init__(self, root: str, *, split: str, modality: str, image_size: int):
        """Lists the split.

        Args:
          root: folder that holds the split folders; `gs://` paths work too.
          split: folder name, e.g. `train`, `val`, `test`, `test_healthy`.
          modality: the text between `-slice_{k}-` and `.png`, e.g. `T1`.
          image_size: side of the square that is handed out, px.

        Raises:
          UserError: missing root or split, no files of the modality, a slice without a
            brain mask, two files for one slice, a subject that also stands in a split of
            another group.
        """
        self._root = epath.Path(root)
        self._split = split
        self._modality = modality
        self._image_size = image_size
        listing = _list_split(self._root, split)
        self.records, self._files = _select(self._root / split, listing, modality)
        self.notes = png_names.describe_others(listing, modality)
        self._others = [m for m in listing.modalities if m.lower() != modality.lower()]
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

    def read_segmentation(self, index: int) -> png_pixels.Part | None:
        """The bytes of a slice's segmentation alone; None where it has none."""
        truth = self._files[index].segmentation
        return None if truth is None else read_part(truth)

    def describe(self) -> str:
        """One line: folder, modality, counts."""
        subjects = len({record.subject for record in self.records})
        truth = sum(files.segmentation is not None for files in self._files)
        others = messages.shorten(", ".join(self._others))
        return (
            f"{self._root / self._split}: {len(self)} {self._modality} slices of {subjects} "
            f"subjects, {truth} with a segmentation{'; also there: ' if others else ''}{others}"
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


def _list_split(root: epath.Path, split: str) -> png_names.Listing:
    folder = root / split
    if not str(root) or not folder.is_dir():
        raise errors.UserError(_explain_missing(root, split))
    return _list_names(folder)


def _list_names(folder: epath.Path) -> png_names.Listing:
    return png_names.list_names((path.name for path in folder.iterdir()), str(folder))


def _explain_missing(root: epath.Path, split: str) -> str:
    if not root.is_dir():
        return f"data folder '{root}' does not exist; put slices there as {root}/{png_names.LAYOUT}"
    here = [path.name for path in sorted(root.iterdir()) if path.is_dir()]
    splits = [name for name in here if record_lib.split_group(name.lower())]
    found = f"; found: {', '.join(map(messages.shorten, splits[:8]))}" if splits else ""
    advice = f"put slices there as {root}/{png_names.LAYOUT}"
    if split == "test" and "test_healthy" in splits:
        # A cohort of healthy people: nothing is wrong with it, and there is nothing to find.
        advice = (
            "a cohort without lesions is trained on with --mode=train, or with "
            "--config.eval.sets=\"('test_healthy',)\" scored for false alarms alone"
        )
    return f"data folder '{root / split}' does not exist{found}; {advice}"


def _select(
    folder: epath.Path, listing: png_names.Listing, modality: str
) -> tuple[list[record_lib.Record], list[_Files]]:
    records, files = [], []
    spelled = png_names.find_modality(listing, modality)
    for one in listing.slices:
        # A slice may lack a modality that others of its subject have.
        if spelled is None or spelled not in one.kinds:
            continue
        kinds = one.kinds
        if png_names.BRAIN_MASK not in kinds:
            stem = kinds[spelled][: -len(f"-{spelled}.png")]
            near = [
                kind
                for kind in one.modalities
                if png_names.near_miss(kind, kinds, modality) == png_names.BRAIN_MASK
            ]
            hint = f"; found '{messages.shorten(kinds[near[0]])}'" if near else ""
            raise errors.UserError(
                f"brain mask '{folder / stem}-{png_names.BRAIN_MASK}.png' is missing; every slice "
                f"needs one (> 0 inside the brain, same size as the image){hint}"
            )
        segmentation = kinds.get(png_names.SEGMENTATION)
        records.append(
            record_lib.Record(
                # The number as the file writes it, zeros included.
                id=f"{one.subject}-slice_{one.digits}",
                subject=one.subject,
                slice=one.number,
                modality=modality,
            )
        )
        files.append(
            _Files(
                image=folder / kinds[spelled],
                brain_mask=folder / kinds[png_names.BRAIN_MASK],
                segmentation=folder / segmentation if segmentation else None,
            )
        )
    if not records:
        notes = "; ".join(png_names.describe_others(listing, modality))
        raise errors.UserError(
            f"'{folder}' has no slices of modality '{modality}'; found: "
            f"{messages.shorten(', '.join(listing.modalities)) or 'none'}; layout: "
            f"{png_names.LAYOUT}{'; ' if notes else ''}{notes}"
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
        if modalities := _list_names(folder).modalities:
            found[folder.name] = modalities
    if not found:
        raise errors.UserError(
            f"'{root}' holds no slices; put them there as {root}/{png_names.LAYOUT}"
        )
    return found


def _check_disjoint(root: epath.Path, split: str, subjects: set[str]) -> None:
    others = {}
    for folder in sorted(root.iterdir()):
        # From names alone: opening every split takes minutes on a remote store.
        if record_lib.may_not_share(split, folder.name) and folder.is_dir():
            others[str(folder)] = {one.subject for one in _list_names(folder).slices}
    record_lib.check_disjoint(str(root / split), subjects, others)


def read_part(path: epath.Path) -> png_pixels.Part:
    """A file's bytes. Raises UserError when it cannot be read."""
    try:
        return png_pixels.Part(str(path), path.read_bytes())
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error


def read_grey(path: epath.Path) -> Float32[np.ndarray, "H W"]:
    """A grey PNG scaled to [0, 1] by its bit depth; colour is turned into grey.

    Raises:
      UserError: the file is no readable PNG.
    """
    return png_pixels.decode_grey(read_part(path))

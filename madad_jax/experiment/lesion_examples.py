"""Slices as their files hold them, and the few examples that lesions are learned from."""

import dataclasses
import os

import numpy as np
from etils import epath
from jaxtyping import Bool, Float32, Int

from madad_jax.core import atomic_files, errors, messages
from madad_jax.data.sources import encoded, png_folder, png_names, png_pixels, record
from madad_jax.synthesis import lesion_masks

LEAST = 3  # slices


@dataclasses.dataclass(frozen=True)
class Picture:
    """A slice at its own resolution, padded to a square.

    Attributes:
      id, subject: as its file's name says.
      levels: [S,S] grey values of the file, 0 to `white`.
      white: 255 or 65535.
      brain, truth: [S,S]; truth is all False where the slice has none.
      inner: where the file's own pixels lie in the square.
    """

    id: str
    subject: str
    levels: Int[np.ndarray, "S S"]
    white: int
    brain: Bool[np.ndarray, "S S"]
    truth: Bool[np.ndarray, "S S"]
    inner: tuple[slice, slice]

    @property
    def grey(self) -> Float32[np.ndarray, "S S"]:
        """In [0, 1]."""
        return (self.levels / self.white).astype(np.float32)

    def median(self) -> float:
        """Of the brain's grey values; 1 for a brain that is black, or none."""
        values = self.grey[self.brain]
        return float(np.median(values)) or 1.0 if values.size else 1.0

    def tissue(self) -> Float32[np.ndarray, "S S"]:
        """Grey values with the brain's median outside of it: no dark rim beside a lesion."""
        return np.where(self.brain, self.grey, np.float32(self.median()))

    def moments(self) -> tuple[float, float]:
        """Mean and deviation of the brain's grey values; (0, 1) without brain or contrast."""
        values = self.grey[self.brain]
        deviation = float(values.std()) if values.size else 0.0
        return (float(values.mean()), deviation) if deviation > 1e-6 else (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Slices with lesions of one kind.

    Attributes:
      name: of the kind: the folder's.
      pictures: at their own resolution.
      images, masks: [k,s,s,1] in [-1, 1] and [k,s,s] at the size of a run; a side of 0 without.
      lesions: of all slices.
      files: {name: sha256} of what was read.
    """

    name: str
    pictures: list[Picture]
    images: Float32[np.ndarray, "k s s 1"]
    masks: Bool[np.ndarray, "k s s"]
    lesions: list[lesion_masks.Lesion]
    files: dict[str, str]

    @property
    def subjects(self) -> list[str]:
        """Whose slices they are."""
        return sorted({picture.subject for picture in self.pictures})

    def counts(self) -> list[int]:
        """Lesions of each slice."""
        return [sum(one.example == p.id for one in self.lesions) for p in self.pictures]


def open_folder(
    folder: epath.PathLike, modality: str, image_size: int, flag: str
) -> png_folder.PngFolder:
    """The slices that lie in a folder itself.

    Raises:
      UserError: no such folder, or no slice of the modality in it.
    """
    text = os.fspath(folder)
    path = epath.Path(text if "://" in text else os.path.abspath(text))
    if not path.is_dir():
        raise errors.UserError(
            f"{flag}={messages.shorten(text, 200)}: no such folder; accepted: one with "
            f"{png_names.LAYOUT.partition('/')[2]}"
        )
    return png_folder.PngFolder(
        str(path.parent), split=path.name, modality=modality, image_size=image_size
    )


def read_picture(source: png_folder.PngFolder, index: int) -> Picture:
    """A slice at its own resolution.

    Raises:
      UserError: a file that cannot be read, or masks of another size than the picture.
    """
    bytes_of = source.read_encoded(index)
    # For its errors: sizes that differ, and files that are no pictures.
    encoded.element(bytes_of, 16)
    grey = png_pixels.decode_grey(bytes_of.image)
    white = 65535 if png_pixels.bit_depth(bytes_of.image) == 16 else 255
    brain = png_pixels.decode_mask(bytes_of.brain_mask)
    truth = np.zeros_like(brain)
    if bytes_of.segmentation is not None:
        truth = png_pixels.decode_mask(bytes_of.segmentation)
    inside = encoded.pad_to_square(np.ones(grey.shape, bool))
    inner = tuple(
        slice(int(used.argmax()), int(used.argmax() + used.sum()))
        for used in (inside.any(1), inside.any(0))
    )
    return Picture(
        id=bytes_of.record.id,
        subject=bytes_of.record.subject,
        # Exact: the reader divided whole numbers by `white`.
        levels=encoded.pad_to_square(np.round(grey * white).astype(np.int32)),
        white=white,
        brain=encoded.pad_to_square(brain),
        truth=encoded.pad_to_square(truth),
        inner=(inner[0], inner[1]),
    )


def read(folder: epath.PathLike, modality: str, image_size: int) -> Examples:
    """The examples in a folder.

    Args:
      folder: holds the files themselves, and no split folders.
      modality: which of its pictures.
      image_size: of the run that learns from them, px; 0: none does.

    Raises:
      UserError: fewer than `LEAST` slices, or one without a lesion inside its brain.
    """
    source = open_folder(folder, modality, image_size or 16, "--examples")
    if len(source) < LEAST:
        raise errors.UserError(
            f"--examples={folder}: found {len(source)} slices of {modality}, accepted: {LEAST} or "
            "more, each with a segmentation"
        )
    pictures = [read_picture(source, n) for n in range(len(source))]
    for picture in pictures:
        if not (picture.truth & picture.brain).any():
            raise errors.UserError(
                f"--examples={folder}: '{picture.id}' has no lesion: its segmentation is missing "
                "or empty inside the brain; accepted: slices that show a lesion"
            )
    elements = [source[n] for n in range(len(source))] if image_size else []
    place, side = epath.Path(folder), (0, image_size, image_size)
    kinds = (modality, png_names.BRAIN_MASK, png_names.SEGMENTATION)
    names = [f"{picture.id}-{kind}.png" for picture in pictures for kind in kinds]
    return Examples(
        name=epath.Path(os.path.abspath(folder)).name,
        pictures=pictures,
        images=np.stack([e["image"] for e in elements]) if elements else np.zeros((*side, 1), "f4"),
        masks=np.stack([e["segmentation"] for e in elements]) if elements else np.zeros(side, bool),
        lesions=[lesion for p in pictures for lesion in _lesions(p)],
        files={n: atomic_files.sha256(place / n) for n in names if (place / n).exists()},
    )


def _lesions(picture: Picture) -> list[lesion_masks.Lesion]:
    return lesion_masks.cut(picture.id, picture.tissue(), picture.truth & picture.brain)


def check_apart(examples: list[Examples], subjects: set[str], where: str) -> None:
    """Raises UserError where a person of the examples stands among `subjects`, of `where`."""
    for one in examples:
        record.check_disjoint(f"--examples={one.name}", set(one.subjects), {where: subjects})

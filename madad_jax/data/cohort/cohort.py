"""The embedded cohort: synthetic subjects with real anatomy, drawn where the program runs.

Splits: `train`, `val` and `test_healthy` hold healthy subjects; `test` holds subjects with
one kind of lesion each; `val_lesion` the same for choosing options, never for reporting, and
`train_lesion` for methods that learn from slices labelled abnormal.
A subject is a function of (seed, split, index) alone, so splits share nobody, sizes may grow
without changing who was there, and one subject drawn alone is bit-equal. Drawn subjects are
kept in `cache_dir`, one file each, under a key of the generator's version and all parameters.

Everything printed from this data must say that it is synthetic: see `describe`.
"""

import concurrent.futures
import dataclasses
import difflib
import hashlib
import io
import json
import zlib
from typing import Any

import cv2
import numpy as np
import tqdm
from etils import epath

from madad_jax.core import atomic_files, errors, npz_errors
from madad_jax.data.cohort import anatomy as anatomy_lib
from madad_jax.data.cohort import appearance, lesions, random_fields
from madad_jax.data.sources import record as record_lib
from madad_jax.scans import template as template_lib

# Raise whenever a drawn pixel may change; cached subjects of other versions are not used.
GENERATOR_VERSION = 4
SPLITS = ("train", "train_lesion", "val", "val_lesion", "test", "test_healthy")
_LESION_SPLITS = ("train_lesion", "val_lesion", "test")
MIDDLE_LEVEL = 18.0  # MNI height of the middle slice, mm: the bodies of the ventricles.
_WORKING_PIXEL = 0.85  # Largest pixel that anatomy is drawn on, mm.


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes of the cohort.

    Attributes:
      train, train_lesion, val, val_lesion, test, test_healthy: subjects per split.
      slices: axial slices per subject.
      slice_spacing: mm between them.
      field_of_view: side of a slice, mm.
      workers: subjects drawn at a time.
    """

    train: int = 60
    train_lesion: int = 30
    val: int = 8
    val_lesion: int = 10
    test: int = 20
    test_healthy: int = 8
    slices: int = 12
    slice_spacing: float = 4.0
    field_of_view: float = 208.0
    workers: int = 2


@dataclasses.dataclass(frozen=True)
class Subject:
    """One drawn subject: `image` uint16 [z, h, w] over [0, 1], masks bool [z, h, w]."""

    image: np.ndarray
    brain_mask: np.ndarray
    segmentation: np.ndarray


def options_from_dict(values: dict[str, Any] | None) -> Options:
    """`Options` from a plain dict.

    Raises:
      UserError: unknown key or a size out of range.
    """
    known = [field.name for field in dataclasses.fields(Options)]
    for key in values or {}:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise errors.UserError(
                f"data.cohort: unknown key '{key}'{hint} (accepted: {', '.join(known)})"
            )
    kinds = {field.name: field.type for field in dataclasses.fields(Options)}
    options = Options(**{key: kinds[key](value) for key, value in (values or {}).items()})
    # 96 mm about MIDDLE_LEVEL: every slice between meets the brain.
    if not 1 <= options.slices <= 24 or options.slices * options.slice_spacing > 96:
        raise errors.UserError(
            f"data.cohort.slices: found {options.slices} at {options.slice_spacing} mm, "
            "accepted: 1 to 24 slices over at most 96 mm"
        )
    return options


def draw_subject(
    split: str, index: int, *, modality: str, image_size: int, seed: int, options: Options
) -> Subject:
    """Draws one subject; the same arguments give the same bits."""
    factor = max(1, round(options.field_of_view / image_size / _WORKING_PIXEL))
    middle = (options.slices - 1) / 2
    levels = tuple(
        MIDDLE_LEVEL + (k - middle) * options.slice_spacing for k in range(options.slices)
    )
    drawn = draw_parts(
        split,
        index,
        modality=modality,
        seed=seed,
        grid=random_fields.Grid(image_size * factor, options.field_of_view, levels),
        lesion=lesion_class(index) if split in _LESION_SPLITS else None,
    )
    # Noise comes last: a scanner's is of its own pixels, not of finer ones.
    image = appearance.add_noise(drawn.rng, _shrink(drawn.image, image_size))
    brain = _shrink(drawn.brain.astype(np.float32), image_size) >= 0.5
    segmentation = (_shrink(drawn.lesion.astype(np.float32), image_size) >= 0.5) & brain
    unit = np.where(brain, appearance.scale(image, brain & ~segmentation, modality), 0.0)
    return Subject(np.round(unit * 65535).astype(np.uint16), brain, segmentation)


@dataclasses.dataclass(frozen=True)
class Parts:
    """A subject on its working grid [z, h, w]: picture without noise, masks, and the generator
    of its scan, from which the noise is still to be drawn."""

    image: np.ndarray
    brain: np.ndarray
    lesion: np.ndarray
    rng: np.random.Generator


def draw_parts(
    split: str,
    index: int,
    *,
    modality: str,
    seed: int,
    grid: random_fields.Grid,
    lesion: tuple[str, str] | None,
) -> Parts:
    """Draws a subject on a grid; `lesion` is (kind, size) or None."""
    # crc32 and not hash(), which Python salts anew in every process. Streams of their own: a change
    # of how lesions are drawn leaves the anatomy alone.
    streams = np.random.SeedSequence([seed, zlib.crc32(split.encode()), index]).spawn(4)
    shape_rng, lesion_rng = (np.random.default_rng(s) for s in streams[:2])
    # Another modality of the same subject: same anatomy and lesion, own scan.
    scan_rng = np.random.default_rng(
        np.random.SeedSequence([*streams[2].generate_state(2), zlib.crc32(modality.encode())])
    )
    anatomy = anatomy_lib.draw(shape_rng, template_lib.load(), grid)
    contrast = appearance.draw_contrast(scan_rng, modality)
    if lesion is not None:
        planted = lesions.plant(lesion_rng, *lesion, anatomy, contrast)
        clean, mask = planted.clean, planted.mask
    else:
        clean = contrast.mix(anatomy.fluid, anatomy.grey, anatomy.white)
        mask = np.zeros(grid.shape, bool)
    image = appearance.render(scan_rng, anatomy, clean)
    return Parts(image, anatomy.brain, mask, scan_rng)


def lesion_class(index: int) -> tuple[str, str]:
    """Kind and size of the subject `index`; all pairs within 15 subjects."""
    return lesions.KINDS[index % len(lesions.KINDS)], lesions.SIZES[index % len(lesions.SIZES)]


def _shrink(volume: np.ndarray, side: int) -> np.ndarray:
    if volume.shape[1] == side:
        return volume
    # Means over areas: partial volume, as real pixels have it.
    size = (side, side)
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in volume])


class Cohort:
    """Random access to the slices of one split of the cohort (`record.Source`)."""

    def __init__(
        self,
        split: str,
        *,
        modality: str,
        image_size: int,
        cache_dir: str = "",
        seed: int = 0,
        options: Options | None = None,
    ):
        """Draws the split or reads it from the cache, with a progress bar.

        Raises:
          UserError: unknown split or modality, or a cache folder that cannot be written.
        """
        self._options = options or Options()
        if split not in SPLITS:
            raise errors.UserError(f"split: found '{split}', the cohort has: {', '.join(SPLITS)}")
        if modality not in appearance.TISSUES:
            raise errors.UserError(
                f"modality: found '{modality}', the embedded cohort has: "
                f"{', '.join(appearance.TISSUES)}"
            )
        self._split = split
        self._modality = modality
        self._image_size = image_size
        self._seed = seed
        self._cache = _cache_folder(cache_dir, modality, image_size, seed, self._options)
        self._subjects = self._draw_all(getattr(self._options, split))
        self._places = [
            (s, k) for s in range(len(self._subjects)) for k in range(self._options.slices)
        ]
        self.records = [self._record(s, k) for s, k in self._places]

    def __len__(self) -> int:
        """Number of slices."""
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See `record.Source`."""
        number, level = self._places[index]
        subject = self._subjects[number]
        image = subject.image[level].astype(np.float32) * np.float32(2.0 / 65535.0) - 1.0
        return {
            "image": image[..., None],
            "brain_mask": subject.brain_mask[level].copy(),
            "segmentation": subject.segmentation[level].copy(),
            "has_segmentation": np.bool_(True),
        }

    def describe(self) -> str:
        """One line that says that the data is synthetic, and how much there is."""
        sick = sum(bool(record.lesion_kind) for record in self.records)
        return (
            f"synthetic, embedded cohort (drawn from the ICBM152 template): {self._split}, "
            f"{len(self)} {self._modality} slices of {len(self._subjects)} subjects at "
            f"{self._image_size} px, {sick} slices with a lesion"
        )

    def fingerprint(self) -> str:
        """Of all that the subjects are drawn from."""
        # How many are drawn at a time changes no pixel.
        options = dataclasses.asdict(self._options) | {"workers": 0}
        values = (GENERATOR_VERSION, self._split, self._modality, self._image_size, self._seed)
        return record_lib.digest([*values, options])

    def _record(self, number: int, level: int) -> record_lib.Record:
        subject = f"{self._split.replace('_', '-')}{number:04d}"
        sick = bool(self._subjects[number].segmentation[level].any())
        return record_lib.Record(
            id=f"{subject}-slice_{level:03d}",
            subject=subject,
            slice=level,
            modality=self._modality,
            lesion_kind=lesion_class(number)[0] if sick else "",
        )

    def _draw_all(self, count: int) -> list[Subject]:
        subjects: dict[int, Subject] = {}
        for index in range(count):
            cached = _read_cached(self._cache, self._split, index)
            if cached is not None:
                subjects[index] = cached
        missing = [index for index in range(count) if index not in subjects]
        if not missing:
            return [subjects[index] for index in range(count)]
        template_lib.load()
        # Threads, not processes: SciPy, OpenCV and NumPy's generators work without the
        # interpreter's lock, and nothing has to be started or pickled.
        pool = concurrent.futures.ThreadPoolExecutor(max(self._options.workers, 1))
        label = f"drawing {self._split} (synthetic)"
        try:
            futures = [pool.submit(self._draw_one, index) for index in missing]
            for index, future in zip(
                missing, tqdm.tqdm(futures, label, unit="subject"), strict=True
            ):
                subjects[index] = future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C and a full disk end it at once.
        return [subjects[index] for index in range(count)]

    def _draw_one(self, index: int) -> Subject:
        subject = draw_subject(
            self._split,
            index,
            modality=self._modality,
            image_size=self._image_size,
            seed=self._seed,
            options=self._options,
        )
        _write_cached(self._cache, self._split, index, subject)
        return subject


def _cache_folder(
    cache_dir: str, modality: str, image_size: int, seed: int, options: Options
) -> epath.Path | None:
    """Folder of subjects that are drawn alike; how many there are does not matter."""
    if not cache_dir:
        return None
    parameters = {
        "modality": modality,
        "image_size": image_size,
        "seed": seed,
        "slices": options.slices,
        "slice_spacing": options.slice_spacing,
        "field_of_view": options.field_of_view,
    }
    key = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    return epath.Path(cache_dir) / f"cohort-v{GENERATOR_VERSION}-{modality}-{image_size}-{key}"


def _cached_path(folder: epath.Path, split: str, index: int) -> epath.Path:
    return folder / f"{split}-{index:05d}.npz"


def _read_cached(folder: epath.Path | None, split: str, index: int) -> Subject | None:
    """The cached subject; None when there is none or it is damaged (it is then redrawn)."""
    if folder is None:
        return None
    path = _cached_path(folder, split, index)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return Subject(arrays["image"], arrays["brain_mask"], arrays["segmentation"])
    except npz_errors.READING:
        return None


def _write_cached(folder: epath.Path | None, split: str, index: int, subject: Subject) -> None:
    if folder is None:
        return
    content = io.BytesIO()
    np.savez_compressed(content, **dataclasses.asdict(subject))
    path = _cached_path(folder, split, index)
    atomic_files.write_bytes(
        path, content.getvalue(), hint="set data.cache_dir to a writable folder"
    )

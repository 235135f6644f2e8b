"""Slices as a TensorFlow Datasets data set, and the reader of one. TensorFlow is not needed.

    python -m madad_jax pack --in=data/brats --out=data/brats_tfds --format=tfds
    tfds build madad_jax/data/sources/tfds_builder.py --config=uint8 --file_format=array_record \\
        --manual_dir=data/brats --data_dir=data/brats_tfds     # the same; asks for TensorFlow

Any folder in the layout of `png_folder.py` goes in. The PNG bytes go on as they are; one example
is one slice of one modality. `tfds.data_source("brain_slices/uint8", data_dir=...)` reads it, and
`data.source=tfds` trains from it: sorted as the folder is, so that the training stream is the
folder's to the bit.
"""

import io
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from madad_jax.core import errors
from madad_jax.data.sources import encoded as encoded_lib
from madad_jax.data.sources import png_folder, png_pixels
from madad_jax.data.sources import record as record_lib

NAME = "brain_slices"
_PICTURES = ("image", "brain_mask", "segmentation")
# PNG bytes stay bytes: `encoded` makes them pixels as for the other readers.
_ENCODED = {name: tfds.decode.SkipDecoding() for name in _PICTURES}


class BrainSlices(tfds.core.GeneratorBasedBuilder):
    """Axial slices of brain MRI: image, brain mask, and the lesion where it is known."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads a class attribute)
        tfds.core.BuilderConfig(name="uint8", description="8-bit slices"),
        tfds.core.BuilderConfig(name="uint16", description="16-bit slices"),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "The folder of slices: {split}/{id}-slice_{k}-{modality|brainmask|segmentation}.png"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        grey = np.dtype(self.builder_config.name)
        pictures = {
            name: tfds.features.Image(shape=(None, None, 1), dtype=dtype, encoding_format="png")
            for name, dtype in zip(_PICTURES, (grey, np.uint8, np.uint8), strict=True)
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                pictures
                | {
                    "has_segmentation": np.bool_,
                    "id": tfds.features.Text(),
                    "subject": tfds.features.Text(),
                    "slice": np.int64,
                    "modality": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        root = dl_manager.manual_dir
        self.info.metadata["fingerprint"] = fingerprint(root)
        return {
            split: self._generate_examples(root, split, modalities)
            for split, modalities in png_folder.list_contents(root).items()
        }

    def _generate_examples(self, root, split: str, modalities: list[str]) -> Iterator[Any]:
        for modality in modalities:
            source = png_folder.PngFolder(str(root), split=split, modality=modality, image_size=8)
            for i in range(len(source)):
                encoded = source.read_encoded(i)
                encoded_lib.element(encoded, 8)  # a damaged file is named now
                yield f"{encoded.record.id}-{modality}", self._example(encoded)

    def _example(self, encoded: encoded_lib.EncodedSlice) -> dict[str, Any]:
        self._check_depth(encoded.image)
        truth = encoded.segmentation
        # TFDS knows no missing picture: any one stands in, and `has_segmentation` says so.
        parts = (encoded.image, encoded.brain_mask, truth or encoded.brain_mask)
        record = encoded.record
        return {name: io.BytesIO(p.content) for name, p in zip(_PICTURES, parts, strict=True)} | {
            "has_segmentation": truth is not None,
            "id": record.id,
            "subject": record.subject,
            "slice": record.slice,
            "modality": record.modality,
        }

    def _check_depth(self, image: png_pixels.Part) -> None:
        found = f"uint{png_pixels.bit_depth(image)}"
        if found != self.builder_config.name:
            raise errors.UserError(
                f"'{image.name}' is {found} and the data set {self.builder_config.name}; all "
                "slices must have one depth, named by --config"
            )


def fingerprint(root: epath.PathLike) -> str:
    """Of every slice of a folder."""
    found = []
    for split, modalities in png_folder.list_contents(root).items():
        for modality in modalities:
            source = png_folder.PngFolder(str(root), split=split, modality=modality, image_size=8)
            found.append([split, modality, source.fingerprint()])
    return record_lib.digest(found)


def write(root: epath.PathLike, out: epath.PathLike) -> bool:
    """Builds the data set of the folder `root` under `out`; False where that was done before.

    Raises:
      UserError: a file cannot be read or is no PNG, or slices of two depths.
    """
    split, modalities = next(iter(png_folder.list_contents(root).items()))
    first = png_folder.PngFolder(str(root), split=split, modality=modalities[0], image_size=8)
    depth = png_pixels.bit_depth(first.read_encoded(0).image)
    builder = BrainSlices(data_dir=str(out), config=f"uint{depth}", file_format="array_record")
    done = epath.Path(builder.data_dir)
    for left in done.parent.glob(f"incomplete.*_{done.name}"):
        left.rmtree()  # Of a run that was killed; TFDS would not look at it again.
    if done.exists():
        if dict(builder.info.metadata or {}).get("fingerprint") == fingerprint(root):
            return False
        done.rmtree()  # of other slices: TFDS would keep it and say that all is done
        return write(root, out)
    options = tfds.download.DownloadConfig(manual_dir=str(root))
    with tempfile.TemporaryDirectory() as scratch:  # nothing is downloaded; TFDS makes the folder
        builder.download_and_prepare(download_dir=scratch, download_config=options)
    return True


class TfdsFolder:
    """Random access to the slices of one split and one modality (`record.Source`)."""

    def __init__(self, root: epath.PathLike, *, split: str, modality: str, image_size: int):
        """Opens the split and reads once through it for ids and modalities.

        Args:
          root: `data_dir` of the data set, or the folder of one version of it.
          split: e.g. `train`, `val`, `test`, `test_healthy`.
          modality: e.g. `T1`.
          image_size: side of the square that is handed out, px.

        Raises:
          UserError: no data set, no such split or modality, or a data set of other features.
        """
        self._folder = find(root)
        self._split, self._modality, self._image_size = split, modality, image_size
        builder = tfds.builder_from_directory(str(self._folder))
        if split not in builder.info.splits:
            raise errors.UserError(
                f"'{self._folder}' has no split '{split}'; found: {', '.join(builder.info.splits)}"
            )
        missing = {*_PICTURES, "id", "subject", "slice", "modality"} - set(builder.info.features)
        if missing:
            raise errors.UserError(
                f"'{self._folder}' has no feature {', '.join(sorted(missing))}; accepted: what "
                "madad_jax pack --format=tfds writes"
            )
        self._data = builder.as_data_source(split, decoders=_ENCODED)
        self._order, self.records = self._read_records()

    def _read_records(self) -> tuple[list[int], list[record_lib.Record]]:
        found, modalities = [], set()
        # Once through all examples: TFDS has no index by modality.
        for i in range(len(self._data)):
            example = self._data[i]
            record = _record(example)
            modalities.add(record.modality)
            if record.modality == self._modality:
                found.append((record.subject, record.slice, record, i))
        if not found:
            raise errors.UserError(
                f"'{self._folder}', split {self._split}, has no slices of modality "
                f"'{self._modality}'; found: {', '.join(sorted(modalities)) or 'none'}"
            )
        # TFDS shuffles what it writes; training's order is that of the sorted folder.
        found.sort()
        return [i for *_, i in found], [record for *_, record, _ in found]

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See `record.Source`. Raises UserError for a damaged picture."""
        return encoded_lib.element(self.read_encoded(index), self._image_size)

    def read_encoded(self, index: int) -> encoded_lib.EncodedSlice:
        """The bytes of the slice `index`."""
        record = self.records[index]
        try:
            example = self._data[self._order[index]]
        except RuntimeError as error:
            raise errors.UserError(f"'{self._folder}', {record.id}: {error}") from error
        parts = [
            png_pixels.Part(f"{self._folder}: {record.id}-{name}", example[name])
            for name in _PICTURES
        ]
        truth = parts[2] if example["has_segmentation"] else None
        return encoded_lib.EncodedSlice(record, parts[0], parts[1], truth)

    def read_segmentation(self, index: int) -> png_pixels.Part | None:
        """The bytes of a slice's segmentation alone; None where it has none."""
        return self.read_encoded(index).segmentation

    def describe(self) -> str:
        """One line: folder, modality, counts."""
        subjects = len({record.subject for record in self.records})
        return (
            f"{self._folder} (TFDS), {self._split}: {len(self)} {self._modality} slices of "
            f"{subjects} subjects"
        )

    def fingerprint(self) -> str:
        """Of the shards' names, sizes and times."""
        files = record_lib.file_facts(sorted(self._folder.glob(f"*-{self._split}.*")))
        return record_lib.digest([self._split, self._modality, self._image_size, files])


def _record(example: dict[str, Any]) -> record_lib.Record:
    text = {k: _text(example[k]) for k in ("id", "subject", "modality")}
    return record_lib.Record(slice=int(example["slice"]), **text)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def find(root: epath.PathLike) -> epath.Path:
    """The folder with `dataset_info.json`: `root`, or the only one of `brain_slices` below it.

    Raises:
      UserError: none, or several.
    """
    root = epath.Path(root)
    info = "dataset_info.json"
    if (root / info).exists():
        return root
    found = sorted(path.parent for path in root.glob(f"{NAME}/*/*/{info}"))
    if len(found) != 1:
        what = ", ".join(str(path) for path in found) or "none"
        raise errors.UserError(
            f"data.root: '{root}' should hold one TFDS data set of slices ({NAME}/...); found: "
            f"{what}"
        )
    return found[0]


def has_split(root: epath.PathLike, split: str) -> bool:
    """Whether the data set has the split. Raises UserError when there is no data set."""
    return split in tfds.builder_from_directory(str(find(root))).info.splits

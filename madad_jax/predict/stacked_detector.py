"""Co-registered scans of one person, one for each contrast, scored by a run on several.

    --input=T1=a.nii.gz,FLAIR=b.nii.gz

All lie on one grid. Brain mask, registration, and what is written follow the first contrast, in
the order of the run. A contrast that is not given is missing, as in training.
"""

import copy
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from madad_jax.core import errors, messages
from madad_jax.core.types import Batch
from madad_jax.data import discovery, scan_names
from madad_jax.data.sources import stacked
from madad_jax.predict import detector as detector_lib
from madad_jax.predict import result as result_lib
from madad_jax.predict import scan as scan_lib
from madad_jax.scans import to_slices, volumes

_GRID_MM = 1e-3  # affines that differ by less are those of one grid


def parse(text: str) -> dict[str, str]:
    """{contrast: path} of NAME=PATH,NAME=PATH; {} of anything else, as a path.

    Raises:
      UserError: a contrast twice, or one without a path.
    """
    if "=" not in text or epath.Path(text).exists():
        return {}
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, path = part.partition("=")
        if not name or not path or name in found or os.sep in name:
            raise errors.UserError(
                f"--input={messages.shorten(text, 200)}: accepted: a path, or different contrasts "
                "as T1=a.nii.gz,FLAIR=b.nii.gz"
            )
        found[name] = path
    return found


def as_scans(files: Mapping[str, str]) -> list[discovery.Scan]:
    """The one scan that the files are. Raises UserError for a path that does not exist."""
    for name, path in files.items():
        if not epath.Path(path).exists():
            raise errors.UserError(f"--input={name}={path}: no such file or folder")
    first = epath.Path(next(iter(files.values())))
    return [discovery.Scan(scan_names.output_names([first.name])[0], first)]


@dataclasses.dataclass(frozen=True)
class StackedSlices(to_slices.Slices):
    """Slices of the first contrast, with the `pictures` of all given ones [k,H,W] over [0, 1]."""

    pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class StackedDetector(detector_lib.Detector):
    """A detector of the scans in `files`; called with the first of them."""

    def __init__(
        self, *args: Any, files: Mapping[str, str], names: tuple[str, ...], neighbours: int, **more
    ):
        """Takes the parts.

        Args:
          args, more: as `Detector` takes them.
          files: paths by contrast.
          names: the run's contrasts, in the order of its channels.
          neighbours: slices below and above that it reads.
        """
        super().__init__(*args, **more)
        self._files = {name: files[name] for name in names if name in files}
        self._names, self._neighbours = names, neighbours
        self._missing = [name for name in names if name not in files]
        self._channel = names.index(next(iter(self._files)))
        # Of the model's facts: summaries name it, and another set of contrasts is scored anew.
        self.facts = self.facts | {"contrasts": {"given": [*self._files], "missing": self._missing}}

    def of(self, files: Mapping[str, str]) -> "StackedDetector":
        """The same for another person's files, of the same contrasts."""
        assert set(files) == set(self._files), (files, self._files)
        made = copy.copy(self)
        made._files = {name: files[name] for name in self._files}
        return made

    @property
    def beside(self) -> dict[str, str]:
        """{contrast: path} of all files but the first."""
        return dict([*self._files.items()][1:])

    def __call__(self, scan: Any, affine: Any = None, brain_mask: str = "") -> result_lib.Result:
        """Scores the files; see `Detector`. Raises UserError for scans of several grids."""
        del scan  # the first of the files
        read = {}
        for name, path in self._files.items():
            self.wish = dataclasses.replace(self.wish, contrast=name)
            read[name] = self._read(path, affine)
        first, *others = read
        volume = read[first]
        for name in others:
            _check_grid((first, volume), (name, read[name]))
        stack = scan_lib.prepare(
            volume, self._prepared_as(first), self.numbers, brain_mask_file=brain_mask
        )
        warnings = list(stack.warnings)
        pictures = {first: stack.images}
        for name in others:
            pictures[name] = scan_lib.prepare_beside(
                read[name], volume, stack, self._prepared_as(name), warnings
            )
        if self._missing:
            warnings.append(
                f"scored without {', '.join(self._missing)}, with {', '.join(read)} alone"
            )
        parts = {f.name: getattr(stack, f.name) for f in dataclasses.fields(stack)}
        parts["warnings"] = tuple(warnings)
        stack = StackedSlices(**parts, pictures=pictures)
        maps, reconstruction = self.maps(stack)
        result = self._judge(volume, stack, maps[self.setting.signal], reconstruction)
        result.summary["scan"]["beside"] = {
            name: {"source": scan_names.show(read[name].source), "sha256": read[name].sha256}
            for name in others
        }
        return result

    def _prepared_as(self, name: str) -> Any:
        return dataclasses.replace(self.preparation, modality=name)

    def _batch(self, stack: StackedSlices, rows: np.ndarray) -> Batch:
        last = len(stack.numbers) - 1
        channels, available = [], []
        for offset in stacked.offsets(self._neighbours):
            places = np.clip(rows + offset, 0, last)
            there = (places == rows + offset) & stack.scored[places]
            for name in self._names:
                seen = there & (name in stack.pictures)
                picture = stack.pictures.get(name, stack.images)[places] * np.float32(2.0)
                black = np.float32(-1.0)
                channels.append(np.where(seen[:, None, None], picture + black, black))
                available.append(seen)
        return {
            "image": np.stack(channels, -1),
            "brain_mask": stack.brain[rows],
            "available": np.stack(available, -1),
        }


def _check_grid(one: tuple[str, volumes.Volume], other: tuple[str, volumes.Volume]) -> None:
    (name, volume), (another, second) = one, other
    same = volume.data.shape == second.data.shape
    if same and np.allclose(volume.affine, second.affine, rtol=0.0, atol=_GRID_MM):
        return
    shapes = " and ".join("x".join(map(str, v.data.shape)) for v in (volume, second))
    raise errors.UserError(
        f"'{scan_names.show(second.source)}' ({another}) lies on another grid than "
        f"'{scan_names.show(volume.source)}' ({name}): {shapes} voxels, or another affine; "
        f"accepted: co-registered scans of one grid. Register it to the {name} scan, and resample "
        "it onto that scan's grid"
    )

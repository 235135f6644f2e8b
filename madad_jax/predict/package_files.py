"""A model as a folder that can be handed on: weights, description, calibration, card, licence.

    model.safetensors   all weights of the detector, flat, as `predict.export` names them
    model.json          format, name, contrast, config, preparation, digests, figures
    calibration.npz     what healthy scans score with these very weights
    README.md, LICENSE  card and licence of the weights

Plain arrays and texts: reading runs nothing. `model.json` is written last and taken away first, so
that a folder without one is no model. Listing models starts neither JAX nor the scans' readers.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from madad_jax.convert import safetensors_file
from madad_jax.core import atomic_files, errors, folder_lock, json_file, messages
from madad_jax.predict import model_names

FORMAT = 1
ABOUT, WEIGHTS, CALIBRATION = model_names.ABOUT, "model.safetensors", "calibration.npz"
CARD, LICENCE = "README.md", "LICENSE"
FILES = (WEIGHTS, CALIBRATION, CARD, LICENCE)
DTYPES = model_names.DTYPES
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")  # Of a folder, and a word on the command line.
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """The content of `model.json`.

    Attributes:
      name: lower-case letters, digits, `.`, `_` and `-`.
      modality: contrast of the training scans.
      licence: of the weights, an SPDX expression.
      dtype: of stored matrices and kernels; vectors and scalars are float32.
      config: of the run, without its paths.
      preparation: of the training slices, see `data.provenance`.
      numbers: first, last and step of the slices that are scored.
      levels_mm: heights of the first and the last of them, mm (MNI).
      weights: digest of the trained weights as they are read.
      frozen: digests of the others, and the scaling factor.
      ages: youngest and oldest of the training scans' people, years; None: not known.
      figures: {label: text} for people.
      version: of the program that wrote it.
      files: {name: sha256} of the other files.
    """

    name: str
    modality: str
    licence: str
    dtype: str
    config: dict[str, Any]
    preparation: dict[str, Any]
    numbers: list[int]
    levels_mm: list[float]
    weights: str
    frozen: dict[str, Any]
    ages: list[float] | None
    figures: dict[str, str]
    version: str
    files: dict[str, str] = dataclasses.field(default_factory=dict)


def is_one(folder: epath.PathLike) -> bool:
    """Whether a folder holds a packaged model."""
    return (epath.Path(folder) / ABOUT).exists()


def check_name(name: Any) -> str:
    """A model's name. Raises UserError for one that is no plain word."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise errors.UserError(
            f"name: found {messages.shorten(repr(name))}, accepted: at most 40 lower-case letters, "
            "digits and . _ -, as ixi-t1"
        )
    return name


def check_figures(figures: Any) -> dict[str, str]:
    """A table {label: text}. Raises UserError for anything else."""
    known = isinstance(figures, dict) and all(isinstance(v, str) for v in figures.values())
    if not known:
        raise errors.UserError(
            f"figures: found {messages.shorten(figures)}, accepted: an object of texts"
        )
    return figures


def check_ages(ages: Any) -> list[float] | None:
    """[youngest, oldest] in years, or None. Raises UserError for anything else."""
    if ages is None:
        return None
    known = isinstance(ages, (list, tuple)) and len(ages) == 2
    if known and all(type(age) in (int, float) and 0 <= age <= 130 for age in ages):
        youngest, oldest = ages
        if youngest <= oldest:
            return [float(youngest), float(oldest)]
    raise errors.UserError(
        f"ages: found {messages.shorten(ages)}, accepted: youngest and oldest in years, as 20 82"
    )


def round_weights(
    weights: Mapping[str, np.ndarray], dtype: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights as they are stored, the same as they are read back).

    Args:
      weights: by flat name.
      dtype: one of `DTYPES`; rounds float32 arrays of two axes and more. The others are the small
        part of a file, and biases, norms and the scaling factor keep their digits.

    Raises:
      UserError: a number that `dtype` cannot hold.
    """
    stored, read = {}, {}
    for name, array in weights.items():
        kept = np.asarray(array, order="C")
        if kept.dtype == np.float32 and kept.ndim >= 2:
            with np.errstate(over="ignore"):  # Said below, by name.
                kept = kept.astype(dtype)
        stored[name], read[name] = kept, _widened(kept)
        if kept.dtype.kind not in "iub" and not np.isfinite(read[name]).all():
            raise errors.UserError(f"weights '{name}': NaN, or a number too large for {dtype}")
    return stored, read


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def write(folder: epath.PathLike, about: About, files: Mapping[str, bytes]) -> None:
    """Writes a model. A folder that holds one already gets the new one.

    Args:
      folder: made when missing.
      about: without its digests.
      files: content by name, all of `FILES`.

    Raises:
      UserError: the folder holds something else, or cannot be written.
    """
    folder = epath.Path(folder)
    if folder.exists():
        kept = (*FILES, ABOUT, folder_lock.NAME)
        others = sorted(p.name for p in folder.iterdir() if p.name not in kept)
        if others:
            raise errors.UserError(
                f"--out={folder}: holds '{messages.shorten(others[0])}'; accepted: a new folder, "
                "or one with a packaged model alone"
            )
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in FILES}
    values = dataclasses.asdict(dataclasses.replace(about, files=digests))
    text = json.dumps({"format": FORMAT, **values}, indent=1, allow_nan=False) + "\n"
    with folder_lock.hold(folder, "--out"):
        # First: a reader must not take the new weights for those of the old description.
        (folder / ABOUT).unlink(missing_ok=True)
        for name in FILES:
            atomic_files.write_bytes(folder / name, files[name])
        atomic_files.write_text(folder / ABOUT, text)


def weights_bytes(stored: Mapping[str, np.ndarray]) -> bytes:
    """The content of `model.safetensors`."""
    return safetensors.numpy.save(dict(stored))


def read_about(folder: epath.PathLike) -> About:
    """Reads `model.json`.

    Raises:
      UserError: missing, of another format, or a value of another kind.
    """
    path = epath.Path(folder) / ABOUT
    values = json_file.read_object(path)
    if values.pop("format", None) != FORMAT:
        raise errors.UserError(f"'{path}': no packaged model of format {FORMAT}")
    with _named(path):
        # Other keys belong to later versions.
        known = {field.name: values[field.name] for field in dataclasses.fields(About)}
        _check(known)
        known |= {"ages": check_ages(known["ages"]), "numbers": [int(n) for n in known["numbers"]]}
        return About(**known | {"levels_mm": [float(mm) for mm in known["levels_mm"]]})


@contextlib.contextmanager
def _named(path: epath.Path) -> Any:
    """Errors of what a file holds, with its name."""
    try:
        yield
    except errors.UserError as error:
        raise errors.UserError(f"'{path}': {error}") from error
    except KeyError as error:
        missing = messages.shorten(error)
        raise errors.UserError(f"'{path}': damaged: {missing} is missing") from error


def _check(values: dict[str, Any]) -> None:
    """Raises UserError for a field of another kind than `About` says."""
    check_name(values["name"])
    check_figures(values["figures"])
    for key in ("modality", "licence", "dtype", "weights", "version"):
        if not isinstance(values[key], str):
            raise errors.UserError(f"damaged: '{key}' is no text")
    for key in ("config", "preparation", "frozen", "files"):
        if not isinstance(values[key], dict):
            raise errors.UserError(f"damaged: '{key}' is no object")
    for key, count in (("numbers", 3), ("levels_mm", 2)):
        found = values[key]
        known = isinstance(found, list) and len(found) == count
        if not known or not all(type(n) in (int, float) and abs(n) < 1e6 for n in found):
            raise errors.UserError(f"damaged: '{key}' is no list of {count} numbers")
    for name in FILES:
        digest = values["files"].get(name)
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise errors.UserError(f"damaged: 'files' has no sha256 of {name}")


def read_file(folder: epath.PathLike, name: str, about: About) -> bytes:
    """The content of one of `FILES`, which is that of its digest.

    Raises:
      UserError: missing, damaged, or of another model.
    """
    path = epath.Path(folder) / name
    content = atomic_files.read_bytes(path)
    if hashlib.sha256(content).hexdigest() != about.files[name]:
        raise errors.UserError(
            f"'{path}': damaged, or of another model: its sha256 is not the one in {ABOUT}; get "
            "the folder again"
        )
    return content


def read_weights(folder: epath.PathLike, about: About) -> dict[str, np.ndarray]:
    """{flat name: array}, halves as float32.

    Raises:
      UserError: a file that is missing, damaged or no safetensors.
    """
    content = read_file(folder, WEIGHTS, about)
    found = safetensors_file.load(str(epath.Path(folder) / WEIGHTS), io.BytesIO(content))
    return {name: _widened(tensor.read()) for name, tensor in found.items()}

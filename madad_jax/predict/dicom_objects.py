"""A result as DICOM objects, for scans that came as a DICOM series.

An object belongs to the study of its source images and names their person, so it can be made from
a series alone. It never lies beside its source: a folder of one series would hold two then.
"""

import dataclasses
import datetime
import importlib.util
import logging
import os
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors, json_digest, messages
from madad_jax.data import reading
from madad_jax.scans import volumes

_LOG = logging.getLogger(__name__)
INSTALL = "pip install 'madad_jax[dicom]'"
FOLDER = "dicom"
SEGMENTATION, MAP = f"{FOLDER}/anomaly_seg.dcm", f"{FOLDER}/anomaly_map.dcm"
FORMATS = NIFTI, DICOM, DICOM_MAP = ("nifti", "dicom", "dicom_map")


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which objects are made.

    Attributes:
      segmentation, values: whether the mask, the map.
      asked: somebody asked for them; else they are made where they can be.
    """

    segmentation: bool
    values: bool
    asked: bool


def installed() -> bool:
    """Whether highdicom is there; it is not imported."""
    return importlib.util.find_spec("highdicom") is not None


def choose(output_format: str) -> Choice:
    """The objects that `output_format` names.

    Args:
      output_format: `nifti`, and `dicom`, `dicom_map` beside it, with commas between; "" is
        `nifti,dicom` for scans that can have an object, where highdicom is installed.

    Raises:
      UserError: an unknown format, no `nifti`, or highdicom is needed and not installed.
    """
    if not output_format:
        return Choice(installed(), False, False)
    names = [name.strip() for name in output_format.split(",")]
    if not set(names) <= set(FORMATS) or NIFTI not in names:
        raise errors.UserError(
            f"output_format: found '{messages.shorten(output_format)}', accepted: {NIFTI}, and "
            f"{DICOM}, {DICOM_MAP} beside it"
        )
    choice = Choice(DICOM in names, DICOM_MAP in names, len(set(names)) > 1)
    if choice.asked and not installed():
        raise errors.UserError(
            f"output_format: {output_format} needs the package 'highdicom'; accepted: "
            f"{INSTALL}, or {NIFTI}"
        )
    return choice


def is_series(volume: volumes.Volume) -> bool:
    """Whether a scan came as a DICOM series, and was read as one."""
    return volume.series is not None and reading.is_dicom(epath.Path(volume.source))


def check(path: epath.Path, folder: epath.Path, choice: Choice) -> None:
    """What would go wrong for a scan after it was scored.

    Raises:
      UserError: objects were asked for a scan that is no series, or would lie beside it.
    """
    if choice.asked and not reading.is_dicom(path):
        raise errors.UserError(
            f"'{path.name}' is no DICOM series, and a DICOM object needs its source images; "
            f"accepted: --output_format={NIFTI}"
        )
    wanted = choice.segmentation or choice.values
    if wanted and path.is_dir() and _real(path) == _real(folder / FOLDER):
        raise errors.UserError(
            f"--output: DICOM objects would lie in '{folder / FOLDER}', which is the scan's own "
            "folder; choose another"
        )


def _real(path: epath.Path) -> str:
    return os.path.realpath(os.fspath(path))


def remove(folder: epath.Path) -> None:
    """Takes the objects of an earlier run away."""
    for name in (SEGMENTATION, MAP):
        (folder / name).unlink(missing_ok=True)
        # What a killed run left half written; others' files may lie there too.
        for path in folder.glob(f"{name}.*.new"):
            path.unlink(missing_ok=True)


def write(result: Any, folder: epath.Path, choice: Choice) -> tuple[str, ...]:
    """Writes the objects of a `result.Result` below `folder`.

    Returns:
      What a person should know, a sentence each; why there is no object is among it.

    Raises:
      UserError: objects were asked for and cannot be made, or the folder cannot be written.
    """
    volume = result.volume
    if not (choice.segmentation or choice.values):
        return ()
    if not is_series(volume):
        check(epath.Path(volume.source), folder, choice)
        if choice.asked:  # A folder whose series another program converted.
            raise errors.UserError(
                f"'{epath.Path(volume.source).name}' was converted to NIfTI, and a DICOM object "
                f"needs its source images; accepted: --output_format={NIFTI}"
            )
        return ()
    source = epath.Path(volume.source)
    check(source, folder, choice)
    try:
        made, notes = _make(result, source, choice)
    except errors.UserError as error:
        if choice.asked:
            raise
        _LOG.warning("%s", messages.shorten(error, 1000))
        # Where the folder lies is nobody's business who gets the results.
        why = str(error).replace(str(source), source.name)
        return (f"no DICOM object: {messages.shorten(why, 1000)}",)
    for name, content in made.items():
        atomic_files.write_bytes(folder / name, content)
    return notes


def _make(
    result: Any, source: epath.Path, choice: Choice
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """({file: its content}, notes)."""
    # pydicom only for those who have series.
    from madad_jax.scans import dicom_derived

    volume, summary = result.volume, result.summary
    sources = read_sources(source, volume)
    facts = summary["model"]
    about = dicom_derived.About(
        name="madad_jax",
        version=_plain(facts.get("version", "?")),
        model=_plain(f"{facts.get('name', '?')} {facts.get('weights', '')}".strip()),
        digest=summary.get("settings_sha256") or _digest(summary),
        words=describe(summary),
        when=_now(),
    )
    made = {}
    if choice.segmentation:
        mask = volumes.to_native(result.labels > 0, volume)
        made[SEGMENTATION] = dicom_derived.segmentation(mask, sources, about, source)
    if choice.values:
        values = volumes.to_native(result.anomaly, volume)
        made[MAP] = dicom_derived.parametric_map(values, result.top, sources, about, source)
    return made, sources.notes


def read_sources(source: epath.Path, volume: volumes.Volume) -> Any:
    """The headers of the scan's images, once it is sure that they are still the same.

    Raises:
      UserError: the files have changed since, or no object can be made from them.
    """
    from madad_jax.scans import dicom_sources

    if source.is_dir():
        return dicom_sources.read(source, volume.sha256, volume.series)
    if atomic_files.sha256(source) != volume.sha256:
        raise errors.UserError(f"'{source}' has changed since the scan was read; predict again")
    with reading.opened(source) as folder:
        return dicom_sources.read(folder, "", volume.series)


def _digest(summary: dict[str, Any]) -> str:
    """Of what decides a result, where no command line has written down its own."""
    decides = ("model", "signal", "postprocess", "operating_point")
    return json_digest.json_digest({name: summary[name] for name in decides})


def _now() -> datetime.datetime:
    """The time of writing; SOURCE_DATE_EPOCH, a convention of builds, sets it (seconds, UTC)."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        return datetime.datetime.now().replace(microsecond=0)
    try:
        return datetime.datetime.fromtimestamp(int(given), datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise errors.UserError(
            f"SOURCE_DATE_EPOCH: found '{messages.shorten(given)}', accepted: seconds since 1970"
        ) from error


def describe(summary: dict[str, Any]) -> str:
    """The operating point of a result in words, ASCII."""
    point, post = summary["operating_point"], summary["postprocess"]
    words = [
        f"Places of the brain whose anomaly score ({summary['signal']}, 0 to 1) lies above "
        f"{point['threshold']:.4f}."
    ]
    expected = point["expected_on_healthy_scans"]
    if expected is None:
        words.append("The threshold was given; no healthy scans say how often it is passed.")
    else:
        how = {
            "voxel_fpr": f"lets a share of {point['asked']:g} of healthy voxels lie above it",
            "false_positives_per_scan": f"lets a healthy scan have {point['asked']:g} such places",
        }.get(point["chosen_by"], "was given")
        healthy = summary["scan_score"]["healthy_scans"]
        words.append(
            f"The threshold {how}; {expected['voxel_fpr']:.3%} of the voxels of {healthy} healthy "
            "scans do."
        )
    if post.get("min_volume_ml"):
        words.append(f"Places below {post['min_volume_ml']:g} ml are left out.")
    words.append(f"{len(summary['candidates'])} place(s). {summary['not_a_medical_device']}")
    return _plain(" ".join(words))


def _plain(text: str) -> str:
    """ASCII: the objects' character set is their source's, which may know no other letters."""
    kept = messages.shorten(str(text), 1000).encode("ascii", "replace").decode()
    return kept.replace("\\", "/")  # A backslash would divide a value into two.

"""Scans below a folder: image files and DICOM series, and what is left out of them."""

import dataclasses
import fnmatch
import logging
import os
from collections.abc import Iterator

from etils import epath

from madad_jax.core import errors, messages
from madad_jax.data import name_rules, scan_names

_LOG = logging.getLogger(__name__)
# In the folder of every scan that this program has scored.
RESULT = "summary.json"


@dataclasses.dataclass(frozen=True)
class Scan:
    """A scan to be read: `name` is its output folder's, `brain_mask` a file; "" finds the brain.

    `fault` says why it cannot be scored; "" for nothing that its files' names tell.
    """

    name: str
    path: epath.Path
    brain_mask: str = ""
    fault: str = ""


def discover(path: str, include: str = "") -> tuple[list[Scan], bool]:
    """(scans under `path`, whether it is one scan and not a folder of them).

    An image file, a folder with one DICOM series, or a folder of these at any depth. Masks,
    segmentations and `derivatives/` are left out, with a line in the log.

    Args:
      path: file or folder.
      include: pattern of paths below `path`; what fits is a scan, whatever it is called, and
        nothing else is.

    Raises:
      UserError: nothing there.
    """
    root = epath.Path(path)
    if not root.exists():
        raise errors.UserError(f"--input={path}: no such file or folder")
    if not root.is_dir():
        return [Scan(scan_names.output_names([root.name])[0], root)], True
    left: dict[str, list[str]] = {}
    found = list(_find_scans(root, root, include, left, set()))
    # Who names folders by a pattern means each of them.
    found = found if include else _join_studies(found, root)
    for why, names in sorted(left.items()):
        _LOG.warning("left out, %s: %s; --include=PATTERN takes them", why, _list(names))
    if not found:
        also = f" ({sum(map(len, left.values()))} left out by name)" if left else ""
        fitting = f" that fits --include={include}" if include else ""
        raise errors.UserError(
            f"--input={path}: no scan in it{fitting}{also}; accepted: NIfTI files (.nii, .nii.gz), "
            "MGH, NRRD, MHA, and DICOM series"
        )
    if len(found) == 1 and found[0] == root:
        return [Scan(scan_names.output_names([root.name])[0], root)], True
    names = scan_names.output_names([_below(p, root) or root.name for p in found])
    return [Scan(name, p) for name, p in zip(names, found, strict=True)], False


def keep_contrast(found: list[Scan], modality: str, *, asked: bool) -> list[Scan]:
    """Scans whose names do not state another contrast than the run's, each other with a line.

    Args:
      found: from `discover`.
      modality: that the run was trained on.
      asked: each was named by a person: then all stay.

    Raises:
      UserError: none stays.
    """
    kept, others, odd = [], [], []
    for scan in found:
        other, sure = name_rules.other_contrast(scan_names.stem(scan.path.name), modality)
        if not other or scan.path.is_dir():
            kept.append(scan)
        elif asked or not sure:
            kept.append(scan)
            odd.append(scan.path.name)
        else:
            others.append(scan.path.name)
    if odd:
        _LOG.warning("named like another contrast than %s, and scored: %s", modality, _list(odd))
    if others and not kept:
        raise errors.UserError(
            f"no scan of {modality}, which the run was trained on: the names state other contrasts "
            f"({_list(others)}); --include=PATTERN takes them all the same"
        )
    if others:
        text = "left out, another contrast than %s: %s; --include=PATTERN takes them"
        _LOG.warning(text, modality, _list(others))
    return kept


def _find_scans(
    folder: epath.Path,
    root: epath.Path,
    include: str,
    left: dict[str, list[str]],
    seen: set[str],
) -> Iterator[epath.Path]:
    """Files and folders of series; `left` collects what is not taken, by reason."""
    # A link to a folder above would lead round for ever.
    real = os.path.realpath(str(folder))
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        left.setdefault(error.strerror or "unreadable", []).append(_below(folder, root))
        return
    scans = []
    for path in entries:
        if path.is_dir() or not _may_be_scan(path):
            continue
        if include:
            if fnmatch.fnmatchcase(_below(path, root), include):
                scans.append(path)
        elif name_rules.is_mask(scan_names.stem(path.name)):
            left.setdefault("masks and segmentations by their names", []).append(path.name)
        else:
            scans.append(path)
    yield from scans
    # Image files beside DICOM files are conversions of them: one of the two is enough.
    fits = not include or fnmatch.fnmatchcase(_below(folder, root), include)
    if fits and not scans and _holds_series(entries):
        yield folder
    for path in entries:
        if not path.is_dir():
            continue
        # Output of ours, of a run into its own input; other programs use the name as well.
        if (path / RESULT).exists():
            left.setdefault(f"folders with a {RESULT}", []).append(_below(path, root))
            continue
        if not include and name_rules.is_folder_of_results(path.name):
            left.setdefault("folders of results or labels", []).append(_below(path, root))
            continue
        yield from _find_scans(path, root, include, left, seen)


def _may_be_scan(path: epath.Path) -> bool:
    """Whether a file is an image by its name, or an archive of DICOM files."""
    if path.name.lower().endswith(".zip"):
        from madad_jax.data import zip_archive  # pydicom only for those who have archives.

        return zip_archive.holds_dicom(path)
    return path.name.lower().endswith(scan_names.IMAGES)


def _join_studies(found: list[epath.Path], root: epath.Path) -> list[epath.Path]:
    """Folders of series, where those of one study become the folder above them.

    Which of the series is the scan is then asked of all of them (`dicom_series`).
    """
    series = [path for path in found if path.is_dir()]
    if len(series) < 2:
        return found
    from madad_jax.scans import dicom_files

    studies: dict[str, list[epath.Path]] = {}
    for path in series:
        studies.setdefault(dicom_files.find_study(path), []).append(path)
    for study, paths in studies.items():
        if not study or len(paths) < 2:
            continue
        above = epath.Path(os.path.commonpath([str(path) for path in paths]))
        # Alone in it, or nobody could tell them from the others by their folder.
        if all(p in paths for p in found if above in (p, *p.parents)) and above not in found:
            found = [above] + [path for path in found if path not in paths]
    # Nothing but one study: what was given is the scan, whatever lies around it.
    return [root] if len(found) == 1 and len(series) > 1 else sorted(found)


def _holds_series(entries: list[epath.Path]) -> bool:
    from madad_jax.scans import dicom_files  # pydicom only for folders without images.

    return any(dicom_files.may_hold_scan(path) for path in entries if path.is_file())


def _below(path: epath.Path, root: epath.Path) -> str:
    return str(path)[len(str(root)) :].strip("/")


def _list(names: list[str]) -> str:
    shown = ", ".join(f"'{messages.shorten(name)}'" for name in names[:3])
    return f"{len(names)} ({shown}{', ...' if len(names) > 3 else ''})"

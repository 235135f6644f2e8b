"""Scans of a BIDS data set: `sub-*/[ses-*/]anat/*_T1w.nii.gz`, and what is left out of them.

Read by names alone. `derivatives/`, `sourcedata/` and whatever else is no `sub-*` is never entered.
"""

import dataclasses
import difflib
import logging
import re
from collections.abc import Sequence

from etils import epath

from madad_jax.bids import entities
from madad_jax.core import errors, json_file, messages
from madad_jax.data import discovery, scan_names

_LOG = logging.getLogger(__name__)
DESCRIPTION = "dataset_description.json"
_PERSON = re.compile(r"sub-[0-9A-Za-z+]+")
_SESSION = re.compile(r"ses-[0-9A-Za-z+]+")
_NIFTI = (".nii", ".nii.gz")  # what BIDS knows of images
_IMAGES = ("T1w", "T2w", "FLAIR", "PDw")


@dataclasses.dataclass(frozen=True)
class Image:
    """An image of the data set.

    Attributes:
      name: its parts.
      path: the file.
      below: the same below the data set, for people and for URIs.
      fault: why it cannot be scored; "" for nothing that names tell.
    """

    name: entities.Name
    path: epath.Path
    below: str
    fault: str = ""

    def to_scan(self) -> discovery.Scan:
        """As the rest of the package knows scans; called by its BIDS name."""
        return discovery.Scan(str(self.name), self.path, fault=self.fault)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set's folder.

    Attributes:
      root: the folder.
      about: its `dataset_description.json`; {} without one.
      images: of every contrast, in the order of names.
      left_out: {why: paths below the root}.
    """

    root: epath.Path
    about: dict
    images: tuple[Image, ...]
    left_out: dict[str, list[str]]


def read(root: str, people: Sequence[str] = (), sessions: Sequence[str] = ()) -> Dataset:
    """The anatomical images of a data set.

    Args:
      root: the folder.
      people: labels, with or without `sub-`; none: all.
      sessions: labels, with or without `ses-`; none: all.

    Raises:
      UserError: no such folder, nobody in it, or a label that is not there.
    """
    folder = epath.Path(root)
    if not folder.is_dir():
        raise errors.UserError(f"bids_dir={root}: no such folder; accepted: a BIDS data set")
    inside = _list(folder)
    there = [p for p in inside if p.is_dir() and _PERSON.fullmatch(p.name)]
    if not there:
        raise errors.UserError(f"bids_dir={root}: no sub-* folder in it; accepted: a BIDS data set")
    left: dict[str, list[str]] = {}
    for path in inside:
        if path.is_dir() and path.name in ("derivatives", "sourcedata"):
            left.setdefault("no raw data", []).append(f"{path.name}/")
    chosen = _choose(there, people, "participant-label", "sub-")
    places = []  # (folder with an anat/, person, session)
    for person in chosen:
        below = [p for p in _list(person) if p.is_dir() and _SESSION.fullmatch(p.name)]
        places += [(person, person.name, "")] if not sessions else []
        places += [(session, person.name, session.name) for session in below]
    if sessions:
        known = list({session: path for path, _, session in places}.values())
        wanted = {path.name for path in _choose(known, sessions, "session-label", "ses-")}
        places = [place for place in places if place[2] in wanted]
    images = [image for place in places for image in _read_anat(*place, left)]
    return Dataset(folder, _read_about(folder), tuple(_mark_twins(images)), left)


def select(dataset: Dataset, contrast: str) -> list[Image]:
    """The images of one contrast; every reason to leave something out becomes a line.

    Raises:
      UserError: a contrast that BIDS has no suffix for, or no image of it.
    """
    if contrast not in entities.SUFFIXES:
        raise errors.UserError(
            f"the model's contrast is '{messages.shorten(contrast)}'; accepted for BIDS: "
            f"{', '.join(entities.SUFFIXES)}"
        )
    kept = [image for image in dataset.images if image.name.contrast == contrast]
    others = [image.below for image in dataset.images if image.name.contrast != contrast]
    left = {**dataset.left_out}
    if others:
        left[f"another contrast than {contrast}"] = others
    for why, paths in sorted(left.items()):
        shown = ", ".join(f"'{messages.shorten(p)}'" for p in paths[:3])
        _LOG.warning("left out, %s: %d (%s%s)", why, len(paths), shown, ", ..." * (len(paths) > 3))
    if not kept:
        found = f" (left out: {sum(map(len, left.values()))})" if left else ""
        raise errors.UserError(
            f"bids_dir={dataset.root}: no *_{entities.SUFFIXES[contrast]} of {contrast} among the "
            f"chosen people and sessions{found}; the model was trained on {contrast}"
        )
    return kept


def _list(folder: epath.Path) -> list[epath.Path]:
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise errors.UserError(f"'{folder}' cannot be read: {error.strerror or error}") from error


def _choose(there: list[epath.Path], labels: Sequence[str], flag: str, prefix: str) -> list:
    """The folders of the labels, in order; all without labels."""
    names = {path.name: path for path in there}
    wanted = {prefix + label.removeprefix(prefix) for label in labels}
    for name in sorted(wanted - set(names)):
        label, known = name.removeprefix(prefix), [n.removeprefix(prefix) for n in sorted(names)]
        near = difflib.get_close_matches(label, known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise errors.UserError(
            f"--{flag}: found '{messages.shorten(label)}'{hint} (accepted: "
            f"{messages.shorten(', '.join(known), 200) or 'none, there are no sessions'})"
        )
    return [path for name, path in sorted(names.items()) if not labels or name in wanted]


def _read_anat(folder: epath.Path, person: str, session: str, left: dict) -> list[Image]:
    anat = folder / "anat"
    images = []
    for path in _list(anat) if anat.is_dir() else []:
        # A link whose target is not there (git-annex) is a scan all the same, that cannot be read.
        if not path.name.lower().endswith(_NIFTI) or path.is_dir():
            continue
        below = "/".join(part for part in (person, session, "anat", path.name) if part)
        name = entities.parse(scan_names.stem(path.name))
        why = "" if name is None else _why_left_out(name)
        if name is None or (name.person, name.session) != (person, session):
            why = "names that BIDS does not know in their folder"
        if why:
            left.setdefault(why, []).append(below)
        else:
            images.append(Image(name, path, below))
    return images


def _why_left_out(name: entities.Name) -> str:
    if name.suffix not in _IMAGES:
        return "masks and other files that are no T1w, T2w, FLAIR or PDw"
    if not entities.is_raw(name):
        return "derivatives by their names"
    if name.get("part") not in ("", "mag"):
        return "parts that are no magnitude"
    return ""


def _mark_twins(images: list[Image]) -> list[Image]:
    """Two files of one name (`.nii` beside `.nii.gz`) would have one result."""
    count: dict[str, int] = {}
    for image in images:
        key = str(image.name).lower()
        count[key] = count.get(key, 0) + 1
    marked = []
    for image in images:
        if count[str(image.name).lower()] > 1:
            fault = f"{count[str(image.name).lower()]} files are called {image.name}; keep one"
            image = dataclasses.replace(image, fault=fault)
        marked.append(image)
    return marked


def _read_about(root: epath.Path) -> dict:
    path = root / DESCRIPTION
    if not path.exists():
        _LOG.warning("%s is missing: the folder is no valid BIDS data set", DESCRIPTION)
        return {}
    return json_file.read_object(path)

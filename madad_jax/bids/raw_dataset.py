"""Scans of a BIDS data set: `sub-*/[ses-*/]anat/*_T1w.nii.gz`, and what is left out of them.

Read by names alone. `derivatives/`, `sourcedata/` and whatever else is no `sub-*` is never entered.
"""

import dataclasses
import difflib
import logging
import os
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
      beside: images of other contrasts that are scored together with it.
    """

    name: entities.Name
    path: epath.Path
    below: str
    fault: str = ""
    beside: tuple["Image", ...] = ()

    @property
    def files(self) -> dict[str, str]:
        """{contrast: path} of what is scored together, its own first."""
        return {one.name.contrast: os.fspath(one.path) for one in (self, *self.beside)}

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
    entities.suffix(contrast)
    return _keep(dataset, (contrast,))


def select_together(dataset: Dataset, contrasts: Sequence[str]) -> list[Image]:
    """The images of several contrasts, those of a session together.

    The first of `contrasts` that a session has is the image; the others are `beside` it. With
    several of a contrast, those of the same entities are together, where every contrast has them.

    Args:
      dataset: the data set.
      contrasts: of the model, in its order.

    Raises:
      UserError: a contrast that BIDS has no suffix for, or no image of any.
    """
    entities.suffix(",".join(contrasts))
    return join_sessions(_keep(dataset, contrasts), contrasts)


def join_sessions(images: Sequence[Image], contrasts: Sequence[str]) -> list[Image]:
    """Images of these contrasts, those of a session that belong together as one."""
    sessions: dict[tuple[str, str], list[Image]] = {}
    for image in images:
        sessions.setdefault((image.name.person, image.name.session), []).append(image)
    return [image for found in sessions.values() for image in _join(found, contrasts)]


def _join(images: list[Image], contrasts: Sequence[str]) -> list[Image]:
    """The images of a session, those that belong together as one."""
    groups: dict[tuple, dict[str, Image]] = {}
    count = {c: sum(image.name.contrast == c for image in images) for c in contrasts}
    several = max(count.values()) > 1
    for image in images:
        # `ce` tells contrasts apart; another entity tells images of one contrast apart.
        key = tuple(pair for pair in image.name.entities if pair[0] != "ce") if several else ()
        groups.setdefault(key, {})[image.name.contrast] = image
    whole = all(len(group) == sum(map(bool, count.values())) for group in groups.values())
    found = []
    for group in groups.values():
        first, *beside = (group[c] for c in contrasts if c in group)
        fault = next((one.fault for one in (first, *beside) if one.fault), "")
        if not whole:
            had = ", ".join(f"{number} of {c}" for c, number in count.items() if number)
            fault = (
                f"the session has {had}, and names do not tell which belong together; accepted: "
                "one of each contrast, or the same entities in the names of all"
            )
        found.append(dataclasses.replace(first, fault=fault, beside=tuple(beside)))
    return found


def _keep(dataset: Dataset, contrasts: Sequence[str]) -> list[Image]:
    """The images of these contrasts; every reason to leave something out becomes a line."""
    kept = [image for image in dataset.images if image.name.contrast in contrasts]
    others = [image.below for image in dataset.images if image.name.contrast not in contrasts]
    left, wanted = {**dataset.left_out}, ", ".join(contrasts)
    if others:
        left[f"another contrast than {wanted}"] = others
    for why, paths in sorted(left.items()):
        shown = ", ".join(f"'{messages.shorten(p)}'" for p in paths[:3])
        _LOG.warning("left out, %s: %d (%s%s)", why, len(paths), shown, ", ..." * (len(paths) > 3))
    if not kept:
        found = f" (left out: {sum(map(len, left.values()))})" if left else ""
        suffixes = ", ".join(f"*_{entities.SUFFIXES[contrast]}" for contrast in contrasts)
        raise errors.UserError(
            f"bids_dir={dataset.root}: no {suffixes} of {wanted} among the chosen people and "
            f"sessions{found}; the model was trained on {wanted}"
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

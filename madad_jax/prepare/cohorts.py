"""Cohorts as tables: which file of a folder tree is what, and how the cohort is usually prepared.

A table is YAML. Shipped ones lie in `tables/`; a user's own (`--cohort=folder`) has the same keys:

    title: Our scanner                  # for the dataset card
    licence: internal use
    cite: ''
    healthy: false                      # true: nobody in it has a lesion
    id: '[^/]+'                         # regular expression of a scan's id; this is the default
    person: 'sub-\\d+'                   # the part of the id that names the person; default: all
    images:                             # modality: pattern, or a list of alternatives
      T1: '{id}/anat/*_T1w{nii}'
      FLAIR: '{id}/flair_dicom/'        # ends in /: a folder with one DICOM series
    brain_mask: '{id}/*_mask{nii}'      # optional
    segmentation: '{id}/*_lesion{nii}'  # optional
    labels: [1]                         # values that are lesion; default: all above 0
    unjudged: [2]                       # values that are neither lesion nor healthy
    options: {registration: affine, brain_mask: auto, shift: [0, 0, 0], template: '', ages: ''}
    fractions: {train: 0.8, val: 0.1, test: 0.1}

Patterns are matched against the whole path below the folder: `*` is anything within a name, `**/`
any folders or none, `{id}` the id (the same at each place), `{nii}` `.nii` or `.nii.gz` in any
letter case. Elsewhere case counts, and so does every character between. `person` must be in every
id. Bounds on patterns: `patterns.py`; on the file: `yaml_file.py`.
"""

import dataclasses
import difflib
import pathlib
import re
from typing import Any

from etils import epath

from madad_jax.core import errors, messages
from madad_jax.data import patterns as patterns_lib
from madad_jax.prepare import splits, subject, yaml_file

NAMES = ("brats", "ixi", "atlas", "mslub", "wmh", "bids", "folder")
_TABLES = pathlib.Path(__file__).parent / "tables"
_WORDS = ("registration", "brain_mask", "template", "ages")
_OPTIONS = (*_WORDS, "shift")
_MOST_SEEN = 20_000  # Paths kept to say what is there when nothing fits.
_BRAIN_MASK, _SEGMENTATION = "brain_mask", "segmentation"


@dataclasses.dataclass(frozen=True)
class Cohort:
    """A table; see the module's text for the fields."""

    title: str
    images: dict[str, tuple[str, ...]]
    licence: str = ""
    cite: str = ""
    healthy: bool = False
    id: str = "[^/]+"
    person: str = ""
    brain_mask: tuple[str, ...] = ()
    segmentation: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    unjudged: tuple[int, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    fractions: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1}
    )


@dataclasses.dataclass(frozen=True)
class Found:
    """Files of a folder tree, by scan.

    Attributes:
      items: scans with all their files, in the order of their ids; `split` is still "".
      refused: {scan id: why}; the others go on without them.
    """

    items: tuple[subject.Item, ...]
    refused: dict[str, str]


def load(name: str, path: str = "") -> Cohort:
    """A shipped table by name, or the user's own.

    Args:
      name: one of `NAMES`.
      path: of the YAML file, for `folder`.

    Raises:
      UserError: unknown name, no such file, or a table with mistakes.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise errors.UserError(f"cohort: found '{name}'{hint} (accepted: {', '.join(NAMES)})")
    if name == "folder" and not path:
        raise errors.UserError("--cohort=folder needs --cohort_file=... (YAML, see docs)")
    if name != "folder" and path:
        raise errors.UserError(f"--cohort_file belongs to --cohort=folder, not to '{name}'")
    source = epath.Path(path) if path else epath.Path(_TABLES / f"{name}.yaml")
    return from_dict(yaml_file.read(source), str(source))


def from_dict(values: Any, source: str) -> Cohort:
    """A table from what YAML holds.

    Raises:
      UserError: unknown key, wrong type, pattern without `{id}` or bad regular expression.
    """
    if not isinstance(values, dict):
        raise errors.UserError(f"'{source}' is no table; accepted: YAML with images, ...")
    known = [field.name for field in dataclasses.fields(Cohort)]
    _check_keys(values, known, source)
    if not values.get("images"):
        raise errors.UserError(f"'{source}': 'images' is missing")
    if not isinstance(values["images"], dict):
        raise errors.UserError(f"'{source}': images: accepted: modality: pattern")
    table = {key: value for key, value in values.items() if value is not None}
    table["title"] = table.get("title") or pathlib.PurePath(source).stem
    table["images"] = {
        _modality(name, source): patterns_lib.check_patterns(value, f"{source}: images.{name}")
        for name, value in values["images"].items()
    }
    for name, found in table["images"].items():
        if not found:
            raise errors.UserError(f"'{source}': images.{name}: found nothing, accepted: a pattern")
    for key in (_BRAIN_MASK, _SEGMENTATION):
        table[key] = patterns_lib.check_patterns(values.get(key), f"{source}: {key}")
    for key in ("labels", "unjudged"):
        table[key] = _labels(values.get(key), f"{source}: {key}")
    for key in ("id", "person"):
        if key in table:
            table[key] = patterns_lib.check_expression(table[key], f"{source}: {key}")
    for key in ("title", "licence", "cite"):
        if not isinstance(table.get(key, ""), str):
            found = messages.shorten(repr(table[key]))
            raise errors.UserError(f"'{source}': {key}: found {found}, accepted: text")
    if not isinstance(table.get("healthy", False), bool):
        raise errors.UserError(f"'{source}': healthy: accepted: true or false")
    _check_mappings(table, source)
    return Cohort(**table)


def _modality(name: Any, source: str) -> str:
    text = str(name)
    if isinstance(name, bool):  # YAML's no, off and on are none of ours
        raise errors.UserError(f"'{source}': modality: YAML reads {text} there; put it in quotes")
    if not re.fullmatch(r"[A-Za-z0-9_]+", text) or text in ("brainmask", "segmentation"):
        raise errors.UserError(
            f"'{source}': modality '{messages.shorten(text)}'; accepted: letters, digits and _, "
            "and neither brainmask nor segmentation (it becomes part of file names)"
        )
    return text


def _check_mappings(table: dict[str, Any], source: str) -> None:
    """Types under `options` and `fractions`."""
    for key in ("options", "fractions"):
        if not isinstance(table.get(key, {}), dict):
            found = messages.shorten(repr(table[key]))
            raise errors.UserError(f"'{source}': {key}: found {found}, accepted: a mapping")
    options = table.get("options", {})
    _check_keys(options, _OPTIONS, f"{source}: options")
    for key in _WORDS:
        if not isinstance(options.get(key, ""), str):
            found = messages.shorten(repr(options[key]))
            raise errors.UserError(f"'{source}': options.{key}: found {found}, accepted: a word")
    shift = options.get("shift", [0, 0, 0])
    # Python takes `true` for 1, and NaN for a number.
    numbers = isinstance(shift, list) and all(
        isinstance(mm, (int, float)) and not isinstance(mm, bool) and abs(mm) < 1000 for mm in shift
    )
    if not numbers or len(shift) != 3:
        raise errors.UserError(
            f"'{source}': options.shift: found {messages.shorten(repr(shift))}, accepted: three "
            "numbers of mm"
        )
    if "fractions" in table:
        table["fractions"] = splits.check_fractions(table["fractions"], f"'{source}': fractions")


def find(cohort: Cohort, root: epath.PathLike, modalities: tuple[str, ...]) -> Found:
    """Looks through a folder tree.

    Args:
      cohort: says what is what.
      root: the tree.
      modalities: those wanted, in order; every scan needs all of them.

    Raises:
      UserError: no such folder, a modality that the table does not know, or no scan at all.
    """
    root = epath.Path(root)
    if not root.is_dir():
        raise errors.UserError(f"--in: folder '{root}' does not exist")
    for modality in modalities:
        if modality not in cohort.images:
            raise errors.UserError(
                f"modality: found '{modality}', accepted for {cohort.title}: "
                f"{', '.join(cohort.images)}"
            )
    kinds = {modality: cohort.images[modality] for modality in cohort.images}
    kinds |= {_BRAIN_MASK: cohort.brain_mask, _SEGMENTATION: cohort.segmentation}
    compiled = [
        (kind, patterns_lib.compile_path(pattern, cohort.id), pattern.endswith("/"))
        for kind, patterns in kinds.items()
        for pattern in patterns
    ]
    scans: dict[str, dict[str, list[str]]] = {}
    seen = []
    for path, is_folder in patterns_lib.walk(root):
        if len(path) > patterns_lib.MOST_PATH:
            continue
        seen += [path] if len(seen) < _MOST_SEEN else []
        for kind, pattern, wants_folder in compiled:
            match = pattern.fullmatch(path) if wants_folder == is_folder else None
            if match:
                found = scans.setdefault(match["id"], {}).setdefault(kind, [])
                found.append(path.rstrip("/"))
    if not scans:
        shown = [pattern for m in modalities for pattern in cohort.images[m]]
        raise errors.UserError(
            f"'{root}' has no file of {messages.shorten(cohort.title)}; looked for "
            f"{', '.join(shown)} with the id {cohort.id}; "
            f"{patterns_lib.explain_nothing(shown, cohort.id, seen)}"
        )
    return _items(cohort, root, scans, modalities)


def _items(cohort: Cohort, root: epath.Path, scans, modalities: tuple[str, ...]) -> Found:
    items, refused = [], {}
    names: dict[str, str] = {}
    people = _people(cohort, sorted(scans))
    for scan_id in sorted(scans):
        scan, kinds = _file_name(scan_id), scans[scan_id]
        wanted = (*modalities, _BRAIN_MASK, _SEGMENTATION)
        twice = {k: kinds[k] for k in wanted if len(kinds.get(k, ())) > 1}
        # A scan lacks a modality, not a mask: masks can be found, or are not needed.
        missing = [modality for modality in modalities if modality not in kinds]
        # Many file systems take upper and lower case for the same.
        if scan.lower() in names:
            refused[scan] = (
                f"duplicate id: '{scan_id}' and '{names[scan.lower()]}' would have the same file "
                "names"
            )
            items = [item for item in items if item.scan.lower() != scan.lower()]
        elif twice:
            kind, paths = next(iter(twice.items()))
            refused[scan] = f"duplicate id: {len(paths)} files for {kind}: {', '.join(paths)}"
        elif missing:
            patterns = [pattern for m in missing for pattern in cohort.images[m]]
            refused[scan] = (
                f"missing modality {', '.join(missing)}: no {' or '.join(patterns)} (found "
                f"{', '.join(sorted(path for paths in kinds.values() for path in paths))})"
            )
        else:
            items.append(_item(cohort, root, scan, people[scan_id], kinds, modalities))
        names.setdefault(scan.lower(), scan_id)
    return Found(tuple(items), refused)


def _people(cohort: Cohort, scan_ids: list[str]) -> dict[str, str]:
    """{scan id: person}.

    Raises:
      UserError: the table's `person` is not in an id, or sessions would count as people.
    """
    found: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for scan_id in scan_ids:
        person = scan_id
        if cohort.person:
            match = re.search(cohort.person, scan_id)
            # Without it each scan would be a person, and one person stand in train and in test.
            if not match or not match[0]:
                raise errors.UserError(
                    f"person: '{cohort.person}' is not in '{messages.shorten(scan_id)}'; accepted: "
                    "a regular expression of a part of every id"
                )
            person = match[0]
        # Letter case is no other person.
        person = _file_name(person)
        found[scan_id] = spelled.setdefault(person.lower(), person)
    if not cohort.person:
        _check_sessions(scan_ids)
    return found


def _check_sessions(scan_ids: list[str]) -> None:
    """BIDS says in the id who it is: two sessions of one `sub-` are one person."""
    first: dict[str, str] = {}
    for scan_id in scan_ids:
        match = re.search(r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[_/])", scan_id)
        other = first.setdefault(match[1].lower(), scan_id) if match else scan_id
        if other != scan_id:
            raise errors.UserError(
                f"person is missing: '{messages.shorten(other)}' and '{messages.shorten(scan_id)}' "
                "are one person's and could stand in two splits; give person: 'sub-[A-Za-z0-9]+'"
            )


def _item(cohort: Cohort, root: epath.Path, scan: str, person: str, kinds, modalities):
    def path(kind: str) -> str:
        return str(root / kinds[kind][0]) if kind in kinds else ""

    return subject.Item(
        scan=scan,
        subject=person,
        split="",
        images={modality: path(modality) for modality in modalities},
        brain_mask=path(_BRAIN_MASK),
        segmentation=path(_SEGMENTATION),
        healthy=cohort.healthy,
    )


def _file_name(scan_id: str) -> str:
    """An id as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", scan_id.strip().replace("/", "-"))


def _labels(value: Any, where: str) -> tuple[int, ...]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    # Python takes YAML's `true` for the number 1.
    if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values):
        found = messages.shorten(repr(value))
        raise errors.UserError(f"'{where}': found {found}, accepted: a list of numbers above 0")
    return tuple(values)


def _check_keys(values: dict[str, Any], known, source: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise errors.UserError(
                f"'{source}': unknown key '{messages.shorten(key)}'{hint} (accepted: "
                f"{', '.join(known)})"
            )

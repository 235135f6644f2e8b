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
    options: {registration: affine, brain_mask: auto, shift: [0, 0, 0]}
    fractions: {train: 0.8, val: 0.1, test: 0.1}

Patterns are matched against the whole path below the folder: `*` is anything within a name, `**/`
any folders or none, `{id}` the id (the same at each place), `{nii}` `.nii` or `.nii.gz`. Case
counts, and so does every character between.
"""

import dataclasses
import difflib
import pathlib
import re
from typing import Any

import yaml
from etils import epath

from madad_jax.core import atomic_files, errors
from madad_jax.prepare import subject

NAMES = ("brats", "ixi", "atlas", "mslub", "wmh", "folder")
_TABLES = pathlib.Path(__file__).parent / "tables"
_OPTIONS = ("registration", "brain_mask", "shift")
_DEEPEST = 12  # Folders below the root; a link that leads in a circle ends there.
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
    try:
        # Safe: a table from a stranger must not run code.
        values = yaml.safe_load(atomic_files.read_bytes(source))
    except yaml.YAMLError as error:
        raise errors.UserError(f"'{source}' is no YAML: {' '.join(str(error).split())}") from error
    return from_dict(values, str(source))


def from_dict(values: Any, source: str) -> Cohort:
    """A table from what YAML holds.

    Raises:
      UserError: unknown key, wrong type, pattern without `{id}` or bad regular expression.
    """
    if not isinstance(values, dict):
        raise errors.UserError(f"'{source}' is no table; accepted: YAML with title, images, ...")
    known = [field.name for field in dataclasses.fields(Cohort)]
    _check_keys(values, known, source)
    for key in ("title", "images"):
        if not values.get(key):
            raise errors.UserError(f"'{source}': '{key}' is missing")
    if not isinstance(values["images"], dict):
        raise errors.UserError(f"'{source}': images: accepted: modality: pattern")
    table = {key: value for key, value in values.items() if value is not None}
    table["images"] = {
        str(modality): _patterns(value, f"{source}: images.{modality}")
        for modality, value in values["images"].items()
    }
    for modality in table["images"]:
        if not re.fullmatch(r"[A-Za-z0-9_]+", modality) or modality in (
            "brainmask",
            "segmentation",
        ):
            raise errors.UserError(
                f"'{source}': modality '{modality}'; accepted: letters, digits and _, and neither "
                "brainmask nor segmentation (it becomes part of file names)"
            )
    for key in (_BRAIN_MASK, _SEGMENTATION):
        table[key] = _patterns(values.get(key), f"{source}: {key}")
    for key in ("labels", "unjudged"):
        table[key] = _labels(values.get(key), f"{source}: {key}")
    for key in ("options", "fractions"):
        if not isinstance(values.get(key) or {}, dict):
            raise errors.UserError(f"'{source}': {key}: found {values[key]!r}, accepted: a mapping")
    _check_keys(table.get("options", {}), _OPTIONS, f"{source}: options")
    for key in ("id", "person"):
        try:
            # As it will stand in `_compile`, so that an unbalanced bracket is found here.
            re.compile(f"(?P<id>{table.get(key, '')})")
        except re.error as error:
            raise errors.UserError(f"'{source}': {key}: no regular expression: {error}") from error
    if not isinstance(table.get("healthy", False), bool):
        raise errors.UserError(f"'{source}': healthy: accepted: true or false")
    return Cohort(**table)


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
        (kind, _compile(pattern, cohort.id), pattern.endswith("/"))
        for kind, patterns in kinds.items()
        for pattern in patterns
    ]
    scans: dict[str, dict[str, list[str]]] = {}
    for path, is_folder in _walk(root, "", 0):
        for kind, pattern, wants_folder in compiled:
            match = pattern.fullmatch(path) if wants_folder == is_folder else None
            if match:
                found = scans.setdefault(match["id"], {}).setdefault(kind, [])
                found.append(path.rstrip("/"))
    if not scans:
        shown = [pattern for m in modalities for pattern in cohort.images[m]]
        raise errors.UserError(
            f"'{root}' has no file of {cohort.title}; looked for {', '.join(shown)} with the id "
            f"{cohort.id}"
        )
    return _items(cohort, root, scans, modalities)


def _items(cohort: Cohort, root: epath.Path, scans, modalities: tuple[str, ...]) -> Found:
    items, refused = [], {}
    names: dict[str, str] = {}
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
            items.append(_item(cohort, root, scan, scan_id, kinds, modalities))
        names.setdefault(scan.lower(), scan_id)
    return Found(tuple(items), refused)


def _item(cohort: Cohort, root: epath.Path, scan: str, scan_id: str, kinds, modalities):
    def path(kind: str) -> str:
        return str(root / kinds[kind][0]) if kind in kinds else ""

    person = re.search(cohort.person, scan_id) if cohort.person else None
    return subject.Item(
        scan=scan,
        subject=_file_name(person[0]) if person else scan,
        split="",
        images={modality: path(modality) for modality in modalities},
        brain_mask=path(_BRAIN_MASK),
        segmentation=path(_SEGMENTATION),
        healthy=cohort.healthy,
    )


def _file_name(scan_id: str) -> str:
    """An id as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", scan_id.strip().replace("/", "-"))


def _walk(folder: epath.Path, inside: str, depth: int):
    """(path below the root, whether it is a folder; folders end in /), in the order of names."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        # What systems and programs leave behind, our own `.prepare` among them.
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield f"{inside}{path.name}/", True
            if depth < _DEEPEST:
                yield from _walk(path, f"{inside}{path.name}/", depth + 1)
        else:
            yield f"{inside}{path.name}", False


_TOKENS = re.compile(r"\*\*/|\*|\{id\}|\{nii\}")


def _compile(pattern: str, scan_id: str) -> re.Pattern:
    """A pattern with `*`, `**/`, `{id}` and `{nii}` as a regular expression of the whole path."""
    parts, position, seen = [], 0, False
    for token in _TOKENS.finditer(pattern):
        parts.append(re.escape(pattern[position : token.start()]))
        position = token.end()
        if token[0] == "{id}":
            # The first place captures the id, the others must hold the same text.
            parts.append("(?P=id)" if seen else f"(?P<id>{scan_id})")
            seen = True
        else:
            parts.append({"**/": "(?:.*/)?", "*": "[^/]*", "{nii}": r"\.nii(?:\.gz)?"}[token[0]])
    parts.append(re.escape(pattern[position:]))
    return re.compile("".join(parts))


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    if not value:
        return ()
    patterns = (value,) if isinstance(value, str) else tuple(value)
    for pattern in patterns:
        if not isinstance(pattern, str) or "{id}" not in pattern:
            raise errors.UserError(
                f"'{where}': found {pattern!r}, accepted: a pattern that contains {{id}}"
            )
    return patterns


def _labels(value: Any, where: str) -> tuple[int, ...]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    # Python takes YAML's `true` for the number 1.
    if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values):
        raise errors.UserError(f"'{where}': found {value!r}, accepted: a list of numbers above 0")
    return tuple(values)


def _check_keys(values: dict[str, Any], known, source: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise errors.UserError(
                f"'{source}': unknown key '{key}'{hint} (accepted: {', '.join(known)})"
            )

"""A prepared folder on disk: the official PNG layout and what is known about each slice.

    {split}/{scan}-slice_{number}-{modality|brainmask|segmentation}.png
    transforms/{scan}.json     scan mm -> template mm, to take maps back to the scanner's space
    manifest.jsonl             a line for every picture
    dataset.json               geometry of the slices, options, counts
    README.md  summary.md  contact_sheet.png
    .prepare/                  what a later run needs to know what is done

A scan counts as done when its state file stands in `.prepare/scans/`; that is written last. A
run that is killed leaves at most pictures without a state, which the next run removes.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from etils import epath

from madad_jax.core import atomic_files, errors, file_names, json_file, messages
from madad_jax.data import reading
from madad_jax.data.sources import record
from madad_jax.prepare import subject

# Raise whenever a prepared pixel may change: scans prepared before are then prepared anew.
VERSION = 1
SPLITS = ("train", "val", "test", "test_healthy")
_STATES = ".prepare/scans"
# With the endings that an atomic write leaves behind when it is killed.
_NAME = re.compile(r"^(?P<scan>.+)-slice_\d+-[^-]+\.png(\.[0-9-]+\.new)?$")
_NUMBER = (int, float)
# What a state and each of its rows must hold, by kind.
_STATE = {
    "key": str,
    "inputs": dict,
    "facts": dict,
    "warnings": list,
    "subject": str,
    "split": str,
    "files": dict,
    "rows": list,
}
_ROW = {
    **dict.fromkeys(("id", "scan", "subject", "split", "modality", "file", "source"), str),
    **{"slice": int, "level_mm": _NUMBER, "pixel_mm": _NUMBER, "brain_pixels": int},
    **{"lesion_pixels": (int, type(None)), "sha256": str, "warnings": list},
}


def key(item: subject.Item, options: subject.Options, root: str) -> str:
    """Names everything but the files' contents that a scan's pictures depend on."""
    paths = {kind: _inside(path, root) for kind, path in _paths(item).items()}
    values = [VERSION, item.scan, item.subject, item.split, item.healthy, paths, options.to_dict()]
    # Keys of scans without an age stay those of before.
    values += [] if item.weeks is None else [item.weeks]
    return record.digest(values)[:16]


def write_scan(
    out: epath.Path,
    item: subject.Item,
    options: subject.Options,
    prepared: subject.PreparedSubject,
    root: str,
) -> None:
    """Writes a scan's pictures and transform, and then its state.

    Args:
      out: the prepared folder.
      item: the scan.
      options: how it was prepared.
      prepared: what it became.
      root: folder of the scans; paths are kept relative to it.

    Raises:
      UserError: the folder cannot be written.
    """
    # Other options may choose other slices: none of the old may stay beside the new.
    remove_scan(out, item.scan)
    written: dict[str, int] = {}
    rows = []
    for piece in prepared.slices:
        stem = f"{piece.split}/{piece.id}"
        pictures = {piece.modality: piece.image}
        if f"{stem}-brainmask.png" not in written:
            pictures["brainmask"] = piece.brain_mask
            # No slice of train bears a lesion, and training reads no segmentation.
            if piece.segmentation is not None and piece.split != "train":
                pictures["segmentation"] = piece.segmentation
        for kind, picture in pictures.items():
            content = _png(picture)
            atomic_files.write_bytes(out / f"{stem}-{kind}.png", content)
            written[f"{stem}-{kind}.png"] = len(content)
        rows.append(_row(piece, item, options, prepared, root))
    # Before the state, which says that all is there.
    prepared.transform.save(out / "transforms" / f"{item.scan}.json")
    state = {
        "key": key(item, options, root),
        "inputs": {
            _inside(path, root): [*_stamp(path), prepared.sha256.get(path, "")]
            for path in item.paths
        },
        "facts": prepared.facts,
        "warnings": list(prepared.warnings),
        "subject": item.subject,
        "split": item.split,
        "files": written,
        "rows": rows,
    }
    atomic_files.write_bytes(_state_path(out, item.scan), (json.dumps(state) + "\n").encode())


def read_state(out: epath.Path, scan: str) -> dict[str, Any] | None:
    """What `write_scan` kept; None where the scan is not done, or its state is damaged.

    Raises:
      UserError: it names pictures that `write_scan` does not write for this scan.
    """
    path = _state_path(out, scan)
    try:
        state = json_file.read_object(path)
    except errors.UserError:
        return None  # Prepared anew.
    for name in _names(state):
        _check_picture(name, scan, path)
    return state if _is_state(state, scan) else None


def _names(state: dict[str, Any]) -> list[Any]:
    """Every file name in a state."""
    files, rows = state.get("files"), state.get("rows")
    listed = [row["file"] for row in _list(rows) if isinstance(row, dict) and "file" in row]
    return [*(files if isinstance(files, dict) else ()), *listed]


def _check_picture(name: Any, scan: str, path: epath.Path) -> None:
    """Raises UserError unless `name` is that of a picture of `scan`: names lead to removals."""
    split, _, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
    match = _NAME.fullmatch(rest)
    if split not in SPLITS or "/" in rest or not match or match["scan"] != scan or match[2]:
        raise errors.UserError(
            f"'{path}': files: found {messages.shorten(repr(name))}; accepted: pictures of this "
            f"scan, as 'train/{scan}-slice_080-T1.png'. Nothing was removed"
        )


def _is_state(state: dict[str, Any], scan: str) -> bool:
    return (
        _has(state, _STATE)
        and state["split"] in SPLITS
        and all(type(size) is int for size in state["files"].values())
        and all(isinstance(text, str) for text in state["warnings"])
        and all(isinstance(s, list) and len(s) == 3 for s in state["inputs"].values())
        and all(_has(row, _ROW) and row["scan"] == scan for row in state["rows"])
    )


def _has(values: Any, kinds: dict[str, Any]) -> bool:
    """Whether an object holds values of these kinds; `true` is no number."""
    return isinstance(values, dict) and all(
        isinstance(values.get(key, ...), kind) and not isinstance(values[key], bool)
        for key, kind in kinds.items()
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def read_states(out: epath.Path) -> dict[str, dict[str, Any]]:
    """{scan: state} of all scans that are done, by id."""
    folder = out / _STATES
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    scans = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return {scan: state for scan in scans if (state := read_state(out, scan)) is not None}


def is_current(
    out: epath.Path,
    item: subject.Item,
    options: subject.Options,
    root: str,
    state: dict[str, Any] | None,
) -> bool:
    """Whether a scan is done, from the same files and options, and its pictures still stand."""
    if state is None or state["key"] != key(item, options, root):
        return False
    for path in item.paths:
        size, changed, digest = state["inputs"].get(_inside(path, root), (None, None, None))
        stamp = _stamp(path)
        # A copy has another time: then the contents decide.
        if stamp != (size, changed) and (stamp[0] != size or reading.digest(path) != digest):
            return False
    return all(_size(out / name) == length for name, length in state["files"].items())


def remove_scan(out: epath.Path, scan: str) -> None:
    """Removes a scan: first the state, so that half of it never counts as done.

    Raises:
      UserError: its state names other files than its own, or one lies behind a link; then
        nothing is removed.
    """
    path, state = _state_path(out, scan), read_state(out, scan)
    names = [
        f"{_STATES}/{scan}.json",
        f"transforms/{scan}.json",
        *(state["files"] if state else ()),
    ]
    # All are looked at before the first is removed.
    doomed = [file_names.check_inside(out, name, str(path)) for name in names]
    for place in doomed:
        place.unlink(missing_ok=True)


def remove_partial(out: epath.Path, scans: Iterable[str], done: dict[str, Any]) -> int:
    """Removes pictures of `scans` that no state names: what a killed run left; how many."""
    known = {name for state in done.values() for name in state["files"]}
    scans, count = set(scans), 0
    for split in SPLITS:
        folder = file_names.check_inside(out, split, "--out")
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = _NAME.match(path.name)
            if match and match["scan"] in scans and f"{split}/{path.name}" not in known:
                path.unlink(missing_ok=True)
                count += 1
    for name in (_STATES, "transforms", ".prepare", "."):
        folder = out if name == "." else file_names.check_inside(out, name, "--out")
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.endswith(".new") or (
                folder.name == "transforms" and path.name.removesuffix(".json") in scans - set(done)
            ):
                path.unlink(missing_ok=True)
                count += 1
    return count


def check_settings(out: epath.Path, settings: dict[str, Any]) -> None:
    """Keeps the settings of a folder, or finds that it was prepared with others.

    Raises:
      UserError: the folder holds something else, or other settings.
    """
    path = out / ".prepare" / "settings.json"
    if not path.exists():
        # `.prepare` alone is what a run leaves that is killed as it begins.
        if out.is_dir() and any(inner.name != ".prepare" for inner in out.iterdir()):
            raise errors.UserError(
                f"--out: '{out}' holds files that no preparation made; accepted: a new or empty "
                "folder"
            )
        return
    kept = json_file.read_object(path)
    # As a file gives it back: tuples are lists there.
    mine = json.loads(json.dumps(settings))
    for name in sorted({*mine, *kept}):
        then, now = kept.get(name), mine.get(name)
        if then != now:
            # Of a table the first value that differs: shortened, both would read alike.
            if isinstance(then, dict) and isinstance(now, dict):
                key = min(k for k in {*then, *now} if then.get(k) != now.get(k))
                name, then, now = f"{name}.{key}", then.get(key), now.get(key)
            raise errors.UserError(
                f"--out: '{out}' was prepared with {name}={_short(then)}, now it is "
                f"{_short(now)}; choose another --out or remove that folder"
            )


def write_settings(out: epath.Path, settings: dict[str, Any]) -> None:
    """See `check_settings`."""
    write_if_changed(out / ".prepare" / "settings.json", _json(settings))


def write_if_changed(path: epath.Path, content: bytes) -> None:
    """Writes a file unless it says the same already."""
    if not path.exists() or path.read_bytes() != content:
        atomic_files.write_bytes(path, content)


def _row(
    piece, item: subject.Item, options: subject.Options, prepared: subject.PreparedSubject, root
) -> dict[str, Any]:
    source = item.images[piece.modality]
    lesion = None if piece.segmentation is None else int(piece.segmentation.sum())
    age = {} if item.weeks is None else {"gestational_weeks": item.weeks}
    return {
        "id": piece.id,
        "scan": piece.scan,
        "subject": piece.subject,
        "split": piece.split,
        "slice": piece.number,
        "modality": piece.modality,
        "file": f"{piece.split}/{piece.id}-{piece.modality}.png",
        "level_mm": options.preparation.geometry.level(piece.number),
        "pixel_mm": options.preparation.geometry.pixel,
        "brain_pixels": int(piece.brain_mask.sum()),
        "lesion_pixels": lesion,
        "source": _inside(source, root),
        "sha256": prepared.sha256[source],
        "warnings": list(prepared.warnings),
        **age,
    }


def _png(picture: np.ndarray) -> bytes:
    # Masks are white, for people who open them; readers take any value above 0.
    grey = picture.astype(np.uint8) * 255 if picture.dtype == bool else picture
    done, content = cv2.imencode(".png", grey)
    if not done:
        raise ValueError(f"a picture of {picture.shape} {picture.dtype} cannot be written as PNG")
    return content.tobytes()


def _paths(item: subject.Item) -> dict[str, str]:
    return {**item.images, "brain_mask": item.brain_mask, "segmentation": item.segmentation}


def _inside(path: str, root: str) -> str:
    """A path relative to the folder of the scans: it may be mounted elsewhere tomorrow."""
    return path.removeprefix(root.rstrip("/") + "/")


def _stamp(path: str) -> tuple[int, int]:
    """(bytes, time of change in s) of a file, or of a folder's files together; -1: not there."""
    place = epath.Path(path)
    try:
        inner = reading.list_files(place)
        stats = [p.stat() for p in inner]
    except OSError:
        return (-1, -1)
    # Whole seconds: copies and file systems keep finer times differently.
    return sum(stat.length for stat in stats), max((int(stat.mtime) for stat in stats), default=-1)


def _size(path: epath.Path) -> int:
    try:
        return path.stat().length
    except OSError:
        return -1


def _state_path(out: epath.Path, scan: str) -> epath.Path:
    return out / _STATES / f"{scan}.json"


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()


def _short(value: Any) -> str:
    return messages.shorten(json.dumps(value), 100)

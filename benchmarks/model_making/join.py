"""Healthy and painted heads, prepared apart, as the splits of one data folder.

    python -m benchmarks.model_making.join --healthy=heads --painted=val_painted:prepared_val:val \
        --painted=test:prepared_test:test --out=data/ixi_heads

A painted head gets `-painted` after its id. Evaluation takes slices of one id for one scan, so the
head without its lesions would end up in the same stack. Pictures are hard links where the disk
allows it, else copies; only scans that are done are taken, and the same command again adds others.
"""

import argparse
import json
import pathlib
import shutil
import sys
from typing import NamedTuple

from etils import epath

from benchmarks import paint_lesions
from madad_jax.core import errors, json_file
from madad_jax.data import provenance
from madad_jax.evaluation import lesion_list
from madad_jax.prepare import output

SUFFIX = "-painted"
_OWN = ("title", "splits", "counts", "scans")  # of each folder; the rest has to agree


class Painted(NamedTuple):
    """Painted heads: the split that they become, their prepared folder and their table."""

    split: str
    folder: pathlib.Path
    lesions: pathlib.Path


def join(healthy: pathlib.Path, painted: list[Painted], out: pathlib.Path) -> dict[str, int]:
    """Writes or completes `out`; the number of scans by split.

    Args:
      healthy: prepared heads with `train`, `val` and `test_healthy`.
      painted: prepared heads with lesions; every slice of a folder becomes one split.
      out: has the splits, `transforms/`, `lesions.csv` and `dataset.json`.

    Raises:
      UserError: a folder that `prepare` did not write, or one prepared with other options.
    """
    folders = [healthy, *(one.folder for one in painted)]
    dataset = _check_alike(folders)
    counts: dict[str, int] = {}
    for scan, state in _scans(healthy).items():
        _link_scan(healthy, out, scan, state, "")
        split = pathlib.PurePosixPath(next(iter(state["files"]))).parts[0]
        counts[split] = counts.get(split, 0) + 1
    rows = []
    for one in painted:
        scans = _scans(one.folder)
        for scan, state in scans.items():
            _link_scan(one.folder, out, scan, state, one.split)
        counts[one.split] = len(scans)
        rows += _lesions_of(one.lesions, set(scans))
    paint_lesions.write_table(out / lesion_list.FILE, rows)
    # Last: without it a run could not say where its slices lie, and would not be calibrated.
    _write_if_changed(out / provenance.DATASET, (json.dumps(dataset, indent=1) + "\n").encode())
    return counts


def _scans(folder: pathlib.Path) -> dict[str, dict]:
    """States of the scans that are done and have slices."""
    states = output.read_states(epath.Path(folder))
    found = {scan: state for scan, state in states.items() if state["files"]}
    if not found:
        raise errors.UserError(f"'{folder}': no prepared scan; accepted: a folder of prepare")
    return found


def _check_alike(folders: list[pathlib.Path]) -> dict:
    """What all `dataset.json` say alike; a preparation under way has none yet."""
    paths = [folder / provenance.DATASET for folder in folders]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise errors.UserError(
            f"'{folders[0]}': no {provenance.DATASET}; accepted: a folder that prepare finished"
        )
    tables = [json_file.read_object(epath.Path(path)) for path in paths]
    first = {key: value for key, value in tables[0].items() if key not in _OWN}
    for path, table in zip(paths, tables, strict=True):
        for key in sorted({*first, *table} - set(_OWN)):
            if table.get(key) != first.get(key):
                raise errors.UserError(
                    f"'{path}': {key} is not that of '{paths[0]}'; accepted: heads that were "
                    "prepared alike"
                )
    return {"title": "Healthy heads, and heads with painted lesions", **first}


def _link_scan(folder: pathlib.Path, out: pathlib.Path, scan: str, state: dict, split: str) -> None:
    """A scan's pictures and transform; a painted one's under its split and new id."""
    new = f"{scan}{SUFFIX}" if split else scan
    for file in state["files"]:
        path = pathlib.PurePosixPath(file)
        name = f"{new}{path.name.removeprefix(scan)}"
        _link(folder / file, out / (split or path.parts[0]) / name)
    transform = f"{lesion_list.TRANSFORMS}/{{}}.json"
    _link(folder / transform.format(scan), out / transform.format(new))


def _link(source: pathlib.Path, place: pathlib.Path) -> None:
    if place.exists():
        if place.samefile(source) or place.read_bytes() == source.read_bytes():
            return
        place.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.hardlink_to(source)
    except OSError:  # Another disk, or one without links.
        scratch = place.with_name(place.name + ".new")
        shutil.copy2(source, scratch)
        scratch.replace(place)


def _lesions_of(table: pathlib.Path, scans: set[str]) -> list[dict[str, str]]:
    """Rows of a table with the new ids, of the scans that are there."""
    rows = paint_lesions.read_table(table)
    return [row | {"id": row["id"] + SUFFIX} for row in rows if row["id"] in scans]


def _write_if_changed(path: pathlib.Path, content: bytes) -> None:
    output.write_if_changed(epath.Path(path), content)


def _parse_painted(text: str) -> Painted:
    split, *places = text.split(":")
    if len(places) != 2:
        raise errors.UserError(f"--painted={text}: accepted: SPLIT:PREPARED:LESIONS.csv")
    folder, lesions = map(pathlib.Path, places)
    return Painted(split, folder, lesions / lesion_list.FILE if lesions.is_dir() else lesions)


def main(argv: list[str] | None = None) -> int:
    """Joins; prints the number of scans by split."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--healthy", type=pathlib.Path, required=True)
    parser.add_argument("--painted", action="append", default=[])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    flags = parser.parse_args(argv)
    try:
        painted = [_parse_painted(text) for text in flags.painted]
        for split, count in sorted(join(flags.healthy, painted, flags.out).items()):
            print(f"{split}: {count} scans")
    except errors.UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

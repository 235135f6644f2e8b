"""Scans of a folder, each read to its end, and what is odd about one beside the others."""

import collections
import concurrent.futures
import dataclasses
import hashlib

import nibabel as nib
import numpy as np
from etils import epath

from madad_jax.core import errors
from madad_jax.data import discovery, reading
from madad_jax.prepare import check_report, cohorts, panels, subject
from madad_jax.scans import brain_mask, label_values, skull, to_slices, volumes
from madad_jax.scans import preparation as preparation_lib

_COLUMNS = ("scan", "voxels", "mm", "axes", "shows")
_SIDE = 96  # px of a plane on the sheet.
_UNLIKE = 1.8  # Ratio to the folder's median voxel side from which a scan is odd.
_WARNED, _PLAIN = "#ffb14a", "white"


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What is kept of a scan when its voxels are gone."""

    row: check_report.Row
    panel: panels.Panel | None = None
    sides: tuple[float, ...] = ()
    shows: str = ""
    digest: bytes = b""


def check(
    path: str,
    *,
    include: str = "",
    cohort: str = "",
    cohort_file: str = "",
    locate: bool = False,
    workers: int = 1,
    wish: reading.Wish = reading.Wish(),  # noqa: B008 (it is frozen)
) -> check_report.Report:
    """Reads every scan, and the masks that a cohort's table names beside it.

    Args:
      path: one scan, or a folder.
      include: see `discovery.discover`.
      cohort: name of a table, see `cohorts.load`; "" = whatever is found.
      cohort_file: of the cohort `folder`.
      locate: find the brain and register it as well.
      workers: scans at a time.
      wish: which series of a DICOM folder, and whether dcm2niix is called.

    Raises:
      UserError: nothing there, or no such table.
    """
    items, refused, table = _find_items(path, include, cohort, cohort_file)
    rows = [check_report.Row(name, tuple("-" * 4), (why,), False) for name, why in refused.items()]
    for row in rows:
        check_report.print_problems(row)
    seen = []
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # In the order of the items, each printed as soon as it and those before it are read.
        for one in pool.map(lambda item: _check_item(item, table, locate, wish), items):
            check_report.print_problems(one.row)
            seen.append(one)
    seen = _compare(seen)
    rows += [one.row for one in seen]
    drawn = [one.panel for one in seen if one.panel is not None]
    most = panels.COLUMNS * panels.ROWS
    even = {int(i) for i in np.linspace(0, len(drawn) - 1, most)} if drawn else set()
    # Problems first: the sheet is for them.
    first = [i for i, panel in enumerate(drawn) if panel.colour == _WARNED][:most]
    chosen = sorted(first + [i for i in even if i not in first][: most - len(first)])
    return check_report.Report(
        "scans", _COLUMNS, tuple(rows), tuple(drawn[i] for i in chosen), _count_kinds(seen)
    )


def _find_items(path: str, include: str, cohort: str, cohort_file: str):
    """(scans with their files, {scan: why it is refused}, the cohort's table or None)."""
    if not cohort:
        if cohort_file:
            raise errors.UserError("--cohort_file belongs to --cohort=folder")
        found, _ = discovery.discover(path, include)
        items = [subject.Item(s.name, s.name, "", {"image": str(s.path)}) for s in found]
        return items, {}, None
    if include:
        raise errors.UserError("--include and --cohort exclude each other: a cohort has patterns")
    table = cohorts.load(cohort, cohort_file)
    found = cohorts.find(table, epath.Path(path.rstrip("/") or "/"), tuple(table.images))
    return list(found.items), dict(found.refused), table


def _check_item(item: subject.Item, table, locate: bool, wish: reading.Wish) -> _Seen:
    """Everything that one scan can say by itself."""
    problems: list[str] = []
    volume = None
    for name, path in item.images.items():
        try:
            other = reading.read(path, dataclasses.replace(wish, contrast=name if table else ""))
        except errors.UserError as error:
            problems.append(str(error))
            continue
        prefix = f"{name}: " if len(item.images) > 1 else ""
        problems += [prefix + warning for warning in other.warnings]
        volume = volume or other
    if volume is None:
        return _Seen(check_report.Row(item.scan, tuple("-" * 4), tuple(problems), False))
    problems += _check_masks(item, volume, table)
    usable = True
    if few := label_values.count_few(volume.data):
        problems.append(f"holds {few} different values: a segmentation, and no scan")
        locate = usable = False
    stripped = skull.is_stripped(volume)
    if stripped and not few:
        mask = volume.data != np.float32(skull.find_background(volume.data))
        if cut := brain_mask.cut_sides(mask, volume.voxel_mm):
            problems.append(f"shows a part of the brain: it ends at the {' and '.join(cut)}")
    if locate:
        preparation = preparation_lib.Preparation()
        try:
            located = to_slices.locate(volume, preparation, brain_mask_file=item.brain_mask)
            told = (*problems, brain_mask.STRIPPED_BEFORE)  # The table shows what is a brain.
            problems += [w for w in located.warnings if not w.startswith(told)]
        except errors.UserError as error:
            problems.append(str(error))
            usable = False
    shows = "labels" if few else "brain" if stripped else "head"
    cells = (
        " x ".join(map(str, volume.native.shape)),
        " x ".join(f"{mm:.2f}" for mm in np.linalg.norm(volume.native.affine[:3, :3], axis=0)),
        "".join(nib.aff2axcodes(volume.native.affine)),
        shows,
    )
    row = check_report.Row(item.scan, cells, tuple(problems), usable)
    return _Seen(
        row=row,
        panel=_draw(volume, item.scan, problems),
        sides=tuple(np.sort(volume.voxel_mm)),
        shows=shows,
        digest=hashlib.sha256(np.ascontiguousarray(volume.data)).digest(),
    )


def _check_masks(item: subject.Item, volume: volumes.Volume, table) -> list[str]:
    """Brain mask and segmentation on the scan's grid, with values that its table knows."""
    problems, masks = [], {}
    for kind, path in (("brain mask", item.brain_mask), ("segmentation", item.segmentation)):
        if not path:
            continue
        try:
            masks[kind] = volumes.read_labels(path, volume)
        except errors.UserError as error:
            problems.append(f"{kind}: {error}")
    if "brain mask" in masks and not (masks["brain mask"] > 0).any():
        problems.append("brain mask: no voxel above 0")
    if "segmentation" in masks:
        labels = masks["segmentation"]
        wanted = set(table.labels) | set(table.unjudged)
        others = sorted(set(np.unique(labels[labels > 0]).tolist()) - wanted) if wanted else []
        if others:
            listed = ", ".join(f"{value:g}" for value in others[:5])
            problems.append(f"segmentation: values {listed} that the table does not name")
        lesion = np.isin(labels, list(table.labels)) if table.labels else labels > 0
        if table.healthy and lesion.any():
            ml = float(lesion.sum()) * volume.voxel_ml
            problems.append(f"segmentation: {ml:.1f} ml of lesion in a cohort that is healthy")
    return problems


def _compare(seen: list[_Seen]) -> list[_Seen]:
    """The same with what is odd about one beside the others; new lines are printed."""
    sides = np.array([one.sides for one in seen if one.sides]).reshape(-1, 3)
    middle = np.median(sides, axis=0) if len(sides) else np.ones(3)
    kinds = collections.Counter(one.shows for one in seen if one.shows)
    first: dict[bytes, str] = {}
    out = []
    for one in seen:
        more = []
        if one.digest:
            twin = first.setdefault(one.digest, one.row.name)
            if twin != one.row.name:
                more.append(f"holds the same voxels as {twin}")
            ratio = np.maximum(np.array(one.sides) / middle, middle / np.array(one.sides))
            if len(sides) > 2 and ratio.max() > _UNLIKE:
                found, usual = (" x ".join(f"{mm:.2f}" for mm in s) for s in (one.sides, middle))
                more.append(f"voxels of {found} mm where the others have {usual} mm")
            # One in ten and fewer: a folder of both kinds is somebody's choice.
            if one.shows != "labels" and kinds[one.shows] * 10 <= sum(kinds.values()):
                more.append(f"shows a {one.shows} where the others do not")
        check_report.print_problems(dataclasses.replace(one.row, problems=tuple(more)))
        row = dataclasses.replace(one.row, problems=(*one.row.problems, *more))
        panel = one.panel
        if panel is not None and row.problems:
            panel = dataclasses.replace(panel, colour=_WARNED)
        out.append(dataclasses.replace(one, row=row, panel=panel))
    return out


def _count_kinds(seen: list[_Seen]) -> tuple[str, ...]:
    kinds = collections.Counter(one.shows for one in seen if one.shows)
    names = {"head": "whole heads", "brain": "brains without skull", "labels": "segmentations"}
    return (", ".join(f"{n} {names[kind]}" for kind, n in kinds.most_common()),) if kinds else ()


def _draw(volume: volumes.Volume, name: str, problems: list[str]) -> panels.Panel:
    """The three middle planes side by side, front and top upwards."""
    data = volume.data
    low, high = np.percentile(data, (1.0, 99.5))
    scale = np.float32(1.0 / (high - low)) if high > low else np.float32(0.0)
    middle = [n // 2 for n in data.shape]
    planes = (
        (data[:, :, middle[2]], volume.voxel_mm[[0, 1]]),
        (data[:, middle[1], :], volume.voxel_mm[[0, 2]]),
        (data[middle[0], :, :], volume.voxel_mm[[1, 2]]),
    )
    longest = max(max(np.array(plane.shape) * mm) for plane, mm in planes)
    shown = [_fit((plane - low) * scale, mm, longest) for plane, mm in planes]
    empty = np.zeros_like(shown[0])
    picture = np.block([[shown[0], shown[1]], [shown[2], empty]])
    text = f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "no problem"
    return panels.Panel(picture.astype(np.float32), f"{panels.shorten_name(name)}\n{text}")


def _fit(plane: np.ndarray, mm: np.ndarray, longest: float) -> np.ndarray:
    """A plane on a square of `_SIDE` px over `longest` mm, nearest voxels, turned upright."""
    out = np.zeros((_SIDE, _SIDE), np.float32)
    sizes = [max(1, round(n * s / longest * _SIDE)) for n, s in zip(plane.shape, mm, strict=True)]
    rows, columns = (
        np.minimum((np.arange(size) + 0.5) * n / size, n - 1).astype(int)
        for n, size in zip(plane.shape, sizes, strict=True)
    )
    small = np.clip(plane[np.ix_(rows, columns)], 0.0, 1.0).T[::-1]
    top, left = (_SIDE - small.shape[0]) // 2, (_SIDE - small.shape[1]) // 2
    out[top : top + small.shape[0], left : left + small.shape[1]] = small
    return out

"""A data set of slices, looked through to the last pixel."""

import collections
from typing import Any

import numpy as np
from etils import epath

from madad_jax.core import errors
from madad_jax.data import registry
from madad_jax.data.sources import encoded, png_folder, png_pixels
from madad_jax.data.sources import record as record_lib
from madad_jax.prepare import check_report, panels

_COLUMNS = ("split", "modality", "slices", "people", "with lesion", "px", "bits")
_BRAIN, _LESION = "#39c0ff", "#ff4040"


def is_data_set(root: epath.Path) -> bool:
    """Whether a folder holds splits of slices."""
    try:
        return bool(root.is_dir() and png_folder.list_contents(root))
    except errors.UserError:
        return False


def check(root: epath.Path) -> check_report.Report:
    """Opens every split in every modality and reads all of its slices.

    Raises:
      UserError: no slices there.
    """
    rows, pictures = [], []
    contents = png_folder.list_contents(root)
    for split, modalities in contents.items():
        for modality in modalities:
            row, panels_of_it = _check_split(root, split, modality)
            check_report.print_problems(row)
            rows.append(row)
            pictures.append(panels_of_it)
    share = max(1, panels.COLUMNS * panels.ROWS // max(1, len(pictures)))
    chosen = tuple(panel for some in pictures for panel in some[:share])
    notes = [f"no split '{name}'" for name in ("train", "val", "test") if name not in contents]
    return check_report.Report("splits", _COLUMNS, tuple(rows), chosen, tuple(notes))


def _check_split(
    root: epath.Path, split: str, modality: str
) -> tuple[check_report.Row, list[panels.Panel]]:
    # Any size: pixels are looked at as the files have them.
    size = 64
    try:
        source = png_folder.PngFolder(str(root), split=split, modality=modality, image_size=size)
    except errors.UserError as error:
        return check_report.Row(split, (modality, *"-----"), (str(error),), False), []
    seen = _read_all(source, split)
    unreadable, problems = seen["unreadable"], []
    # What could not be read is named above; the split's own rules need pixels.
    if not unreadable:
        data = ("png_folder", str(root), modality)
        problems += registry.inspect(source, split, data, max(seen["sizes"], default=size))
    problems += check_report.first_few(unreadable) + check_report.first_few(seen["odd"])
    if len(seen["sizes"]) > 1:
        counts = ", ".join(f"{px} px: {n}" for px, n in seen["sizes"].most_common(4))
        problems.append(f"slices of {len(seen['sizes'])} sizes ({counts}); all are resized alike")
    if len(seen["bits"]) > 1:
        problems.append(f"files of {' and '.join(map(str, sorted(seen['bits'])))} bits a pixel")
    people = len({record.subject for record in source.records})
    cells = (
        modality,
        str(len(source)),
        str(people),
        str(seen["lesions"]),
        _join(seen["sizes"]),
        _join(seen["bits"]),
    )
    usable = len(unreadable) < len(source)
    return check_report.Row(split, cells, tuple(problems), usable), seen["panels"]


def _read_all(source: png_folder.PngFolder, split: str) -> dict[str, Any]:
    """Every slice of a split as its files have it."""
    seen: dict[str, Any] = {
        "unreadable": [], "odd": [], "lesions": 0, "panels": [],
        "sizes": collections.Counter(), "bits": collections.Counter(),
    }  # fmt: skip
    wanted = {int(i) for i in np.linspace(0, len(source) - 1, panels.COLUMNS * panels.ROWS)}
    twins: dict[bytes, record_lib.Record] = {}
    for i, record in enumerate(source.records):
        try:
            parts = source.read_encoded(i)
            image = png_pixels.decode_grey(parts.image)
            element = encoded.element(parts, max(image.shape))
        except errors.UserError as error:
            seen["unreadable"].append(str(error))
            continue
        brain, lesion = element["brain_mask"], element["segmentation"]
        seen["sizes"][max(image.shape)] += 1
        seen["bits"][png_pixels.bit_depth(parts.image)] += 1
        seen["lesions"] += bool(lesion.any())
        if not brain.any():
            seen["odd"].append(f"'{record.id}': the brain mask is empty")
        elif np.ptp(element["image"][brain]) == 0:
            seen["odd"].append(f"'{record.id}': the picture is constant inside the brain")
        elif (lesion & ~brain).sum() > 0.5 * lesion.sum():
            seen["odd"].append(f"'{record.id}': most of the lesion lies outside the brain mask")
        other = twins.setdefault(parts.image.content, record)
        # Equal pictures of one person are black or copied; of two, the same person twice.
        if other is not record and brain.any():
            seen["odd"].append(f"'{record.id}': the same picture as '{other.id}'")
        if i in wanted:
            grey = (element["image"][..., 0] + 1.0) / 2.0
            title = f"{panels.shorten_name(record.id)}\n{split}, {record.modality}"
            outlines = ((brain, _BRAIN), (lesion, _LESION))
            seen["panels"].append(panels.Panel(grey.astype(np.float32), title, outlines))
    return seen


def _join(values: Any) -> str:
    found = sorted(values)
    return "/".join(map(str, found[:3])) + ("/.." if len(found) > 3 else "") if found else "-"

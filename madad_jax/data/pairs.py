"""Scans and their brain masks below a folder, by the patterns that preparation takes.

    images:     '{id}/anat/*_T1w{nii}'
    brain mask: '{id}/anat/*_mask{nii}'

See `patterns.py`. A scan and a mask of one id belong together.
"""

from etils import epath

from madad_jax.core import errors, messages
from madad_jax.data import discovery, patterns, scan_names

_ID = "[^/]+"  # as a cohort's table has it by default


def find(path: str, images: str, brain_mask: str) -> list[discovery.Scan]:
    """The scans of a folder, each with the mask of its id, by name.

    A scan whose id has no mask, or several, has a `fault`: found by another way, its brain would
    not be the one that was asked for.

    Args:
      path: the folder.
      images: pattern of scans; it may end in / for folders with one DICOM series.
      brain_mask: pattern of masks; "" pairs nothing.

    Raises:
      UserError: no such folder, a pattern without `{id}`, two scans of one id, or no scan.
    """
    root = epath.Path(path)
    if not root.is_dir():
        raise errors.UserError(f"--input={path}: found no folder; patterns belong to a folder")
    scans = _paths(root, patterns.check_patterns(images, "--image_pattern"))
    masks = _paths(root, patterns.check_patterns(brain_mask, "--brain_mask_pattern"))
    if not scans:
        seen = [below for below, _ in patterns.walk(root)]
        reason = patterns.explain_nothing((images,), _ID, seen)
        raise errors.UserError(f"--input={path}: no scan fits --image_pattern={images}; {reason}")
    for scan_id, paths in scans.items():
        if len(paths) > 1:
            raise errors.UserError(
                f"--image_pattern={images}: {len(paths)} scans of the id "
                f"'{messages.shorten(scan_id)}': {messages.shorten(', '.join(paths))}"
            )
    paths = [paths[0] for paths in scans.values()]
    found = []
    for scan_id, below, name in zip(scans, paths, scan_names.output_names(paths), strict=True):
        fits = masks.get(scan_id, [])
        fault = ""
        if brain_mask and len(fits) != 1:
            which = f": {messages.shorten(', '.join(fits))}" if fits else ""
            fault = (
                f"brain mask: found {len(fits)} files that fit '{brain_mask}' with the id "
                f"'{messages.shorten(scan_id)}'{which}; accepted: one"
            )
        mask = str(root / fits[0]) if fits and not fault else ""
        found.append(discovery.Scan(name, root / below, mask, fault))
    return found


def _paths(root: epath.Path, wanted: tuple[str, ...]) -> dict[str, list[str]]:
    """{id: paths below the root that fit}, in the order of names."""
    compiled = [(patterns.compile_path(one, _ID), one.endswith("/")) for one in wanted]
    found: dict[str, list[str]] = {}
    for below, is_folder in patterns.walk(root) if compiled else ():
        if len(below) > patterns.MOST_PATH:
            continue
        for pattern, wants_folder in compiled:
            match = pattern.fullmatch(below) if wants_folder == is_folder else None
            if match:
                found.setdefault(match["id"], []).append(below.rstrip("/"))
    return found

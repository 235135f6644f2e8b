"""Where the brain is in a scan, and whether that is plausible.

    given       a mask file on the scan's grid (any value above 0)
    nonzero     voxels other than the background, of scans whose skull was removed before
    template    the template's own mask, for scans that lie in its space already
    builtin     the network that comes with this package; downloads nothing
    hd-bet      the program of Isensee et al. 2019, if it is installed
    synthstrip  the program of Hoopes et al. 2022, if it is installed
    auto        given, if there is a file; else nonzero, if the skull is gone (`skull.py`); else
                builtin

To a template of the user's own scans are held as heads are to ICBM152's (`target.py`). The networks
were trained on adult heads: with such a template they work by name alone, not for `auto`.

Every mask is brought to one component without holes, and checked.
"""

import importlib.util
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.scans import brain_tools, registration, skull, volumes
from madad_jax.scans import target as target_lib

METHODS = ("auto", "given", "nonzero", "template", "builtin", *brain_tools.TOOLS)
STRIPPED_BEFORE = "the skull is gone already"  # Begins a sentence that names no fault.
_PIECE = 0.01  # A second component of less than this share is a speck, dropped in silence.
# Share of a brain's largest cross-section that it reaches within 5 mm of its end where it is cut;
# of whole brains none has more than 0.25.
_CUT, _CUT_MM = 0.3, 5.0
_SIDES = (("left", "right"), ("back", "front"), ("bottom", "top"))

# Data [X, Y, Z] in canonical orientation -> brain mask; raises UserError.
ExtractBrain = Callable[[np.ndarray], np.ndarray]


def find(
    volume: volumes.Volume,
    method: str = "auto",
    *,
    given: str = "",
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    extract_brain: ExtractBrain | None = None,
    target: target_lib.Target | None = None,
) -> tuple[Bool[np.ndarray, "X Y Z"], list[str]]:
    """The brain mask of a scan.

    Args:
      volume: the scan.
      method: one of `METHODS`.
      given: path of a mask file; "" = none.
      shift: scan mm -> mm of the template, for `template`.
      extract_brain: does `builtin` in this process; None: a process of its own is started.
      target: a template of the user's own, whose brain says what is plausible; None: ICBM152.

    Returns:
      The mask on the volume's canonical grid, and warnings: how it was found where that was not
      asked for, and what looks wrong with it.

    Raises:
      UserError: unknown method, no file or program for it, or an empty mask.
    """
    if method not in METHODS:
        raise errors.UserError(f"brain_mask: found '{method}', accepted: {', '.join(METHODS)}")
    warnings = []
    # As large as an adult's, for whom lengths and volumes stand in the code.
    large = volume if target is None else target.enlarge(volume)
    if method == "auto":
        method = _choose(large, given, target)
        if method == "nonzero":
            value = skull.find_background(volume.data)
            warnings.append(f"{STRIPPED_BEFORE}: the brain is where the scan is not {value:g}")
        try:
            mask = _find_by(volume, method, given, shift, extract_brain, target)
        except errors.UserError as error:
            if method != "builtin":
                raise
            raise errors.UserError(
                f"{error} (if its skull is gone: --brain_mask=nonzero; with a mask file: "
                "--brain_mask=given)"
            ) from error
    else:
        mask = _find_by(volume, method, given, shift, extract_brain, target)
        if method == "nonzero" and not skull.is_stripped(large):
            warnings.append(
                "the scan does not look like a brain without its skull, of which 'nonzero' takes "
                "all for brain"
            )
    mask, about_pieces = _keep_largest(mask, method)
    if not mask.any():
        raise errors.UserError(f"'{volume.source}': brain mask '{method}' is empty")
    warnings += about_pieces
    size = float(mask.sum()) * volume.voxel_ml
    low, high = target_lib.PLAUSIBLE_ML if target is None else target.plausible_ml
    if not low <= size <= high:
        warnings.append(
            f"brain mask '{method}' measures {size:.0f} ml; {low:.0f} to {high:.0f} are plausible"
        )
    if cut := cut_sides(mask, large.voxel_mm):
        warnings.append(f"the scan shows a part of the brain: it ends at the {' and '.join(cut)}")
    return mask, warnings


def cut_sides(mask: Bool[np.ndarray, "X Y Z"], voxel_mm: Float64[np.ndarray, " 3"]) -> list[str]:
    """The sides on which a brain ends in a plane instead of a dome: `left` to `top`."""
    found = []
    for axis, names in enumerate(_SIDES):
        area = np.trim_zeros(mask.sum(tuple(k for k in range(3) if k != axis)))
        planes = max(1, int(np.ceil(_CUT_MM / voxel_mm[axis])))
        for name, end in zip(names, (area[:planes], area[-planes:]), strict=True):
            if end.max() >= _CUT * area.max():
                found.append(name)
    return found


def _choose(volume: volumes.Volume, given: str, target: target_lib.Target | None) -> str:
    if given:
        return "given"
    if skull.is_stripped(volume):
        return "nonzero"
    if target is not None:
        raise errors.UserError(
            f"'{volume.source}' shows more than a brain of the size of '{target.name}', and the "
            "built-in extraction is made for adult heads; accepted: --brain_mask=given (a mask "
            "file), nonzero, or a program by name"
        )
    return "builtin"


def _find_by(volume, method: str, given: str, shift, extract_brain, target) -> np.ndarray:
    if method == "given":
        if not given:
            raise errors.UserError(
                f"'{volume.source}' has no brain mask file; accepted: a pattern 'brain_mask' in "
                "the cohort's table (prepare), --brain_mask_file (predict), or another --brain_mask"
            )
        return volumes.read_labels(given, volume) > 0
    if method == "nonzero":
        return volume.data != np.float32(skull.find_background(volume.data))
    if method == "template":
        target = target or registration.builtin_target()
        to_template = registration.register(volume, "none", shift=shift)
        return to_template.to_scan(target.brain, volume, order=0, grid=target.grid)
    if method == "builtin":
        return _run_builtin(volume, extract_brain)
    return brain_tools.run(method, volume)


def _run_builtin(volume: volumes.Volume, extract_brain: ExtractBrain | None) -> np.ndarray:
    if extract_brain is not None:
        try:
            return extract_brain(volume.data)
        except errors.UserError as error:
            raise errors.UserError(f"'{volume.source}': {error}") from error
    # By name: an installation may lack this module, which starts a process that runs JAX.
    name = "madad_jax.scans.builtin_mask"
    if importlib.util.find_spec(name) is None:
        raise errors.UserError(
            f"'{volume.source}' shows a whole head, and the built-in brain extraction is not part "
            f"of this installation; accepted: --brain_mask={'|'.join(METHODS)}"
        )
    return importlib.import_module(name).find(volume)


def _keep_largest(mask: np.ndarray, method: str) -> tuple[np.ndarray, list[str]]:
    """The largest component, holes filled; a large second component is worth a warning."""
    labels, count = ndimage.label(mask)
    warnings = []
    if count > 1:
        sizes = np.bincount(labels.ravel())[1:]
        largest = int(sizes.argmax())
        second = np.sort(sizes)[-2] / sizes[largest]
        if second > _PIECE:
            warnings.append(
                f"brain mask '{method}' has {count} pieces, the second with {second:.0%} of the "
                "first's voxels; the largest is used"
            )
        mask = labels == largest + 1
    # Ventricles may be exactly 0 in a stripped scan; they belong to the brain.
    return ndimage.binary_fill_holes(mask), warnings

"""Where the brain is in a scan, and whether that is plausible.

    given       a mask file on the scan's grid (any value above 0)
    nonzero     voxels other than 0, of scans whose skull was removed before
    template    ICBM152's own mask, for scans that lie in MNI space already
    builtin     the network that comes with this package; downloads nothing
    hd-bet      the program of Isensee et al. 2019, if it is installed
    synthstrip  the program of Hoopes et al. 2022, if it is installed
    auto        given, if there is a file; else nonzero, if the skull is gone; else builtin

Every mask is brought to one component without holes, and checked.
"""

import importlib.util

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.scans import brain_tools, registration, volumes

METHODS = ("auto", "given", "nonzero", "template", "builtin", *brain_tools.TOOLS)
# Adult brains with their fluid measure about 0.9 to 2.0 l; a child's or a partial scan less.
PLAUSIBLE_ML = (600.0, 2300.0)
# A head with its air has more voxels above 0 than any brain; a brain alone has no more than this.
_STRIPPED_ML = (200.0, 2500.0)
_PIECE = 0.01  # A second component of less than this share is a speck, dropped in silence.


def find(
    volume: volumes.Volume,
    method: str = "auto",
    *,
    given: str = "",
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[Bool[np.ndarray, "X Y Z"], list[str]]:
    """The brain mask of a scan.

    Args:
      volume: the scan.
      method: one of `METHODS`.
      given: path of a mask file; "" = none.
      shift: scan mm -> MNI mm, for `template`.

    Returns:
      The mask on the volume's canonical grid, and warnings: how it was found where that was not
      asked for, and what looks wrong with it.

    Raises:
      UserError: unknown method, no file or program for it, or an empty mask.
    """
    if method not in METHODS:
        raise errors.UserError(f"brain_mask: found '{method}', accepted: {', '.join(METHODS)}")
    warnings = []
    if method == "auto":
        method = _choose(volume, given)
        if method == "nonzero":
            warnings.append("the skull is gone already: the brain is where the scan is not 0")
    mask = _find_by(volume, method, given, shift)
    mask, about_pieces = _keep_largest(mask, method)
    if not mask.any():
        raise errors.UserError(f"'{volume.source}': brain mask '{method}' is empty")
    warnings += about_pieces
    size = float(mask.sum()) * volume.voxel_ml
    if not PLAUSIBLE_ML[0] <= size <= PLAUSIBLE_ML[1]:
        warnings.append(
            f"brain mask '{method}' measures {size:.0f} ml; {PLAUSIBLE_ML[0]:.0f} to "
            f"{PLAUSIBLE_ML[1]:.0f} are plausible"
        )
    return mask, warnings


def is_stripped(volume: volumes.Volume) -> bool:
    """Whether the skull was removed before: 0 all around no more than a brain."""
    # An ellipsoid fills 52 % of its tightest box, a head with its air nearly all of it.
    voxels = int(np.count_nonzero(volume.data))
    size = voxels * float(volume.voxel_ml)
    return _STRIPPED_ML[0] <= size <= _STRIPPED_ML[1] and voxels < 0.6 * volume.data.size


def _choose(volume: volumes.Volume, given: str) -> str:
    if given:
        return "given"
    return "nonzero" if is_stripped(volume) else "builtin"


def _find_by(volume, method: str, given: str, shift) -> np.ndarray:
    if method == "given":
        if not given:
            raise errors.UserError(
                f"'{volume.source}' has no brain mask file; accepted: a pattern 'brain_mask' in "
                "the cohort's table (prepare), --brain_mask_file (predict), or another --brain_mask"
            )
        return volumes.read_labels(given, volume) > 0
    if method == "nonzero":
        return volume.data != 0
    if method == "template":
        _, mask, grid = registration.template_brain()
        to_mni = registration.register(volume, "none", shift=shift)
        return to_mni.to_scan(mask, volume, order=0, grid=grid)
    if method == "builtin":
        return _run_builtin(volume)
    return brain_tools.run(method, volume)


def _run_builtin(volume: volumes.Volume) -> np.ndarray:
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

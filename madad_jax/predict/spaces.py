"""A result in the template's space too: scan, map and mask on its grid, and the way there.

The template is the one that scans are registered to: ICBM152 2009a, nonlinear and symmetric, 1 mm,
as nilearn ships it. By the names that the field gives to templates it is MNI152NLin2009aSym; 2009c
is another average on another grid. Names of files say the space, as in BIDS.
"""

import gzip
from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
from etils import epath
from jaxtyping import Float64

from madad_jax.core import atomic_files, errors, messages
from madad_jax.scans import geometry, itk

NATIVE, TEMPLATE = SPACES = ("native", "MNI152NLin2009aSym")
ANOMALY, MASK, SCAN = NAMES = tuple(
    f"space-{TEMPLATE}_{what}.nii.gz" for what in ("anomaly", "anomaly_mask", "scan")
)
TRANSFORM = f"from-scan_to-{TEMPLATE}_mode-image_xfm.tfm"
_FILES = (*NAMES, TRANSFORM)
_MNI_152 = 4  # NIfTI's code of a matrix whose millimetres are the template's.


def choose(space: str) -> bool:
    """Whether the template's space is wanted beside the scan's own, which always is.

    Args:
      space: `native` and MNI152NLin2009aSym, with commas between; "" is `native`.

    Raises:
      UserError: another space.
    """
    names = {name.strip() for name in space.split(",")} - {""}
    if names <= set(SPACES):
        return TEMPLATE in names
    raise errors.UserError(
        f"space: found '{messages.shorten(space)}', accepted: {', '.join(SPACES)} (scans are "
        "registered to this template and to no other)"
    )


def check_template(template: str) -> None:
    """Refuses scans that were registered to something else.

    Raises:
      UserError: `template` is the name of one of the user's own.
    """
    if template != geometry.ICBM152:
        raise errors.UserError(
            f"space: found {TEMPLATE} with a scan that is registered to '{template}'; accepted: "
            "native"
        )


def remove(folder: epath.Path) -> None:
    """Takes the files of an earlier run away."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)


def are_there(folder: epath.Path) -> bool:
    """Whether all files of the template's space are in a result's folder."""
    return all((folder / name).exists() for name in _FILES)


def write(result: Any, folder: epath.Path) -> None:
    """Writes scan, map and mask on the template's grid and the transform.

    Args:
      result: a `result.Result`.
      folder: of its other files.

    Raises:
      UserError: the folder cannot be written.
    """
    for name, content in make_files(result):
        atomic_files.write_bytes(folder / name, content)


def make_files(result: Any) -> Iterator[tuple[str, bytes]]:
    """(name of `SCAN`, `ANOMALY`, `MASK` or `TRANSFORM`, content) of a `result.Result`."""
    volume, transform = result.volume, result.transform
    check_template(transform.template)
    scan = transform.to_template(volume.data, volume)
    yield SCAN, _make_nifti(scan, (float(scan.min()), float(scan.max())))
    anomaly = transform.to_template(result.anomaly, volume)
    yield ANOMALY, _make_nifti(anomaly, (0.0, result.top))
    mask = transform.to_template(result.labels > 0, volume, order=0)
    yield MASK, _make_nifti(mask.astype(np.uint8), (0.0, 1.0))
    yield TRANSFORM, to_itk(transform.matrix).encode()


def to_itk(matrix: Float64[np.ndarray, "4 4"]) -> str:
    """The text of an ITK transform file that resamples the scan onto the template.

    Args:
      matrix: scan mm -> template mm (RAS+).
    """
    what = f"Resamples the scan onto {TEMPLATE}; points go from there to the scan (LPS, mm)."
    return itk.write_matrix(matrix, what)


def _make_nifti(array: np.ndarray, limits: tuple[float, float]) -> bytes:
    image = nib.Nifti1Image(array, geometry.TEMPLATE_GRID.affine)
    image.set_sform(geometry.TEMPLATE_GRID.affine, _MNI_152)
    image.set_qform(geometry.TEMPLATE_GRID.affine, _MNI_152)
    image.header.set_xyzt_units("mm")
    image.header["cal_min"] = limits[0]
    # Equal limits mean none to viewers.
    image.header["cal_max"] = limits[1] if limits[1] > limits[0] else limits[0] + 1.0
    # No time of writing: the same result gives the same bytes.
    return gzip.compress(image.to_bytes(), compresslevel=5, mtime=0)

"""The files of ICBM152 and of its regions that lie inside the nilearn wheel, read as they are.

ICBM152 nonlinear symmetric 2009a (Fonov et al. 2011) at 1 mm, without its skull, and the 160
regions of Dosenbach et al. 2010. nilearn's own readers load scikit-learn and pandas, which takes
longer than a registration: nibabel reads the same files, and nothing else of nilearn is loaded.
The arrays are those of `nilearn.datasets.load_mni152_*` at 1 mm, to the bit.
"""

import csv
import gzip
import importlib.resources
import io

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float32, Float64

from madad_jax.core import errors

_FOLDER = ("datasets", "data")
_NAMES = {
    part: f"mni_icbm152_{part}_tal_nlin_sym_09a_converted.nii.gz" for part in ("t1", "gm", "wm")
}
_BRAIN = 0.2  # Of the brightest voxel: what lies above is brain, as nilearn has it.


def read_t1() -> Float32[np.ndarray, "X Y Z"]:
    """T1 of the brain over [0, 1] on `geometry.TEMPLATE_GRID`.

    Raises:
      UserError: nilearn is not installed, or lacks the file.
    """
    return _read_unit("t1")


def read_grey_matter() -> Float32[np.ndarray, "X Y Z"]:
    """Probability of grey matter over [0, 1] on `geometry.TEMPLATE_GRID`.

    Raises:
      UserError: nilearn is not installed, or lacks the file.
    """
    return _read_unit("gm")


def read_white_matter() -> Float32[np.ndarray, "X Y Z"]:
    """Probability of white matter over [0, 1] on `geometry.TEMPLATE_GRID`.

    Raises:
      UserError: nilearn is not installed, or lacks the file.
    """
    return _read_unit("wm")


def find_brain(t1: Float32[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "X Y Z"]:
    """The template's brain mask, from what `read_t1` gives."""
    return t1 > _BRAIN


def read_regions() -> tuple[Float64[np.ndarray, "n 3"], tuple[str, ...]]:
    """(centres in ICBM152 mm, names) of Dosenbach's regions, sorted by network, name and y.

    Raises:
      UserError: nilearn is not installed, or lacks the file.
    """
    rows = list(csv.DictReader(io.StringIO(_read_bytes("dosenbach_2010.csv").decode())))
    rows.sort(key=lambda row: (row["network"], row["name"], int(row["y"])))
    centres = np.array([[float(row[axis]) for axis in "xyz"] for row in rows])
    return centres, tuple(row["name"] for row in rows)


def _read_unit(part: str) -> np.ndarray:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(_read_bytes(_NAMES[part])))
    data = np.asanyarray(image.dataobj).astype(np.float32)
    data /= data.max()
    return data


def _read_bytes(name: str) -> bytes:
    try:
        return importlib.resources.files("nilearn").joinpath(*_FOLDER, name).read_bytes()
    except (ModuleNotFoundError, OSError) as error:
        raise errors.UserError(
            f"ICBM152 is read from the package 'nilearn', whose file '{name}' is missing; "
            "accepted: nilearn>=0.14 (see requirements.txt)"
        ) from error

"""SimpleITK with one thread: sums over threads differ in their last bits from run to run, and
scans are prepared in several processes anyway."""

from typing import Any

import numpy as np
from jaxtyping import Float64

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's millimetres run to the left and the back.


def load():
    """The module `SimpleITK`, imported at the first call (a second)."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return sitk


def image(sitk, array: np.ndarray, spacing, origin=(0.0, 0.0, 0.0)):
    """An ITK image of an array [x, y, z]: axes are taken as they are, so RAS+ mm stay RAS+ mm."""
    # ITK takes arrays as [z, y, x].
    out = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    out.SetSpacing([float(mm) for mm in spacing])
    out.SetOrigin([float(mm) for mm in origin])
    return out


def read_matrix(transform: Any) -> Float64[np.ndarray, "4 4"]:
    """The matrix of an ITK transform with a centre, in the millimetres that it was made in."""
    turn, centre = np.array(transform.GetMatrix()).reshape(3, 3), np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - turn @ centre
    return matrix


def write_matrix(matrix: Float64[np.ndarray, "4 4"], what: str) -> str:
    """The text of an ITK transform file that resamples an image by `matrix`.

    ITK's transforms map points of the image that is made to points of the image that is there, in
    LPS: the file holds the inverse of `matrix`.

    Args:
      matrix: mm of the image that is there -> mm of the image that is made (RAS+).
      what: a line for people.
    """
    inverse = _LPS @ np.linalg.inv(matrix) @ _LPS
    numbers = [*inverse[:3, :3].ravel(), *inverse[:3, 3]]
    text = " ".join(repr(float(value)) for value in numbers)
    return "\n".join(
        [
            "#Insight Transform File V1.0",
            f"# {what}",
            "#Transform 0",
            "Transform: AffineTransform_double_3_3",
            f"Parameters: {text}",
            "FixedParameters: 0 0 0",
            "",
        ]
    )

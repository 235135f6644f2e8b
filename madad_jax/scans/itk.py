"""SimpleITK with one thread: sums over threads differ in their last bits from run to run, and
scans are prepared in several processes anyway."""

import numpy as np


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

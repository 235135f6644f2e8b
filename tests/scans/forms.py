"""Files whose header places the voxels twice, alike or not."""

import nibabel as nib
import numpy as np

SHAPE = (16, 18, 12)
DATA = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.int16)
AFFINE = np.array([[1.0, 0, 0, -7.5], [0, 1, 0, -8.5], [0, 0, 1.5, -8.25], [0, 0, 0, 1]])
CODES = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4), (1, 0), (0, 1), (3, 2), (0, 0)]


def turn(degrees):
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def mirrored(affine):
    """The same box with x stored the other way."""
    back = np.diag([-1.0, 1, 1, 1])
    back[0, 3] = SHAPE[0] - 1
    return affine @ back


OTHERS = {"same": AFFINE, "turned": turn(10) @ AFFINE, "mirrored": mirrored(AFFINE)}


def save(path, codes=(1, 1), qform=AFFINE, kind=nib.Nifti1Image, sform=AFFINE, unit="mm"):
    """Writes a file whose sform and qform are as they are given."""
    made = kind(DATA, AFFINE).to_bytes()
    size = kind.header_class.sizeof_hdr
    # By bytes: nibabel writes an image's affine over matrices whose code is 0.
    header = kind.header_class(made[:size], check=False)
    header.set_sform(sform, codes[0])
    header.set_qform(qform, codes[1])
    header.set_xyzt_units(unit, "sec")
    path.write_bytes(header.binaryblock + made[size:])
    return path

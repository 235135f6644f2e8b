"""Where a NIfTI file's voxels lie: its two matrices, their codes and their unit.

A header may place its voxels twice (sform and qform). The sform counts where its code is above 0,
as nibabel reads it; ITK takes the qform at some codes. What other readers may see matters for
masks that they wrote (`placements`) and for maps that they will read (`copy_geometry`).
"""

import math

import nibabel as nib
import numpy as np
from jaxtyping import Float64

from madad_jax.core import errors
from madad_jax.scans import nifti_file

# Finer and coarser than any head scan: what a matrix in another unit looks like.
_VOXEL_MM = (0.02, 25.0)
_UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}
_GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_AXES = {"L": "left and right", "P": "front and back", "I": "top and bottom"}

Matrix = Float64[np.ndarray, "4 4"]


def unit_mm(header: nib.Nifti1Header | None) -> float:
    """mm per unit of the header's numbers; a header that names none counts in mm."""
    return 1.0 if header is None else _UNITS.get(_unit_code(header), ("", 1.0))[1]


def read_affine(header: nib.Nifti1Header, shape: tuple[int, ...]) -> Matrix:
    """The voxel -> mm matrix that a header means."""
    found = _forms(header)
    # The sform first, as nibabel reads it: registrations are written there.
    for name in ("sform", "qform"):
        if name in found:
            return found[name]
    return _base(header, shape)


def find_oddities(header: nib.Nifti1Header, shape: tuple[int, ...]) -> tuple[str, ...]:
    """What a person should know of how a header places its voxels, one sentence each."""
    odd = []
    if _unit_code(header) in _UNITS:
        odd.append(f"the header counts in {_UNITS[_unit_code(header)][0]}; read as mm")
    found = _forms(header)
    if not found:
        odd.append(
            "the header states no orientation (sform and qform codes are 0 or unusable): left and "
            "right are a guess"
        )
    if len(found) == 2:
        sform, qform = found["sform"], found["qform"]
        # A qform cannot shear: it is held against the sform without its shear.
        distance = min(largest_distance(m, qform, shape) for m in (sform, *_upright(sform)))
        if distance > 0.5 * np.linalg.norm(sform[:3, :3], axis=0).min():
            guess = _disputed_axes(sform, qform)
            odd.append(
                f"sform and qform disagree by up to {distance:.1f} mm; the sform is used"
                + (f": {guess} are a guess" if guess else "")
            )
    return tuple(odd)


def placements(header: nib.Nifti1Header | None, shape: tuple[int, ...]) -> list[Matrix]:
    """Every voxel -> mm matrix by which some reader places an array with this header."""
    if header is None:
        return []
    found, base = _forms(header), _base(header, shape)
    if "sform" in found and np.isfinite(base).all():
        # ITK takes the directions alone from the sform, and the voxels' sides from `pixdim`.
        found["itk"] = found["sform"].copy()
        sides = np.linalg.norm(base[:3, :3], axis=0)
        found["itk"][:3, :3] *= sides / np.linalg.norm(found["sform"][:3, :3], axis=0)
    if found:
        return list(found.values())
    # SimpleITK: no directions in its own axes (left, back, up), the first voxel at 0.
    return [base, np.diag([*(np.linalg.norm(base[:3, :3], axis=0) * (-1, -1, 1)), 1.0])]


def copy_geometry(source: nib.Nifti1Header, target: nib.Nifti1Header) -> None:
    """Puts all that says where the voxels lie into another header, number for number."""
    for name in _GEOMETRY:
        target[name] = source[name]
    target["pixdim"][:4] = source["pixdim"][:4]


def copy_readable(source: nib.Nifti1Header, target: nib.Nifti1Header, affine: Matrix) -> None:
    """`copy_geometry` as nibabel mends it, where that gives `affine` (in the header's unit)."""
    trial = target.copy()
    copy_geometry(_mend(source), trial)
    try:
        same = np.allclose(trial.get_best_affine(), affine)
    except nifti_file.UNREADABLE:
        return
    if same:
        copy_geometry(trial, target)


def check(
    shape: tuple[int, ...], affine: Matrix, source: str, header: nib.Nifti1Header | None = None
) -> None:
    """Refuses an array that lies on no grid of a head scan.

    Raises:
      UserError: the matrix is singular, its voxels are too fine or too coarse, or the array has
        not three axes.
    """
    if not np.isfinite(affine).all() or not _usable(affine):
        unit = "" if header is None else _name_unit(header)
        raise errors.UserError(
            f"'{source}' has no usable grid: voxel -> mm matrix "
            f"{np.asarray(affine)[:3].round(6).tolist()}{unit}; accepted: independent axes with "
            f"voxels of {_VOXEL_MM[0]} to {_VOXEL_MM[1]} mm"
        )
    if len(shape) != 3:
        raise errors.UserError(f"'{source}' has {len(shape)} dimensions, accepted: 3")


def largest_distance(first: Matrix, second: Matrix, shape: tuple[int, ...]) -> float:
    """How far the two matrices put a corner of the box apart, mm, at most."""
    corners = np.array([[*c, 1.0] for c in np.ndindex(2, 2, 2)])
    corners[:, :3] *= np.array(shape[:3]) - 1
    with np.errstate(all="ignore"):  # Of damaged headers.
        return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


def _unit_code(header: nib.Nifti1Header) -> int:
    return int(header["xyzt_units"]) % 8  # The bits above are of time.


def _name_unit(header: nib.Nifti1Header) -> str:
    code = _unit_code(header)
    if code in _UNITS:
        return f" (from {_UNITS[code][0]}, the unit that the header names, xyzt_units)"
    return " (the header names no unit, xyzt_units)" if code != 2 else " (xyzt_units says mm)"


def _forms(header: nib.Nifti1Header) -> dict[str, Matrix]:
    """The usable ones of sform and qform whose code is above 0, in mm."""
    known = _mend(header)
    scale = np.diag([*[unit_mm(header)] * 3, 1.0])
    found = {}
    for name, get in (("sform", known.get_sform), ("qform", known.get_qform)):
        try:
            with np.errstate(all="ignore"):
                matrix = get(coded=True)[0]
                matrix = None if matrix is None else scale @ np.asarray(matrix, np.float64)
        except nifti_file.UNREADABLE:
            continue
        if matrix is not None and np.isfinite(matrix).all() and _usable(matrix):
            found[name] = matrix
    return found


def _base(header: nib.Nifti1Header, shape: tuple[int, ...]) -> Matrix:
    """Voxel sizes alone: x to the left, the middle of the box at 0."""
    with np.errstate(all="ignore"):
        zooms = np.asarray(_mend(header)["pixdim"][1:4], np.float64) * unit_mm(header)
        return nib.volumeutils.shape_zoom_affine(shape[:3], zooms, True)


def _mend(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """A copy without what nibabel mends when it reads a file: signs, zeros, unknown codes."""
    known = header.copy()
    sides = np.abs(known["pixdim"][1:4])
    known["pixdim"][1:4] = np.where(sides == 0, 1, sides)
    known["pixdim"][0] = -1 if known["pixdim"][0] == -1 else 1
    # Numbers of few digits: longer than 1 it is a half turn, to the format's own reader and ITK.
    quaternion = [float(known[f"quatern_{name}"]) for name in "bcd"]
    if (length := math.hypot(*quaternion)) > 1 and math.isfinite(length):
        for name, value in zip("bcd", quaternion, strict=True):
            known[f"quatern_{name}"] = value / length
    for name in ("sform_code", "qform_code"):
        if int(known[name]) not in nib.nifti1.xform_codes.value_set():
            known[name] = 0
    return known


def _usable(matrix: Matrix) -> bool:
    with np.errstate(all="ignore"):
        voxel = np.linalg.norm(matrix[:3, :3], axis=0)
        upright = abs(np.linalg.det(matrix[:3, :3])) > 1e-3 * voxel.prod()
    # A tolerance: headers store 32 bits, and units multiply.
    low, high = _VOXEL_MM[0] * (1 - 1e-5), _VOXEL_MM[1] * (1 + 1e-5)
    return bool(upright and voxel.min() >= low and voxel.max() <= high)


def _upright(matrix: Matrix) -> list[Matrix]:
    """The matrix without its shear: the nearest such, and the one that keeps the slices' plane."""
    voxel = np.linalg.norm(matrix[:3, :3], axis=0)
    left, _, right = np.linalg.svd(matrix[:3, :3] / voxel)
    plane, signs = np.linalg.qr(matrix[:3, :3] / voxel)
    made = []
    for axes in (left @ right, plane * np.sign(np.diag(signs))):
        made.append(matrix.copy())
        made[-1][:3, :3] = axes * voxel
    return made


def _disputed_axes(first: Matrix, second: Matrix) -> str:
    """Names of the body's axes on which two matrices differ about the direction; "" = none."""
    units = [m[:3, :3] / np.linalg.norm(m[:3, :3], axis=0) for m in (first, second)]
    codes = [nib.aff2axcodes(m) for m in (first, second)]
    disputed = set()
    for axis, pair in enumerate(zip(*codes, strict=True)):
        # Within 45 degrees it is a turn, whatever the nearest axes are called.
        if pair[0] != pair[1] and units[0][:, axis] @ units[1][:, axis] < np.sqrt(0.5):
            disputed |= {code.translate(str.maketrans("RAS", "LPI")) for code in pair}
    # Mirrored: if the brain is turned to fit, left and right are what remains exchanged.
    if np.linalg.det(units[0]) * np.linalg.det(units[1]) < 0:
        disputed.add("L")
    names = [name for code, name in _AXES.items() if code in disputed]
    return ", ".join(names)

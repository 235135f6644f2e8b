"""A scan's axial slices under a `Geometry`, and maps on slices back to the scan.

Each picture is sampled from the scan in one interpolation, through the registration, on pixels
of at most about a millimetre, and then averaged down to the pixels asked for, so that nothing is
aliased. Masks are sampled at the pixels' centres by nearest neighbour, which keeps a lesion's
volume on average.

Protocols (heights of ICBM152, from the levels that others state for their grids):

    s1      one slice at z = +17 mm: index 95 of MNI152NLin2009cSym at 1 mm, whose level 0 lies at
            z = -78 mm (THOR)
    s2      twenty slices, z = 0 .. 19 mm: levels 70 to 89 of BraTS' SRI24 grid, whose level 70
            lies near z = 0 (IterMask2); of a test subject the one with the largest lesion
    volume  every level

Templates of the user's own have levels of their own, and `volume` alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, UInt

from madad_jax.core import errors
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import lesion_resize, registration, volumes

PROTOCOLS = ("s1", "s2", "volume")
_S1_LEVEL = 17.0
_S2_LEVELS = (0.0, 19.0)
_VOLUME_LEVELS = (-72.0, 116.0)  # The template's own.
_FINEST_MM = 1.05  # Pixels above this are averages of finer samples.
_MOST_CUTS = 8  # Of a pixel into voxels: 64 samples of a label each.
_ASIDE_MM = 1e-3
_SLICE_MM = 1.0


@dataclasses.dataclass(frozen=True)
class PreparedSlice:
    """One slice of one modality, ready to be written.

    Attributes:
      id: the scan's id and the slice's number, `{scan}-slice_{number:03d}`; with the modality it
        is unique in the data set.
      subject: the person (may have several scans).
      scan: id of the scan: what stands before `-slice_` in file names.
      split: `train`, `val`, `test` or `test_healthy`.
      number: slice number, see `Geometry.level`.
      modality: `T1`, `T2`, `FLAIR`, ...
      image: over [0, 1], 0 outside the brain.
      brain_mask: inside the brain.
      segmentation: the lesion; None: not known.
    """

    id: str
    subject: str
    scan: str
    split: str
    number: int
    modality: str
    image: UInt[np.ndarray, "H W"]
    brain_mask: Bool[np.ndarray, "H W"]
    segmentation: Bool[np.ndarray, "H W"] | None


def numbers(protocol: str, geometry: geometry_lib.Geometry, step: int = 1) -> list[int]:
    """Slice numbers that a protocol looks at, rising.

    Args:
      protocol: one of `PROTOCOLS`.
      geometry: says which number lies at which height.
      step: every so many levels (`volume` alone).

    Raises:
      UserError: unknown protocol or step, or heights that are ICBM152's with another template.
    """
    if protocol not in PROTOCOLS:
        raise errors.UserError(f"protocol: found '{protocol}', accepted: {', '.join(PROTOCOLS)}")
    if step < 1:
        raise errors.UserError(f"slice_step: found {step}, accepted: 1 or more")
    if geometry.space != geometry_lib.ICBM152 and protocol != "volume":
        raise errors.UserError(
            f"protocol: found '{protocol}', whose levels are ICBM152's, with another template; "
            "accepted: volume"
        )
    if protocol == "s1":
        return [geometry.number(_S1_LEVEL)]
    low, high = _S2_LEVELS if protocol == "s2" else _VOLUME_LEVELS
    if geometry.last_level is not None:
        low, high = geometry.first_level, geometry.last_level
    first, last = geometry.number(low), geometry.number(high)
    return list(range(first, last + 1, step if protocol == "volume" else 1))


def sample_masks(
    mask: Bool[np.ndarray, "X Y Z"],
    volume: volumes.Volume,
    transform: registration.Transform,
    geometry: geometry_lib.Geometry,
    wanted: Sequence[int],
) -> Bool[np.ndarray, "k H W"]:
    """A mask on the scan's grid, seen on the slices `wanted` (rising by a constant step)."""
    return transform.to_template(mask, volume, order=0, grid=geometry.grid(wanted))


def sample_lesions(
    lesion: Bool[np.ndarray, "X Y Z"],
    volume: volumes.Volume,
    transform: registration.Transform,
    geometry: geometry_lib.Geometry,
    wanted: Sequence[int],
) -> Bool[np.ndarray, "k H W"]:
    """`sample_masks` of which no lesion on a slice vanishes where pixels are coarser than voxels.

    Seen on pixels no coarser than the scan's finest side, then made smaller by coverage
    (`lesion_resize.shrink`).
    """
    finest = min(_FINEST_MM, float(volume.voxel_mm.min()))
    # A tenth is rounding of headers: pixels of 1.00 mm for voxels of 0.94 mm miss none.
    cuts = min(_MOST_CUTS, max(1, int(np.ceil(0.9 * geometry.pixel / finest))))
    if cuts == 1 or not lesion.any():
        return sample_masks(lesion, volume, transform, geometry, wanted)
    grid = geometry.grid(wanted, subpixels=cuts)
    # A sample on the face of two voxels is either's: the same one, whatever the file's axes are.
    aside = grid.affine.copy()
    aside[:3, 3] += _ASIDE_MM
    grid = geometry_lib.VoxelGrid(grid.shape, aside)
    fine = transform.to_template(lesion, volume, order=0, grid=grid)
    out = np.zeros((len(wanted), geometry.image_size, geometry.image_size), bool)
    for k in np.flatnonzero(fine.any(axis=(1, 2))):
        out[k] = lesion_resize.shrink(fine[k], geometry.image_size)[0]
    return out


def sample_images(
    data: Float32[np.ndarray, "X Y Z"],
    volume: volumes.Volume,
    transform: registration.Transform,
    geometry: geometry_lib.Geometry,
    wanted: Sequence[int],
    *,
    order: int = 1,
) -> Float32[np.ndarray, "k H W"]:
    """Intensities on the scan's grid, seen on the slices `wanted` (rising by a constant step)."""
    # The mean of finer samples: a pixel of 3 mm that is sampled at its centre alone aliases.
    cuts = max(1, int(np.ceil(geometry.pixel / _FINEST_MM)))
    grid = geometry.grid(wanted, subpixels=cuts)
    fine = transform.to_template(data, volume, order=order, grid=grid, thickness=_SLICE_MM)
    side = geometry.image_size
    if cuts > 1:
        fine = fine.reshape(len(wanted), side, cuts, side, cuts).mean(axis=(2, 4))
    return fine.astype(np.float32, copy=False)


def to_scan(
    maps: np.ndarray,
    wanted: Sequence[int],
    volume: volumes.Volume,
    transform: registration.Transform,
    geometry: geometry_lib.Geometry,
    *,
    order: int = 1,
) -> np.ndarray:
    """Maps on slices [k, H, W] -> the scan's canonical grid [X, Y, Z]; 0 where no slice lies.

    Slices with gaps between them are spread half-way to their neighbours (`order=0`) or
    interpolated between them (`order=1`). The first and the last reach as far outwards, with their
    own values; a single slice counts for one level.

    Args:
      maps: one picture a slice.
      wanted: their numbers, rising by a constant step.
      volume: the scan.
      transform: scan mm -> ICBM152 mm.
      geometry: of the slices.
      order: 0 nearest neighbour (labels), 1 linear.
    """
    return transform.to_scan(maps, volume, order=order, grid=geometry.grid(wanted))


def to_scan_inside(
    arrays: Sequence[tuple[np.ndarray, int]],
    wanted: Sequence[int],
    volume: volumes.Volume,
    transform: registration.Transform,
    geometry: geometry_lib.Geometry,
    inside: Bool[np.ndarray, "X Y Z"],
) -> list[np.ndarray]:
    """`to_scan` of (maps, order) pairs at once, in the scan's voxels `inside`; 0 elsewhere."""
    return transform.to_scan_inside(arrays, volume, geometry.grid(wanted), inside)


def quantise(
    unit: Float32[np.ndarray, "*shape"], brain: Bool[np.ndarray, "*shape"], bits: int
) -> UInt[np.ndarray, "*shape"]:
    """[0, 1] -> 8- or 16-bit grey, 0 outside the brain.

    Raises:
      UserError: another number of bits.
    """
    if bits not in (8, 16):
        raise errors.UserError(f"bits: found {bits}, accepted: 8 or 16")
    kind = np.uint8 if bits == 8 else np.uint16
    top = np.float32(np.iinfo(kind).max)
    return np.where(brain, np.round(unit * top), 0).astype(kind)


def choose(
    split: str,
    protocol: str,
    brain_pixels: Sequence[int],
    lesion_pixels: Sequence[int] | None,
    *,
    unjudged: Sequence[bool] | None = None,
    healthy: bool,
    least_brain: int,
) -> dict[int, str]:
    """{position among the slices: split it goes to}; the others are left out.

    Lesions never reach train or val. Of a test subject whose lesion is known, slices without it
    count false alarms (`test_healthy`) under s1 and s2, and stay with the rest under `volume`,
    where the whole scan is judged.

    Args:
      split: of the subject: `train`, `val` or `test`.
      protocol: one of `PROTOCOLS`.
      brain_pixels: per slice.
      lesion_pixels: per slice; None: not known.
      unjudged: whether a slice shows what is neither lesion nor healthy: such slices are left out
        wherever health is claimed.
      healthy: known to have no lesion anywhere.
      least_brain: slices with fewer pixels of brain are left out, unless they bear a lesion.
    """
    lesions = np.zeros(len(brain_pixels), int) if lesion_pixels is None else lesion_pixels
    doubtful = np.zeros(len(brain_pixels), bool) if unjudged is None else unjudged
    largest = int(np.argmax(lesions)) if len(lesions) else -1
    chosen = {}
    for k, (brain, lesion) in enumerate(zip(brain_pixels, lesions, strict=True)):
        # A lesion counts however little brain its slice shows: to drop it would flatter every
        # method.
        if brain < least_brain and not (lesion and split == "test"):
            continue
        if split != "test":
            # A slice that was not judged does not count as healthy.
            if lesion or doubtful[k] or (lesion_pixels is None and not healthy):
                continue
            chosen[k] = split
        elif healthy:
            chosen[k] = "test_healthy"
        elif lesion_pixels is None or protocol == "volume":
            chosen[k] = "test"
        elif not lesion:
            if not doubtful[k]:
                chosen[k] = "test_healthy"
        elif protocol == "s1" or k == largest:
            chosen[k] = "test"
    return chosen

"""What a lesion has to know of a head: tissues, sides, and the scan's own brightness and noise.

Tissues come from the parcellation alone. Its numbers are those of the Neuromorphometrics protocol
with the white matter in lobes (81 to 88), as MALPEM writes them.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float32, Int
from scipy import ndimage

from madad_jax.core import errors

CSF = (1, 46)
VENTRICLES = (4, 11, 49, 50, 51, 52)
LATERAL = (51, 52)
WHITE = (44, 45, *range(81, 96))
CALLOSUM = 95
CEREBELLUM_WHITE = (40, 41)
CEREBELLUM_GREY = (38, 39, 71, 72, 73)
BRAINSTEM = (35,)
CORTEX = tuple(range(100, 208))
RIGHT, LEFT, BELOW = 1, 2, 3  # of `part`: the halves of the cerebrum, and what the tentorium covers
_MIDLINE_MM = 4.0  # labels whose middle is nearer to the midline belong to no side

Volume = Float32[np.ndarray, "X Y Z"]
Mask = Bool[np.ndarray, "X Y Z"]


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """A head, or a box of one, in RAS. Brightness is relative: white matter is 1 everywhere."""

    image: Volume
    labels: Int[np.ndarray, "X Y Z"]
    part: Int[np.ndarray, "X Y Z"]  # RIGHT, LEFT, BELOW in the brain, 0 outside
    depth_mm: Volume  # distance to what is not brain
    voxel_mm: tuple[float, float, float]
    grey: float  # brightness of the cortex
    csf: float
    noise: float  # standard deviation of the noise in white matter
    noise_width: float  # voxels: sigma of the Gaussian that gives white noise this noise's spectrum

    @property
    def contrast(self) -> float:
        """White minus grey."""
        return 1.0 - self.grey

    def of(self, numbers: Iterable[int]) -> Mask:
        """Where the parcellation has one of the numbers."""
        return np.isin(self.labels, list(numbers))

    def ml(self, mask: Mask) -> float:
        """Volume of a mask."""
        return float(mask.sum() * np.prod(self.voxel_mm) / 1000)

    def box(self, centre: tuple[int, ...], half_mm: float) -> tuple[slice, ...]:
        """Slices of the box around a voxel, cut at the grid's border."""
        ends = zip(centre, self.voxel_mm, self.image.shape, strict=True)
        reach = [(c, int(np.ceil(half_mm / side)), length) for c, side, length in ends]
        return tuple(slice(max(c - r, 0), min(c + r + 1, length)) for c, r, length in reach)

    def crop(self, box: tuple[slice, ...]) -> "Anatomy":
        """The same of a box."""
        cut = {name: getattr(self, name)[box] for name in ("image", "labels", "part", "depth_mm")}
        return dataclasses.replace(self, **cut)


def measure(
    data: Volume, labels: Int[np.ndarray, "X Y Z"], voxel_mm: tuple[float, float, float], name: str
) -> tuple[Anatomy, Volume]:
    """The anatomy of a head, and the brightness of its white matter at every place.

    Raises:
      UserError: the parcellation lacks white matter, cortex or lateral ventricles.
    """
    masks = {
        "white matter": np.isin(labels, WHITE),
        "cortex": np.isin(labels, CORTEX),
        "lateral ventricles": np.isin(labels, LATERAL),
    }
    for tissue, mask in masks.items():
        if not mask.any():
            raise errors.UserError(
                f"{name}: the parcellation has no {tissue}; the numbers of the Neuromorphometrics "
                "protocol are read (51 and 52 lateral ventricles, 81 to 95 white matter, 100 to "
                "207 cortex)"
            )
    white = _inner(masks["white matter"])
    level = white_level(data, white | _inner(np.isin(labels, CEREBELLUM_WHITE)), voxel_mm)
    image = (data / level).astype(np.float32)
    brain = labels > 0
    anatomy = Anatomy(
        image=image,
        labels=labels,
        part=find_parts(labels, voxel_mm),
        depth_mm=ndimage.distance_transform_edt(brain, sampling=voxel_mm).astype(np.float32),
        voxel_mm=voxel_mm,
        grey=float(np.median(image[masks["cortex"]])),
        # A quarter, not the median: plexus and mixed voxels brighten thin ventricles.
        csf=float(np.percentile(image[_inner(masks["lateral ventricles"])], 25)),
        noise=0.0,
        noise_width=0.0,
    )
    noise, width = measure_noise(image, white)
    return dataclasses.replace(anatomy, noise=noise, noise_width=width), level


def _inner(mask: Mask) -> Mask:
    """Without the border, whose voxels are of two tissues; as it was where nothing is left."""
    inner = ndimage.binary_erosion(mask)
    return inner if inner.any() else mask


def white_level(data: Volume, white: Mask, voxel_mm: tuple[float, float, float]) -> Volume:
    """Brightness of white matter, carried smoothly to every voxel: the coil's shading."""
    total, weight = np.zeros(data.shape, np.float32), np.full(data.shape, 1e-20, np.float32)
    # The wide Gaussian decides only where the narrow one has seen no white matter.
    for millimetres, trust in ((15.0, 1.0), (60.0, 1e-3)):
        sigma = [millimetres / side for side in voxel_mm]
        total += trust * ndimage.gaussian_filter(np.where(white, data, 0).astype("f4"), sigma)
        weight += trust * ndimage.gaussian_filter(white.astype(np.float32), sigma)
    return np.maximum(total / weight, 0.2 * float(data[white].mean()))


def measure_noise(image: Volume, white: Mask) -> tuple[float, float]:
    """Standard deviation of fine structure in white matter, and its width in voxels.

    A Gaussian of width s gives neighbours of white noise the correlation exp(-1 / (4 s^2)).
    """
    inside = white.astype(np.float32)
    total = ndimage.gaussian_filter(image * inside, 2.0)
    fine = image - total / np.maximum(ndimage.gaussian_filter(inside, 2.0), 1e-6)
    spread = float(fine[white].std())
    pairs = []
    for axis in range(3):
        both = white & np.roll(white, -1, axis)
        pairs.append(float((fine * np.roll(fine, -1, axis))[both].mean()))
    alike = np.clip(np.mean(pairs) / max(spread**2, 1e-12), 0.02, 0.8)
    return spread, float(0.5 / np.sqrt(-np.log(alike)))


def find_parts(
    labels: Int[np.ndarray, "X Y Z"], voxel_mm: tuple[float, float, float]
) -> Int[np.ndarray, "X Y Z"]:
    """RIGHT, LEFT or BELOW of every voxel of the brain.

    A label lies on the side of its middle; CSF and labels of the midline follow the nearest one.
    """
    middle = float(np.mean(np.nonzero(labels)[0]))
    part = np.zeros(int(labels.max()) + 1, np.uint8)
    for number in (*WHITE, *CORTEX, *LATERAL, *range(23, 33), *range(47, 61)):
        if number < len(part) and (where := np.nonzero(labels == number)[0]).size:
            offset = (where.mean() - middle) * voxel_mm[0]
            if abs(offset) > _MIDLINE_MM:
                part[number] = RIGHT if offset > 0 else LEFT
    for number in (*CEREBELLUM_WHITE, *CEREBELLUM_GREY, *BRAINSTEM):
        if number < len(part):
            part[number] = BELOW
    known = part[labels]
    nearest = ndimage.distance_transform_edt(
        known == 0, sampling=voxel_mm, return_distances=False, return_indices=True
    )
    return np.where(labels > 0, known[tuple(nearest)], 0).astype(np.uint8)

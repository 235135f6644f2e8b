"""How a head is turned: rotations tried all around before the registration climbs from the best.

Gradient ascent finds the right optimum from within some 30 degrees alone. Here every pose is
looked at on 8 mm voxels: rotations evenly over all of them (a super-Fibonacci spiral, Alexa 2022),
the brain's centre on the template's, by mutual information; the best few are then refined in all
six parameters. Nothing is drawn at random.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float64
from scipy import ndimage

from madad_jax.scans import geometry as geometry_lib

_ROTATIONS = 720  # Any rotation is within about 25 degrees of one of them.
_KEPT = 8  # Poses that are refined.
_APART = 20.0  # Degrees between them.
_BINS = 16
_STEPS = ((10.0, 6.0), (5.0, 3.0), (2.5, 1.5))  # Degrees and mm of the refinement.
_TRIES = 6  # Moves at each step.
_RIVAL = 25.0  # Degrees; what is nearer climbs to the same optimum.
_BLOCK = 64  # Poses looked at together: a few megabytes.


@dataclasses.dataclass(frozen=True)
class Pose:
    """A rigid map: point of the template -> `rotation` (point - `centre`) + `place` in the scan.

    Attributes:
      rotation: template's axes -> scan's axes.
      centre: of the template's brain, mm.
      place: where that centre lies in the scan, mm.
      score: mutual information with the template, nats.
    """

    rotation: Float64[np.ndarray, "3 3"]
    centre: Float64[np.ndarray, " 3"]
    place: Float64[np.ndarray, " 3"]
    score: float

    @property
    def angle(self) -> float:
        """Degrees by which the head is turned against the template."""
        return _angle(self.rotation, np.eye(3))


def find(
    metric: "Metric",
    fixed_brain: np.ndarray,
    fixed_grid: geometry_lib.VoxelGrid,
    moving_brain: np.ndarray,
    grid: geometry_lib.VoxelGrid,
) -> list[Pose]:
    """The poses in which scan and template agree best, best first.

    Args:
      metric: of the two.
      fixed_brain: mask of the template on `fixed_grid`.
      fixed_grid: of the template.
      moving_brain: mask of the scan on `grid`, or shares of it.
      grid: of the scan.
    """
    centre = _middle(fixed_brain, fixed_grid)
    rotations = np.concatenate([np.eye(3)[None], _all_around(_ROTATIONS)])
    places = np.repeat(_middle(moving_brain, grid)[None], len(rotations), 0)
    scores = metric(rotations, places, centre)
    chosen: list[int] = [0]  # The scan as it lies, whatever its score.
    for k in np.argsort(-scores, kind="stable"):
        if len(chosen) == _KEPT:
            break
        if all(_angle(rotations[k], rotations[j]) >= _APART for j in chosen):
            chosen.append(int(k))
    refined = _refine(metric, rotations[chosen], places[chosen], scores[chosen], centre)
    return sorted(refined, key=lambda pose: -pose.score)


def best_scores(poses: list[Pose], to_scan: Float64[np.ndarray, "4 4"]) -> tuple[float, float]:
    """The best scores of poses turned by less and by more than 25 degrees from a map.

    Args:
      poses: as `find` gives them.
      to_scan: template mm -> scan mm.

    Returns:
      -inf for the first and nan for the second, where there is no such pose.
    """
    left, _, right = np.linalg.svd(to_scan[:3, :3])
    near = [_angle(pose.rotation, left @ right) <= _RIVAL for pose in poses]
    scores = [
        [pose.score for pose, is_near in zip(poses, near, strict=True) if is_near == wanted]
        for wanted in (True, False)
    ]
    return max(scores[0], default=-np.inf), max(scores[1], default=np.nan)


class Metric:
    """Mutual information of the template and the scan at many poses, on voxels of 8 mm.

    Args:
      fixed: the template's brain over [0, 1] on `fixed_grid`.
      gate: where it is looked at.
      fixed_grid: cubes of 2 mm along the axes.
      moving: the scan's brain over [0, 1] on `grid`.
      grid: cubes of 2 mm along the scanner's axes.
    """

    def __init__(
        self,
        fixed: np.ndarray,
        gate: np.ndarray,
        fixed_grid: geometry_lib.VoxelGrid,
        moving: np.ndarray,
        grid: geometry_lib.VoxelGrid,
    ):
        share = _coarsen(gate.astype(np.float32), 4)
        inside = share >= 0.5
        start = fixed_grid.affine[:3, 3] + 3.0  # The middle of four voxels of 2 mm.
        self._points = (np.argwhere(inside) * 8.0 + start).astype(np.float32)
        self._fixed = _bins(_coarsen(fixed, 4)[inside]) * _BINS
        # Smoothed as much as the template's cubes of 8 mm are.
        soft = ndimage.gaussian_filter(_coarsen(moving, 2), 0.8, mode="constant")
        self._moving = np.pad(_bins(soft), 1)  # What lies outside falls onto the rim.
        self._origin = (grid.affine[:3, 3] + 1.0).astype(np.float32)

    def measure(self, to_scan: Float64[np.ndarray, "4 4"]) -> float:
        """Nats of an affine map from template mm to scan mm."""
        matrix, zero = to_scan[None, :3, :3], np.zeros(3)
        return float(self(matrix, to_scan[None, :3, 3], zero)[0])

    def __call__(self, rotations: np.ndarray, places: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Nats [n] of `rotations` [n, 3, 3] about the template's `centre`, which comes to lie at
        `places` [n, 3] in the scan."""
        away = self._points - centre.astype(np.float32)
        parts = []
        for k in range(0, len(rotations), _BLOCK):
            turned = np.einsum("nij,pj->nip", rotations[k : k + _BLOCK].astype(np.float32), away)
            offset = (places[k : k + _BLOCK].astype(np.float32) - self._origin) / 4.0 + 1.5
            parts.append(self._information(turned / 4.0 + offset[:, :, None]))
        return np.concatenate(parts)

    def _information(self, at) -> np.ndarray:
        shape = self._moving.shape
        index = np.zeros((at.shape[0], at.shape[2]), np.int32)
        for axis in range(3):
            # Truncation is rounding here: half a voxel was added.
            index *= shape[axis]
            index += np.clip(at[:, axis], 0, shape[axis] - 1).astype(np.int32)
        pairs = self._moving.ravel()[index] + self._fixed
        pairs += np.arange(len(at), dtype=np.int32)[:, None] * _BINS**2
        counts = np.bincount(pairs.ravel(), minlength=len(at) * _BINS**2)
        joint = counts.reshape(-1, _BINS, _BINS) / at.shape[2]
        return (
            _entropy(joint.sum(1)) + _entropy(joint.sum(2)) - _entropy(joint.reshape(len(at), -1))
        )


def _refine(metric: Metric, rotations, places, scores, centre) -> list[Pose]:
    """Each pose moved along its six parameters while that raises the score."""
    for degrees, mm in _STEPS:
        turns = np.concatenate([_turns(degrees), np.repeat(np.eye(3)[None], 6, 0)])
        moves = np.concatenate([np.zeros((6, 3)), mm * np.eye(3), -mm * np.eye(3)])
        for _ in range(_TRIES):
            tried = np.einsum("mij,njk->nmik", turns, rotations)
            tried_places = places[:, None] + moves
            found = metric(tried.reshape(-1, 3, 3), tried_places.reshape(-1, 3), centre)
            found = found.reshape(len(rotations), -1)
            best, rows = found.argmax(1), np.arange(len(rotations))
            better = found[rows, best] > scores
            if not better.any():
                break
            rotations = np.where(better[:, None, None], tried[rows, best], rotations)
            places = np.where(better[:, None], tried_places[rows, best], places)
            scores = np.where(better, found[rows, best], scores)
    return [Pose(r, centre, p, float(s)) for r, p, s in zip(rotations, places, scores, strict=True)]


@functools.lru_cache(maxsize=2)
def _all_around(count: int) -> np.ndarray:
    """Rotations [count, 3, 3] spread evenly over all."""
    s = np.arange(count) + 0.5
    small, large = np.sqrt(s / count), np.sqrt(1.0 - s / count)
    a, b = 2 * np.pi * s / np.sqrt(2.0), 2 * np.pi * s / 1.533751168755204288118041
    x, y, z, w = small * np.sin(a), small * np.cos(a), large * np.sin(b), large * np.cos(b)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def _turns(degrees: float) -> np.ndarray:
    """Rotations [6, 3, 3] about the three axes, both ways."""
    found = []
    for axis in range(3):
        for angle in (np.deg2rad(degrees), -np.deg2rad(degrees)):
            matrix = np.eye(3)
            i, j = (axis + 1) % 3, (axis + 2) % 3
            matrix[i, i] = matrix[j, j] = np.cos(angle)
            matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
            found.append(matrix)
    return np.stack(found)


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    cosine = (np.trace(first.T @ second) - 1.0) / 2.0
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _coarsen(array: np.ndarray, by: int) -> np.ndarray:
    """Means of `by`^3 voxels; what is left over at the end counts as 0."""
    array = np.pad(array, [(0, -n % by) for n in array.shape])
    x, y, z = (n // by for n in array.shape)
    return array.reshape(x, by, y, by, z, by).mean((1, 3, 5))


def _bins(values: np.ndarray) -> np.ndarray:
    return np.clip(values * _BINS, 0, _BINS - 1).astype(np.int32)


def _middle(mask: np.ndarray, grid: geometry_lib.VoxelGrid) -> np.ndarray:
    """Centre of gravity, mm."""
    return grid.affine[:3, :3] @ np.array(ndimage.center_of_mass(mask)) + grid.affine[:3, 3]


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Nats of distributions along the last axis."""
    return -(shares * np.log(np.maximum(shares, 1e-12))).sum(-1)

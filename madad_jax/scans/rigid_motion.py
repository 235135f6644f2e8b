"""Rigid motions of space as 4 x 4 matrices: halves, inverses, middles, distances.

The half of a motion is its square root: done twice it is the whole. Visits are compared halfway,
so that both scans are interpolated once and alike, and neither visit's grid is the yardstick.
"""

import numpy as np
from jaxtyping import Float64
from scipy.spatial import transform as spatial

Motion = Float64[np.ndarray, "4 4"]


def halve(motion: Motion) -> Motion:
    """The motion that, done twice, is `motion`: half the angle about the same screw axis.

    With R = S S and t = S u + u, u = (S + 1)^-1 t. S + 1 is invertible, as S turns by at most 90
    degrees. Of a half turn, whose axis has no sign, one of the two roots.
    """
    turn = spatial.Rotation.from_matrix(motion[:3, :3]).as_rotvec()
    half = np.eye(4)
    half[:3, :3] = spatial.Rotation.from_rotvec(0.5 * turn).as_matrix()
    half[:3, 3] = np.linalg.solve(half[:3, :3] + np.eye(3), motion[:3, 3])
    return half


def invert(motion: Motion) -> Motion:
    """The motion back; exact for rotations, where a general inverse rounds."""
    back = np.eye(4)
    back[:3, :3] = motion[:3, :3].T
    back[:3, 3] = -motion[:3, :3].T @ motion[:3, 3]
    return back


def find_middle(one: Motion, other: Motion) -> Motion:
    """The motion halfway from `one` to `other`; the same, in reverse, from their inverses."""
    return one @ halve(invert(one) @ other)


def measure_angle(motion: Motion) -> float:
    """Degrees by which a motion turns."""
    turn = spatial.Rotation.from_matrix(motion[:3, :3])
    return float(np.degrees(turn.magnitude()))


def move(motion: Motion, points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """Points, mm, where the motion brings them."""
    return points @ motion[:3, :3].T + motion[:3, 3]


def measure_distance(one: Motion, other: Motion, points: Float64[np.ndarray, "n 3"]) -> float:
    """Mean distance, mm, between where two motions bring the points."""
    return float(np.linalg.norm(move(one, points) - move(other, points), axis=1).mean())

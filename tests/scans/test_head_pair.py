"""Two scans of one drawn head: the motion between them, its half, and whose head it is."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from madad_jax.core import errors
from madad_jax.scans import head_pair, itk, resample, rigid_motion
from tests.scans.drawn_head import draw_head


def _motion(degrees, axis=(0.4, -0.5, 0.77), shift=(3.0, -7.0, 5.5)):
    motion = np.eye(4)
    turn = np.radians(degrees) * np.array(axis) / np.linalg.norm(axis)
    motion[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
    motion[:3, 3] = shift
    return motion


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 9.0, 90.0, 179.0])
def test_both_halves_are_the_whole(degrees):
    whole = _motion(degrees)
    half = rigid_motion.halve(whole)
    np.testing.assert_allclose(half @ half, whole, atol=1e-10)
    assert rigid_motion.measure_angle(half) == pytest.approx(degrees / 2, abs=1e-6)
    # The visits exchanged meet in the same place.
    back = rigid_motion.halve(rigid_motion.invert(whole))
    np.testing.assert_allclose(rigid_motion.invert(back), half, atol=1e-10)


def test_a_shift_is_halved():
    half = rigid_motion.halve(_motion(0.0, shift=(4.0, -2.0, 1.0)))
    np.testing.assert_allclose(half[:3, 3], (2.0, -1.0, 0.5), atol=1e-12)


def test_the_middle_lies_between_and_turns_round():
    one, other = _motion(9.0), _motion(13.0, shift=(5.0, -7.0, 5.5))
    middle = rigid_motion.find_middle(one, other)
    points = np.random.default_rng(0).uniform(-80, 80, (50, 3))
    distances = [rigid_motion.measure_distance(middle, end, points) for end in (one, other)]
    assert distances[0] == pytest.approx(distances[1], rel=0.01) and distances[0] > 0.5
    ends = (rigid_motion.invert(other), rigid_motion.invert(one))
    back = rigid_motion.find_middle(*ends)
    np.testing.assert_allclose(rigid_motion.invert(back), middle, atol=1e-10)


def _points(head):
    return rigid_motion.move(head.volume.affine, np.argwhere(head.brain)[::50].astype(float))


@pytest.fixture(scope="module")
def pair():
    motion = _motion(11.0)
    first, second = draw_head(np.eye(4)), draw_head(motion)
    return first, second, motion, head_pair.register(first, second)


def test_a_motion_is_found_to_a_tenth_of_a_voxel(pair):
    first, _, motion, match = pair
    assert rigid_motion.measure_distance(match.motion, motion, _points(first)) < 0.2
    assert match.disagreement_mm < 0.3
    np.testing.assert_allclose(match.motion[:3, :3].T @ match.motion[:3, :3], np.eye(3), atol=1e-9)


def test_the_visits_exchanged_give_the_motion_back(pair):
    first, second, _, match = pair
    back = head_pair.register(second, first)
    np.testing.assert_allclose(back.motion @ match.motion, np.eye(4), atol=1e-9)
    one, other = rigid_motion.halve(match.motion), rigid_motion.halve(back.motion)
    grids = (
        head_pair.make_grid(first, second, one, 2.0),
        head_pair.make_grid(second, first, other, 2.0),
    )
    assert grids[0].shape == grids[1].shape
    np.testing.assert_allclose(grids[0].affine, grids[1].affine, atol=1e-9)


def _likeness(first, second, motion):
    half = rigid_motion.halve(motion)
    grid = head_pair.make_grid(first, second, half, 2.0)
    ways = (rigid_motion.invert(half), half)
    seen = [
        resample.resample(h.volume.data, h.grid, grid, way, order=1)
        for h, way in zip((first, second), ways, strict=True)
    ]
    brains = [
        resample.resample(h.brain, h.grid, grid, way, order=0)
        for h, way in zip((first, second), ways, strict=True)
    ]
    # The grid holds both brains whole.
    for brain, head in zip(brains, (first, second), strict=True):
        assert brain.sum() == pytest.approx(head.brain.sum(), rel=0.01)
    return head_pair.measure_likeness(*seen, brains[0] & brains[1], 2.0)


def test_folds_tell_whose_head_it_is(pair):
    first, second, motion, match = pair
    assert _likeness(first, second, match.motion) > 0.9
    # The same skull and template with other folds, laid exactly.
    assert _likeness(first, draw_head(motion, seed=1), motion) < 0.6
    # One head, 6 mm beside itself.
    beside = motion.copy()
    beside[:3, 3] += (6.0, 0.0, 0.0)
    assert _likeness(first, second, beside) < 0.5


def test_too_little_brain_is_said(pair):
    first = pair[0]
    little = np.zeros_like(first.brain)
    little[40:45, 40:45, 40:45] = True
    with pytest.raises(errors.UserError, match="ml of brain were scored; accepted: at least 50"):
        head_pair.register(head_pair.Head(first.volume, little), first)


def test_itk_reads_the_motion_back(tmp_path):
    sitk = itk.load()
    motion = _motion(33.0)
    path = tmp_path / "way.tfm"
    path.write_text(itk.write_matrix(motion, "A motion."))
    read = sitk.ReadTransform(str(path))
    flip = np.array([-1.0, -1.0, 1.0])
    for point in np.random.default_rng(0).uniform(-90, 90, (5, 3)):
        there = rigid_motion.move(motion, point[None])[0]
        np.testing.assert_allclose(
            np.array(read.TransformPoint(there * flip)) * flip, point, atol=1e-9
        )

import functools
import itertools

import numpy as np
import pytest
from scipy import ndimage

from madad_jax.data.cohort import anatomy, random_fields
from madad_jax.scans import template

_GRID = random_fields.Grid(40, 160.0, tuple(4.0 * k for k in range(12)))


@functools.cache
def _subject(seed):
    grid = random_fields.Grid(192, 208.0, (2.0, 18.0, 34.0))
    return anatomy.draw(np.random.default_rng(seed), template.load(), grid)


def test_exponential_of_a_constant_velocity_is_a_shift():
    velocity = np.zeros((3, *_GRID.shape), np.float32)
    velocity[1] = 3.0
    displacement, smallest = anatomy.exponential(velocity, _GRID)
    np.testing.assert_allclose(displacement, velocity, atol=1e-4)
    assert smallest == pytest.approx(1.0, abs=1e-4)


def test_exponential_inverts_with_the_sign():
    rng = np.random.default_rng(0)
    velocity = np.stack([3.0 * random_fields.smooth(rng, _GRID, 20.0) for _ in range(3)])
    forward, _ = anatomy.exponential(velocity, _GRID)
    backward, _ = anatomy.exponential(-velocity, _GRID)
    steps = np.array([_GRID.spacing, _GRID.pixel, _GRID.pixel], np.float32)[:, None, None, None]
    points = np.indices(_GRID.shape) + forward / steps
    rest = forward + np.stack([ndimage.map_coordinates(b, points, order=1) for b in backward])
    inner = (slice(None), slice(3, -3), slice(4, -4), slice(4, -4))
    assert np.abs(forward[inner]).max() > 3.0
    assert np.abs(rest[inner]).max() < 0.5


def test_jacobian_stays_positive_under_a_wild_velocity():
    rng = np.random.default_rng(0)
    velocity = np.stack([25.0 * random_fields.smooth(rng, _GRID, 8.0) for _ in range(3)])
    displacement, smallest = anatomy.exponential(velocity, _GRID)
    assert smallest > 0.1
    assert np.abs(displacement).max() > 2.0  # Damped, not stilled.


def test_subject_has_a_brain():
    subject = _subject(0)
    assert subject.min_jacobian > 0.1
    total = subject.fluid + subject.grey + subject.white
    np.testing.assert_allclose(total[subject.brain], 1.0, atol=1e-5)
    assert np.all(total[~subject.brain] == 0.0)
    area = subject.brain.sum((1, 2)) * subject.grid.pixel**2 / 100.0  # cm^2
    assert np.all((area > 70.0) & (area < 200.0))
    tissues = subject.fluid, subject.grey, subject.white
    fluid, grey, white = (t[subject.brain].mean() for t in tissues)
    assert 0.03 < fluid < 0.3 and 0.3 < grey < 0.65 and 0.25 < white < 0.6
    # Grey on the outside, white further in, fluid in the ventricles.
    rim = subject.brain & (subject.depth < 3.0) & (subject.fluid < 0.5)
    assert subject.grey[rim].mean() > 0.8
    core = (subject.depth > 18.0) & (subject.depth < 24.0) & (subject.ventricle > 8.0)
    assert subject.white[core].mean() > 3.0 * subject.white[rim].mean()
    assert subject.fluid[subject.ventricle < -1.0].mean() > 0.8


def test_a_subject_is_a_function_of_its_seed():
    again = anatomy.draw(np.random.default_rng(0), template.load(), _subject(0).grid)
    np.testing.assert_array_equal(again.white, _subject(0).white)


def test_people_differ():
    subjects = [_subject(seed) for seed in range(6)]
    ventricles = [float((s.fluid * (s.ventricle < 2.0))[1].sum()) for s in subjects]
    assert max(ventricles) > 1.5 * min(ventricles)
    areas = [s.brain[1].sum() for s in subjects]
    assert max(areas) > 1.08 * min(areas)
    # Cortical folds of two people agree little better than by chance.
    for first, second in itertools.pairwise(subjects):
        ribbon = first.brain & second.brain & (first.depth < 14.0) & (first.depth > 4.0)
        assert np.corrcoef(first.white[ribbon], second.white[ribbon])[0, 1] < 0.7

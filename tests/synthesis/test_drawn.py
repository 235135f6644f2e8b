"""Properties of anomalies drawn widely, on slices of a few pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.synthesis import drawn
from madad_jax.synthesis.draws import Draws

SIDE, COUNT = 24, 8
OPTIONS = drawn.Options(healthy=0.3, min_radius=0.08, max_radius=0.2)


def slices(count=COUNT, seed=0):
    """Noisy brains in [-1, 1], background -1; the first slice has no brain."""
    draw = np.random.default_rng(seed)
    brain = np.zeros((count, SIDE, SIDE), bool)
    brain[1:, 3:-3, 4:-4] = True
    smooth = np.add.outer(np.arange(SIDE), np.arange(SIDE)) / SIDE - 1.0
    image = np.clip(0.5 * smooth + draw.normal(0, 0.2, brain.shape), -0.95, 0.95)
    image = np.where(brain, image, -1.0).astype(np.float32)
    return jnp.asarray(image[..., None]), jnp.asarray(brain)


@pytest.fixture(scope="module")
def found():
    """Six draws of (slices with anomalies, truth), one after the other."""
    images, brain = slices()
    draw = jax.jit(lambda key: drawn.draw(key, images, brain, OPTIONS))
    out = [draw(jax.random.key(seed)) for seed in (0, 1, 2, 3, 4, 0)]
    return [tuple(np.asarray(part) for part in one) for one in out]


def test_only_brain_is_drawn_upon(found):
    images, brain = (np.asarray(part) for part in slices())
    for out, truth in found:
        assert not (truth & ~brain).any()
        np.testing.assert_array_equal(out[~brain], images[~brain])
        assert np.isfinite(out).all() and out.min() >= -1 and out.max() <= 1
        assert not truth[0].any()  # the slice without brain


def test_slices_without_an_anomaly_stay_to_the_bit(found):
    images = np.asarray(slices()[0])
    marked = 0
    for out, truth in found[:-1]:
        drawn_on = truth.any((1, 2))
        marked += drawn_on.sum()
        np.testing.assert_array_equal(out[~drawn_on], images[~drawn_on])
        for n in np.flatnonzero(drawn_on):
            assert np.abs(out - images)[n][truth[n]].mean() > 0.02
    assert 10 < marked < 33  # of 35 with brain; three in ten stay healthy


def test_a_key_decides(found):
    for again, first in zip(found[-1], found[0], strict=True):
        np.testing.assert_array_equal(again, first)
    assert (found[0][1] != found[1][1]).any()


def test_shapes_keep_to_their_radii():
    _, brain = slices(48)
    brain = brain.at[0].set(brain[1])

    @jax.jit
    def draw(key):
        fields = drawn.draw_bank(key, brain.shape)
        shape = drawn.draw_shape(Draws(key, len(brain), 60), brain, fields, OPTIONS)
        return shape.radius, jnp.hypot(shape.rows, shape.columns), shape.inside, shape.weight

    radius, distance, inside, weight = (np.asarray(v) for v in draw(jax.random.key(0)))
    assert radius.min() >= 0.08 * SIDE - 1e-4 and radius.max() <= 0.2 * SIDE + 1e-4
    assert radius.max() > 1.6 * radius.min()
    # Curves reach twice their radius at most, polygons and clouds about as far.
    assert (distance[inside] <= (2.3 * radius + 1.0 + 0 * distance)[inside]).all()
    assert inside.any((1, 2)).mean() > 0.9
    assert weight.min() >= 0 and weight.max() <= 1 + 1e-6 and not weight[~np.asarray(brain)].any()


def test_every_kind_fills_in_its_way():
    """One slice a kind: the number that chooses the kind is set."""
    count = len(drawn.KINDS)
    images, brain = slices(count + 1)
    x, brain = (images[1:, ..., 0] + 1) / 2, brain[1:]

    @jax.jit
    def fill(key):
        levels, fields = drawn.measure_levels(x, brain), drawn.draw_bank(key, x.shape)
        shape = drawn.draw_shape(Draws(key, count, 60), brain, fields, OPTIONS)
        draws = Draws(key, count, 60)
        kinds = (jnp.arange(count) + 0.5) / count
        draws._table = draws._table.at[0].set(kinds[:, None, None])
        return *drawn._fill(draws, x, brain, levels, fields, shape, OPTIONS), shape.inside

    filled, pushed, shapes = (np.asarray(v) for v in fill(jax.random.key(5)))
    change = [np.where(b, f - v, 0) for f, v, b in zip(filled, np.asarray(x), brain, strict=True)]
    by_kind = dict(zip(drawn.KINDS, change, strict=True))
    inside = np.asarray(brain[0])
    for (name, one), shape in zip(by_kind.items(), shapes, strict=True):
        assert shape.any() and np.abs(one[shape]).mean() > 0.01, name
    assert by_kind["shift"][inside].std() < 1e-5
    named = dict(zip(drawn.KINDS, filled, strict=True))
    spread = float(np.asarray(x)[1][inside].std())
    assert named["constant"][inside].std() < 0.7 * spread
    assert np.diff(named["blur"][inside.nonzero()]).std() < spread
    moved = dict(zip(drawn.KINDS, pushed, strict=True))
    assert moved.pop("mass").any() and not any(one.any() for one in moved.values())


def test_levels_are_those_of_the_brain():
    images, brain = slices()
    found = jax.jit(lambda x, b: vars(drawn.measure_levels(x, b)))(images[..., 0], brain)
    for n in range(1, COUNT):
        values = np.sort(np.asarray(images[n, ..., 0])[np.asarray(brain[n])])
        ranks = [values[int(q * (len(values) - 1))] for q in (0.25, 0.5, 0.8)]
        levels = [found[name][n, 0, 0] for name in ("low", "middle", "high")]
        np.testing.assert_allclose(levels, ranks, rtol=1e-6)
        np.testing.assert_allclose(found["deviation"][n, 0, 0], values.std(), rtol=1e-4)
    assert all(value[0, 0, 0] == 0 for value in found.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"healthy": 1.2}, r"drawn\.healthy: found 1\.2, accepted: 0 to 1"),
        ({"max_shapes": 0}, r"drawn\.max_shapes: found 0, at least 1"),
        ({"min_radius": 0.3}, r"drawn\.min_radius, max_radius: found 0\.3, 0\.2"),
        ({"max_radius": 0.5}, r"accepted: 0 < min <= max < 0\.5"),
        ({"kinds": ("shift", "hole")}, r"drawn\.kinds: found .*hole.*accepted: some of shift"),
        ({"kinds": ()}, r"drawn\.kinds: found \(\)"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(errors.UserError, match=said):
        drawn.Options(**options)

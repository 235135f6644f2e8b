import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.synthesis import shapes

KEY = jax.random.key(0)


def ellipse(count, side):
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    inside = (rows / (0.42 * side)) ** 2 + (columns / (0.33 * side)) ** 2 < 1
    return jnp.asarray(np.tile(inside, (count, 1, 1)))


def slices(count, side, seed=1):
    brain = ellipse(count, side)
    values = np.random.default_rng(seed).uniform(-0.9, 0.9, (count, side, side, 1))
    return jnp.where(brain[..., None], jnp.asarray(values, jnp.float32), -1.0), brain


def test_shapes_are_soft_blobs_inside_the_brain():
    brain = ellipse(64, 48)
    weight = np.asarray(shapes.shapes(KEY, brain, shapes.Options(min_radius=0.05)))
    assert weight.shape == (64, 48, 48)
    assert weight.min() >= 0 and weight.max() <= 1
    assert not weight[~np.asarray(brain)].any()
    assert (weight.max((1, 2)) > 0.9).all()
    assert ((weight > 0.05) & (weight < 0.95)).any((1, 2)).all(), "no soft rim"
    assert len({w.tobytes() for w in weight}) == 64


@pytest.mark.parametrize("radius", [0.05, 0.1])
def test_the_area_of_a_shape_is_about_that_of_a_disc_of_its_radius(radius):
    side = 64
    options = shapes.Options(min_radius=radius, max_radius=radius)
    weight = np.asarray(shapes.shapes(KEY, jnp.ones((128, side, side), bool), options))
    disc = np.pi * (radius * side) ** 2
    assert 0.75 < np.median((weight > 0.5).sum((1, 2))) / disc < 1.35
    # The ellipse stretches by at most e^0.5 and the rim rarely by more than a half.
    spread = [np.ptp(np.nonzero(w > 0.5), axis=1).max() for w in weight]
    assert max(spread) < 2 * radius * side * np.exp(0.5) * 1.75


def test_radii_are_spread_between_their_bounds():
    side = 64
    options = shapes.Options(min_radius=0.04, max_radius=0.16)
    weight = np.asarray(shapes.shapes(KEY, jnp.ones((256, side, side), bool), options))
    radius = np.sqrt((weight > 0.5).sum((1, 2)) / np.pi) / side
    # Log-uniform: half of them are below the geometric mean of the bounds, 0.08.
    assert 0.35 < (radius < 0.08).mean() < 0.7
    assert np.quantile(radius, 0.02) > 0.02 and np.quantile(radius, 0.98) < 0.22
    assert np.quantile(radius, 0.9) > 2 * np.quantile(radius, 0.1)


@pytest.mark.parametrize("most", [1, 3])
def test_a_slice_has_one_to_max_shapes(most):
    options = shapes.Options(max_shapes=most, min_radius=0.03, max_radius=0.03)
    brain = jnp.ones((96, 80, 80), bool)
    weight = np.asarray(shapes.several_shapes(KEY, brain, options))
    assert weight.min() >= 0 and weight.max() <= 1
    counts = np.array([ndimage.label(w > 0.5)[1] for w in weight])
    assert set(counts) == set(range(1, most + 1))
    # Shapes that touch count as one, so the first number is seen a little more often.
    assert (counts == 1).mean() < 0.6 or most == 1


def test_outside_the_brain_nothing_changes_and_values_stay_in_range():
    images, brain = slices(48, 32)
    # What lies outside is recognisable, so that a blend with it would show.
    images = jnp.where(brain[..., None], images, 0.123)
    out = np.asarray(shapes.corrupt(KEY, images, brain, shapes.Options()))
    images, inside = np.asarray(images), np.asarray(brain)
    np.testing.assert_array_equal(out[~inside], images[~inside])
    assert out.min() >= -1 and out.max() <= 1
    changed = (np.abs(out - images) > 1e-3).any((1, 2, 3))
    assert changed.mean() > 0.95
    assert (np.abs(out - images)[..., 0].max((1, 2)) > 0.1).mean() > 0.8


def test_a_slice_without_brain_stays_as_it_is():
    images, brain = slices(4, 32)
    brain = brain.at[1].set(False)
    out = shapes.corrupt(KEY, images, brain, shapes.Options())
    assert np.isfinite(np.asarray(out)).all()
    np.testing.assert_array_equal(out[1], images[1])


def test_the_key_decides_everything():
    images, brain = slices(8, 32)
    options = shapes.Options()
    first = shapes.corrupt(KEY, images, brain, options)
    np.testing.assert_array_equal(first, shapes.corrupt(KEY, images, brain, options))
    other = shapes.corrupt(jax.random.key(1), images, brain, options)
    assert (np.asarray(first) != np.asarray(other)).any((1, 2, 3)).all()


@pytest.fixture
def everywhere(monkeypatch):
    """(before, after, kind, slope) of 800 slices whose one shape is the whole slice.

    After it, `shift` is x + s, `constant` is p x + q with p < 1, `foreign` brings the mean of
    its neighbour and `warp` keeps the mean but is no linear function of x.
    """
    monkeypatch.setattr(shapes, "several_shapes", lambda key, brain, _: 1.0 * brain)
    draw = np.random.default_rng(0)
    level = np.where(np.arange(800) % 2, 0.1, -0.1)[:, None, None, None]
    images = (level + draw.uniform(-0.05, 0.05, (800, 20, 20, 1))).astype(np.float32)
    brain = jnp.ones(images.shape[:3], bool)
    out = shapes.corrupt(KEY, jnp.asarray(images), brain, shapes.Options())
    x, y = images.reshape(800, -1), np.asarray(out).reshape(800, -1)
    dx, dy = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    slope = (dx * dy).sum(1) / (dx * dx).sum(1)
    linear = np.abs(dy - slope[:, None] * dx).max(1) < 1e-4
    moved = np.abs(y.mean(1) - x.mean(1)) > 0.03
    kind = np.select(
        [linear & (slope > 0.99), linear, moved], ["shift", "constant", "foreign"], "warp"
    )
    return x, y, kind, slope


def test_all_four_kinds_occur_equally_often(everywhere):
    _, _, kind, _ = everywhere
    names, counts = np.unique(kind, return_counts=True)
    assert set(names) == {"shift", "constant", "foreign", "warp"}
    assert np.abs(counts - 200).max() < 5 * np.sqrt(800 * 0.25 * 0.75)


def test_the_sign_of_a_shift_says_nothing_about_its_amount(everywhere):
    """Both once came from one key: all brightening was weak and all darkening strong."""
    x, y, kind, _ = everywhere
    shift = (y - x).mean(1)[kind == "shift"] / 0.8
    assert 0.39 < np.abs(shift).min() < 0.5 and 0.9 < np.abs(shift).max() < 1.01
    assert 0.35 < (shift > 0).mean() < 0.65
    brighter, darker = shift[shift > 0], -shift[shift < 0]
    assert abs(brighter.mean() - darker.mean()) < 0.1
    for amounts in (brighter, darker):
        assert amounts.min() < 0.5 and amounts.max() > 0.9


def test_a_constant_blends_towards_one_grey_value(everywhere):
    x, y, kind, slope = everywhere
    of = kind == "constant"
    amount = 1 - slope[of]
    assert amount.min() > 0.39 and amount.max() < 1.01 and np.ptp(amount) > 0.4
    grey = (y.mean(1)[of] - slope[of] * x.mean(1)[of]) / amount
    assert grey.min() > -0.81 and grey.max() < 0.91 and np.ptp(grey) > 1.2


def test_a_warp_only_moves_what_is_there(everywhere):
    x, y, kind, _ = everywhere
    of = kind == "warp"
    assert (y[of].min(1) >= x[of].min(1) - 1e-6).all()
    assert (y[of].max(1) <= x[of].max(1) + 1e-6).all()


def test_changed_cells_are_those_whose_mean_absolute_change_is_above_the_limit():
    images = jnp.zeros((2, 8, 12, 1))
    corrupted = np.zeros((2, 8, 12, 1), np.float32)
    corrupted[0, 1, 2] = 1.0  # cell (0, 0): 1/16 = 0.0625
    corrupted[0, 2, 5] = 0.9  # cell (0, 1): 0.05625
    corrupted[0, 4, 8:10, 0] = 0.5, -0.5  # cell (1, 2): signs do not cancel
    corrupted[1, 7, 11] = -1.5  # cell (1, 2) of the other slice
    out = shapes.changed_cells(images, jnp.asarray(corrupted), (2, 3), 0.06)
    expected = np.zeros((2, 2, 3))
    expected[0, 0, 0] = expected[0, 1, 2] = expected[1, 1, 2] = 1
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": -0.1}, r"synthesis.share: found -0.1, accepted: 0 to 1"),
        ({"share": 1.1}, r"synthesis.share: found 1.1"),
        ({"max_shapes": 0}, r"synthesis.max_shapes: found 0, at least 1"),
        ({"min_radius": 0.0}, r"synthesis.min_radius, max_radius: found 0.0"),
        ({"min_radius": 0.2, "max_radius": 0.1}, r"found 0.2, 0.1; accepted: 0 < min <= max"),
        ({"max_radius": 0.5}, r"synthesis.min_radius, max_radius: found 0.02, 0.5"),
        ({"min_change": -0.1}, r"synthesis.min_change: found -0.1, accepted: 0 to below 2"),
        ({"min_change": 2.0}, r"synthesis.min_change: found 2.0"),
    ],
)
def test_bad_options_name_the_key(options, message):
    with pytest.raises(errors.UserError, match=message):
        shapes.Options(**options)

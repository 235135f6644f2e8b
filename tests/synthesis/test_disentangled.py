"""Disyre's anomalies against the published formulas, solved for what was drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.synthesis import disentangled, shapes
from madad_jax.synthesis.draws import Draws
from tests.synthesis import test_shapes

KEY = jax.random.key(0)
OPTIONS = disentangled.Options(box=24, sides=(5, 16), blur=1.5)
DRAW = jax.jit(disentangled.draw, static_argnums=3)


def boxes(count=6, n=24, seed=0):
    """(x, x', s): intensities in [0, 1] and soft shapes."""
    draw = np.random.default_rng(seed)
    x, foreign = draw.uniform(0.2, 0.6, (2, count, n, n))
    s = np.zeros((count, n, n))
    s[:, 6:17, 5:15] = 1.0
    s = ndimage.gaussian_filter(s, (0, 1, 1))
    return [jnp.asarray(v, jnp.float32) for v in (x, foreign, np.where(s > 1e-4, s, 0))]


@pytest.mark.parametrize("texture", disentangled.TEXTURES)
def test_texture_is_the_mixture_of_the_formula(texture):
    x, foreign, s = boxes()
    amount = jnp.linspace(0.1, 0.9, len(x))[:, None, None]
    y, severity = jax.jit(disentangled.add_texture, static_argnums=4)(
        x, foreign, s, amount, texture
    )
    for i in range(len(x)):
        a, f, w = (np.asarray(v[i], np.float64) for v in (x, foreign, s))
        inside = w > 0
        low, high = f[inside].min(), f[inside].max()
        if texture == "minmax":
            f = (f - low) / (high - low + 1e-3) * (a[inside].max() - a[inside].min())
            f = f + a[inside].min()
        if texture == "mean":
            f = f - f[inside].mean() + a[inside].mean()
        f = np.clip(f, 0, 1)
        at = inside & (w > 0.5) & (np.abs(f - a) > 0.05)
        solved = (np.asarray(y[i]) - a)[at] / (w * (f - a))[at]
        np.testing.assert_allclose(solved, float(amount[i, 0, 0]), atol=1e-4)
        np.testing.assert_array_equal(np.asarray(y[i])[~inside], np.asarray(x[i])[~inside])
    np.testing.assert_allclose(severity, amount[:, 0, 0])


def test_texture_of_the_same_tissue_changes_nothing_and_has_no_severity():
    x, _, s = boxes()
    run = jax.jit(disentangled.add_texture, static_argnums=4)
    y, severity = run(x, x, s, jnp.full((len(x), 1, 1), 0.7), "plain")
    np.testing.assert_array_equal(y, x)
    assert not np.asarray(severity).any()
    y, severity = run(x, x, 0 * s, jnp.full((len(x), 1, 1), 0.7), "minmax")
    np.testing.assert_array_equal(y, x)
    assert not np.asarray(severity).any()


@pytest.mark.parametrize("size", [0.3, -0.3])
def test_bias_is_the_formula_and_clipped(size):
    y, _, s = boxes()
    chosen = y > 0.4
    out = jax.jit(disentangled.add_bias)(y, s, chosen, jnp.full((len(y), 1, 1), size))
    q = ndimage.gaussian_filter(np.asarray(chosen, np.float64), (0, 1, 1), mode="constant")
    expected = np.clip(np.asarray(y) + size * np.asarray(s) * q, 0, 1)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    outside = np.asarray(s) == 0
    np.testing.assert_array_equal(np.asarray(out)[outside], np.asarray(y)[outside])


def test_classes_are_chosen_as_often_as_they_are_large():
    """One class holds 576 pixels of a box of 24, and 1000 (24 / 64)^2 = 140.6 are added."""
    centres = jnp.asarray([[0.1, 0.5, 0.9]])
    y = jnp.full((1, 24, 24), 0.12)
    s = jnp.ones(y.shape)
    y = y.at[:, :, 12:].set(0.55)
    half = 288 / (576 + 140.625)

    def draw(key):
        chosen = disentangled.chosen_classes(key, y, s, centres)[0]
        return chosen[0, 0], chosen[0, -1]

    found = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4000))).T
    # Where none is chosen all are, the empty class too.
    none = (1 - half) ** 2
    np.testing.assert_allclose(found.mean(0), half + none, atol=0.03)
    both = (found[:, 0] & found[:, 1]).mean()
    np.testing.assert_allclose(both, half**2 + none, atol=0.03)


def test_shapes_have_the_sides_that_were_drawn():
    """Not blurred and not turned: pixels of rectangles are products of sides, discs are discs."""
    options = disentangled.Options(box=24, sides=(5, 16), blur=0.0, angle=0.0)
    draw = jax.jit(lambda k: disentangled.draw_shapes(k, Draws(k, 300, 20), options))
    found = np.asarray(draw(KEY)) > 0
    assert found.any((1, 2)).all()
    extents = np.stack([found.any(2).sum(1), found.any(1).sum(1)])
    full = found.sum((1, 2)) == extents.prod(0)
    assert 0.25 < full.mean() < 0.45  # a third are rectangles
    assert extents[:, full].min() == 5 and extents[:, full].max() == 16
    i = np.arange(24)
    discs = set()
    for d in range(5, 17):
        p = i - 12 + 0.5 * (d % 2 == 0)
        discs.add((p[:, None] ** 2 + p**2 < d * d / 4).tobytes())
    is_disc = np.array([f.tobytes() in discs for f in found])
    assert 0.25 < is_disc.mean() < 0.45
    assert 0.2 < (~is_disc & ~full).mean() < 0.45


def test_blur_is_scipys_and_a_deviation_of_0_leaves_the_shape():
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 24, 24)) > 0.6, jnp.float32)
    sigma = np.array([0.0, 0.8, 3.0])
    out = np.asarray(jax.jit(disentangled.blur)(x, jnp.asarray(sigma)[:, None, None]))
    np.testing.assert_array_equal(out[0], x[0])
    for i in (1, 2):
        # SciPy rounds the reach to whole pixels: here it is 4 deviations to the pixel.
        wanted = ndimage.gaussian_filter(np.asarray(x[i], np.float64), sigma[i], mode="constant")
        np.testing.assert_allclose(out[i], wanted, atol=2e-4)


@pytest.mark.parametrize("centres", [disentangled.CENTRES, ()])
def test_severity_is_0_exactly_where_nothing_changed(centres):
    images, brain = test_shapes.slices(24, 32)
    brain = brain.at[:4].set(False)
    images = jnp.where(brain[..., None], images, -1.0)
    options = disentangled.Options(box=16, sides=(4, 10), blur=1.0, centres=centres)
    out = DRAW(KEY, images, brain, options)
    changed = np.asarray(out.images != images)[..., 0]
    np.testing.assert_array_equal(changed.any((1, 2)), np.asarray(out.severity) > 0)
    assert changed[4:].any((1, 2)).mean() > 0.9 and not changed[:4].any()
    assert not changed[~np.asarray(brain)].any()
    assert np.asarray(out.severity).max() <= 1 and np.abs(out.images).max() <= 1
    rows, columns = changed.any(2), changed.any(1)
    for lines in (rows, columns):
        span = [np.ptp(np.flatnonzero(line)) for line in lines if line.any()]
        assert max(span) < 16


def test_severity_is_the_larger_of_both_changes():
    """Without a bias it is a_t; with one the same draws give at least that."""
    images, brain = test_shapes.slices(24, 32)
    first = DRAW(KEY, images, brain, OPTIONS)
    texture = DRAW(KEY, images, brain, disentangled.Options(24, (5, 16), blur=1.5, bias=False))
    bias = np.abs(first.images - texture.images).max((1, 2, 3)) / 2
    expected = np.maximum(texture.severity, bias)
    np.testing.assert_allclose(first.severity, expected, atol=1e-6)
    assert (bias > np.asarray(texture.severity)).any()


def test_squares_lie_around_pixels_of_the_mask_and_within_the_slice():
    mask = np.zeros((200, 20, 20), bool)
    mask[:, 9:11, 8:13] = True
    mask[100:] = False
    mask[100:, 0, 19] = True  # its square must be moved inside
    corner = np.asarray(disentangled.pick_corner(Draws(KEY, 200, 1), jnp.asarray(mask), 8))
    assert {tuple(c) for c in corner[:100]} <= {
        (r - 4, c - 4) for r in (9, 10) for c in range(8, 13)
    }
    assert len({tuple(c) for c in corner[:100]}) > 5
    assert {tuple(c) for c in corner[100:]} == {(0, 12)}
    cut = functools.partial(disentangled.cut, side=8)
    found = jax.jit(cut)(jnp.asarray(mask), jnp.asarray(corner))
    assert np.asarray(found).any((1, 2)).all()


def test_the_kind_is_an_option_of_the_synthesis():
    images, brain = test_shapes.slices(12, 32)
    options = shapes.Options(share=1.0, kind="disyre")
    out = np.asarray(jax.jit(shapes.corrupt, static_argnums=3)(KEY, images, brain, options))
    expected = DRAW(KEY, images, brain, disentangled.scaled(32)).images
    np.testing.assert_allclose(out, expected, atol=1e-6)
    made = disentangled.scaled(32)
    assert (made.box, made.sides, made.blur, made.centres) == (16, (2, 11), 1.25, ())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"texture": "silk"}, r"anomalies\.texture: found 'silk', accepted: minmax"),
        ({"sides": (10, 70)}, r"anomalies\.sides: found \(10, 70\), accepted"),
        ({"blur": -1.0}, r"anomalies\.blur, angle: found -1\.0"),
        ({"centres": (0.1, 1.2)}, r"anomalies\.centres: found \(0\.1, 1\.2\)"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(errors.UserError, match=said):
        disentangled.Options(**options)


def test_a_box_beyond_the_slice_is_named():
    images, brain = test_shapes.slices(2, 32)
    with pytest.raises(errors.UserError, match=r"anomalies\.box: found 64, .* 32 pixels"):
        disentangled.draw(KEY, images, brain, disentangled.Options())

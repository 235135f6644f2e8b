import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import cluster

from madad_jax.core import errors
from madad_jax.synthesis import dag, shapes
from tests.synthesis import test_shapes

KEY = jax.random.key(0)


def test_classes_are_those_of_k_means():
    rng = np.random.default_rng(0)
    levels = np.array([-0.8, -0.3, 0.1, 0.7])
    truth = rng.integers(0, 4, (2, 24, 24))
    images = levels[truth] + 0.05 * rng.standard_normal(truth.shape)
    brain = np.ones(truth.shape, bool)
    brain[:, :3] = False
    images[:, :3] = -1.0  # background, which must not count
    found = jax.jit(dag.intensity_classes, static_argnums=2)(
        jnp.asarray(images, jnp.float32)[..., None], jnp.asarray(brain), 4
    )
    for i in range(2):
        values = images[i][brain[i]][:, None]
        other = cluster.KMeans(4, init=levels[:, None], n_init=1).fit(values)
        np.testing.assert_array_equal(np.asarray(found[i])[brain[i]], other.labels_)


@pytest.mark.parametrize("seed", [0, 1])
def test_each_change_is_one_of_the_formulas(seed):
    """Patch, bias of one class, or both: solved for the amounts and held against the image."""
    images, brain = test_shapes.slices(24, 32)
    images = 0.4 * images  # far from the clip
    foreign = jnp.flip(images, 1)
    weight = jnp.zeros(brain.shape).at[:, 10:22, 10:20].set(1.0) * brain
    key = jax.random.key(seed)
    out = np.asarray(jax.jit(dag.corrupt)(key, images, brain, weight, foreign))[..., 0]
    x, f = np.asarray(images)[..., 0], np.asarray(foreign)[..., 0]
    classes = np.asarray(jax.jit(dag.intensity_classes)(images, brain))
    inside = np.asarray(weight) > 0
    np.testing.assert_array_equal(out[~inside], x[~inside])
    kinds = set()
    for i in range(len(x)):
        where = inside[i] & (np.abs(out[i]) < 0.999)
        design = [f[i][where] - x[i][where]]
        change = out[i][where] - x[i][where]
        fits = []
        for k in range(dag.CLASSES):
            member = (classes[i][where] == k).astype(float)
            solved = np.linalg.lstsq(np.stack([*design, member], 1), change, rcond=None)[0]
            error = np.abs(solved[0] * design[0] + solved[1] * member - change).max()
            fits.append((error, solved))
        error, (amount, bias) = min(fits, key=lambda fit: fit[0])
        assert error < 1e-4
        has_patch, has_bias = abs(amount) > 1e-3, abs(bias) > 1e-3
        assert not has_patch or 0.3 <= amount <= 1.0
        assert not has_bias or 0.2 <= abs(bias) <= 0.8
        kinds.add((has_patch, has_bias))
    assert kinds == {(True, False), (False, True), (True, True)}


def test_the_kind_is_an_option_of_the_synthesis():
    images, brain = test_shapes.slices(16, 32)
    options = shapes.Options(share=1.0, kind="dag", min_radius=0.08)
    draw = jax.jit(shapes.corrupt, static_argnums=3)
    out = np.asarray(draw(KEY, images, brain, options))
    changed = np.abs(out - np.asarray(images))[..., 0] > 1e-6
    assert changed.any((1, 2)).mean() > 0.9
    assert not changed[~np.asarray(brain)].any()
    assert out.min() >= -1 and out.max() <= 1


def test_unknown_kind_is_named():
    with pytest.raises(errors.UserError, match="kind: found 'art', accepted: generic, dag"):
        shapes.Options(kind="art")

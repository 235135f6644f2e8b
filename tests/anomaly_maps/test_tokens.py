"""Tokens, coreset and mixture against loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from madad_jax.anomaly_maps import coreset, stick_breaking, tokens
from madad_jax.core import errors


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_pooling_is_the_mean_of_neighbours_and_zeros():
    x = drawn(2, 4, 5, 3)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [
        [padded[:, r : r + 3, c : c + 3].sum((1, 2)) / 9 for c in range(5)] for r in range(4)
    ]
    expected = np.array(expected).transpose(2, 0, 1, 3)
    np.testing.assert_allclose(tokens.pool(jnp.asarray(x), 3), expected, atol=1e-6)
    np.testing.assert_array_equal(tokens.pool(jnp.asarray(x), 1), x)


def test_a_patch_counts_from_half_brain_on():
    brain = np.zeros((1, 8, 8), bool)
    brain[0, :4, :2] = True  # half of the first patch
    brain[0, :2, 4:] = True
    brain[0, 1, 7] = False  # less than half of the second
    brain[0, 4:, 4:] = True
    found = np.asarray(tokens.inside(jnp.asarray(brain), (2, 2)))[0]
    assert found.tolist() == [[True, False], [False, True]]
    # Thirds of 8 pixels: 2.67 a side, of which 1.33 are brain in the middle.
    brain = np.zeros((1, 8, 8), bool)
    brain[0, :, :4] = True
    found = np.asarray(tokens.inside(jnp.asarray(brain), (3, 3)))[0]
    assert found.tolist() == [[True, True, False]] * 3


@pytest.mark.parametrize("chunk", [3, 4, 1024])
def test_nearest_distance_against_all_pairs(chunk):
    x, bank = (tokens.unit(jnp.asarray(drawn(n, 6, seed=n))) for n in (7, 10))
    pairs = 0.5 * np.square(np.asarray(x)[:, None] - np.asarray(bank)[None]).sum(-1)
    found = tokens.nearest_distance(x, bank, chunk)
    np.testing.assert_allclose(found, pairs.min(1), atol=1e-6)
    np.testing.assert_allclose(tokens.nearest_distance(bank, bank, chunk), 0.0, atol=1e-6)


def test_the_coreset_takes_the_farthest_row_each_time():
    rows, key = drawn(60, 5), jax.random.key(3)
    found = coreset.greedy(rows, 20, key, projection=0)
    starts = jax.random.choice(jax.random.split(key)[1], 60, (10,), replace=False)
    between = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    distance, expected = between[np.asarray(starts)].mean(0), []
    for _ in range(20):
        expected.append(int(distance.argmax()))
        distance = np.minimum(distance, between[expected[-1]])
    assert found.tolist() == expected
    assert len(set(found.tolist())) == 20
    covered = between[found].min(0).max()
    assert covered < between[np.arange(20)].min(0).max()


def test_a_projection_keeps_clusters_apart():
    """Twelve tight groups of wide rows: twelve rows of the coreset, one of each."""
    centres = 10 * drawn(12, 300)
    rows = np.repeat(centres, 30, 0) + 0.01 * drawn(360, 300, seed=1)
    found = coreset.greedy(rows, 12, jax.random.key(0), projection=32)
    # The first row is farthest from the ten starts, and lies in a group as any other.
    assert len(set((found // 30).tolist())) == 12


def test_expected_log_weights_are_those_of_the_beta_sticks():
    number, alpha = np.array([5.0, 2.0, 0.5], np.float32), 1.5
    a, b = 1 + number[:2], alpha + np.array([2.5, 0.5])
    log_v = special.digamma(a) - special.digamma(a + b)
    log_rest = special.digamma(b) - special.digamma(a + b)
    expected = [log_v[0], log_rest[0] + log_v[1], log_rest.sum()]
    found, rest = stick_breaking.expected_log_weights(jnp.asarray(number), jnp.float32(alpha))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(rest, log_rest, rtol=1e-5)


def test_responsibilities_are_those_of_the_densities():
    x, means = drawn(9, 4), drawn(3, 4, seed=1)
    variance = np.random.default_rng(2).uniform(0.5, 2.0, (3, 4)).astype(np.float32)
    weights = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    square = np.square(x[:, None] - means[None]) / variance
    density = np.exp(weights - 0.5 * (square + np.log(variance)).sum(-1))
    found = stick_breaking.responsibilities(*map(jnp.asarray, (x, weights, means, variance)))
    np.testing.assert_allclose(found, density / density.sum(1, keepdims=True), atol=1e-5)


def test_one_batch_with_rate_one_is_an_em_step():
    """S = batch, so means and variances are the weighted ones of the batch."""
    rows, key = drawn(40, 3), jax.random.key(0)
    options = stick_breaking.Options(components=4, epochs=1, rate=1.0, batch=40)
    draw = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    first = rows[draw.choice(40, 4, replace=False)]
    variance = np.broadcast_to(rows.var(0) + 1e-6, first.shape)
    log_weights, _ = stick_breaking.expected_log_weights(jnp.full(4, 10.0), jnp.float32(1.0))
    r = np.asarray(
        stick_breaking.responsibilities(*map(jnp.asarray, (rows, log_weights, first, variance)))
    )
    means, shares = stick_breaking.fit(rows, options, key)
    np.testing.assert_allclose(means, r.T @ rows / r.sum(0)[:, None], atol=1e-4)
    np.testing.assert_allclose(shares, r.sum(0) / 40, atol=1e-5)


def test_a_mixture_finds_its_kinds_and_leaves_the_rest_empty():
    kinds = 3 * drawn(3, 8)
    rows = np.repeat(kinds, 200, 0) + 0.1 * drawn(600, 8, seed=1)
    options = stick_breaking.Options(components=12, epochs=40, batch=100)
    means, shares = stick_breaking.fit(rows, options, jax.random.key(1))
    held = means[shares > 0.02]
    assert np.linalg.norm(kinds[:, None] - held[None], axis=-1).min(1).max() < 0.1
    np.testing.assert_allclose(shares.sum(), 1.0, atol=1e-3)
    with pytest.raises(errors.UserError, match=r"components: found 12 with 5 tokens"):
        stick_breaking.fit(rows[:5], options, jax.random.key(1))
    with pytest.raises(errors.UserError, match=r"methods\.dpmm\.mixture: found .*'rate': 0"):
        stick_breaking.Options(rate=0.0)

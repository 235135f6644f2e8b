import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madad_jax.core import errors
from madad_jax.diffusion import masking
from tests.diffusion import fixtures

SIDES = (1, 2, 4, 8)
TRAIN = {"max_ratio": 0.4, "sides": SIDES, "probabilities": (0.2, 0.3, 0.3, 0.2)}

blocks = jax.jit(masking.blocks_from_scores, static_argnums=4)


def visible_from(seed, ratio, rows, columns, shape=(32, 32)):
    scores = jax.random.uniform(jax.random.key(seed), (len(ratio), shape[0] * shape[1]))
    sides = jnp.array([rows]), jnp.array([columns])
    return np.asarray(blocks(scores, jnp.asarray(ratio, jnp.float32), *sides, shape))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    ratio=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2),
    rows=st.sampled_from(SIDES),
    columns=st.sampled_from(SIDES),
    shape=st.sampled_from([(32, 32), (16, 24)]),
)
def test_visible_comes_in_whole_blocks_and_exact_numbers(seed, ratio, rows, columns, shape):
    visible = visible_from(seed, ratio, rows, columns, shape)
    tiles = visible.reshape(2, shape[0] // rows, rows, shape[1] // columns, columns)
    assert (tiles == tiles[:, :, :1, :, :1]).all()
    count = shape[0] // rows * (shape[1] // columns)
    for i in range(2):
        kept = int(np.floor(np.float32(count) * (np.float32(1) - np.float32(ratio[i]))))
        assert visible[i].sum() == kept * rows * columns


@pytest.mark.parametrize("rows", SIDES)
@pytest.mark.parametrize("columns", SIDES)
def test_number_of_clean_blocks_is_the_official_one(rows, columns):
    golden = fixtures.load("g_masks")
    size = 1024 // (rows * columns)
    clean = golden["count/clean"][golden["count/sizes"].tolist().index(size)]
    ratios = golden["count/ratios"]
    assert ratios.min() == 0 and ratios.max() >= 0.4
    visible = visible_from(0, ratios, rows, columns)
    np.testing.assert_array_equal(visible.sum((1, 2)) / (rows * columns), clean)


def official_scores(seed, count, batch):
    """Scores that rank the blocks as numpy's shuffle does in the official code."""
    rng, scores = np.random.RandomState(seed), np.full((batch, 1024), 1e9, np.float32)
    for row in scores:
        order = np.arange(count)
        rng.shuffle(order)
        row[order] = np.arange(count)
    return jnp.asarray(scores)


@pytest.mark.parametrize("key", [k for k in fixtures.load("g_masks") if "random_mask/seed" in k])
def test_the_official_permutations_give_the_official_masks(key):
    golden = fixtures.load("g_masks")
    seed, rows, columns = (int(n) for n in re.findall(r"\d+", key))
    ratios = jnp.asarray(golden["random_mask/ratios"], jnp.float32)
    # What shuffle leaves in the first places stays visible: block order[i] has rank i.
    scores = official_scores(seed, 1024 // (rows * columns), len(ratios))
    visible = blocks(scores, ratios, jnp.array([rows]), jnp.array([columns]), (32, 32))
    np.testing.assert_array_equal(visible, golden[key])
    outside = jnp.asarray(golden["reduced"][:, 0], jnp.float32)
    np.testing.assert_array_equal(
        masking.keep_outside(visible, outside),
        golden[key.replace("random_mask/", "random_mask_brain/")],
    )


@functools.cache
def many_draws():
    """Shares of noised cells of 400 batches of 8, as in training."""

    @jax.jit
    def one(key):
        return 1 - masking.draw_visible(key, (8, 32, 32), **TRAIN).mean((1, 2))

    return np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(0), 400)))


def test_share_of_noised_cells_is_the_official_one():
    golden = fixtures.load("g_masks")
    drawn = many_draws()
    # 3200 masks: the mean is known to 0.002.
    assert abs(golden["stats/train_noised_mean"] - 0.2075) < 1e-3
    assert abs(drawn.mean() - golden["stats/train_noised_mean"]) < 0.008
    assert abs(drawn.std() - golden["stats/train_noised_std"]) < 0.005


def block_sides(visible):
    """Widest block of which all of a mask's runs along the last axis are multiples."""
    edges = np.flatnonzero((visible[..., 1:] != visible[..., :-1]).any((0, 1))) + 1
    return next(s for s in (8, 4, 2, 1) if (edges % s == 0).all())


def test_sides_come_with_their_probabilities_independently_on_both_axes():
    def one(key):
        return masking.draw_visible(key, (8, 32, 32), **TRAIN | {"max_ratio": 0.5})

    found = np.zeros((4, 4))
    draws = jax.jit(lambda keys: jax.lax.map(one, keys))
    for visible in np.asarray(draws(jax.random.split(jax.random.key(5), 250))):
        rows = SIDES.index(block_sides(visible.swapaxes(1, 2)))
        found[rows, SIDES.index(block_sides(visible))] += 1
    p = np.array(TRAIN["probabilities"])
    expected = 250 * np.outer(p, p)
    # Chi-square with 15 degrees of freedom: 37.7 is the 0.1 % point.
    assert ((found - expected) ** 2 / expected).sum() < 37.7


def test_sides_are_shared_by_a_batch_or_drawn_for_each_sample():
    def sides(per, seed):
        visible = np.asarray(
            masking.draw_visible(jax.random.key(seed), (12, 32, 32), per=per, **TRAIN)
        )
        return {(block_sides(v[None]), block_sides(v.T[None])) for v in visible}

    # A mask of few noised blocks can look coarser than it was drawn, never finer.
    for seed in range(4):
        visible = np.asarray(masking.draw_visible(jax.random.key(seed), (12, 32, 32), **TRAIN))
        assert len(sides("sample", seed)) > 4
        assert block_sides(visible) == min(s for s, _ in sides("batch", seed))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_outside_is_a_share_of_brain_strictly_below_the_limit(data):
    cells = data.draw(st.sampled_from([1, 2, 4]))
    limit = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.9]))
    brain = np.random.RandomState(data.draw(st.integers(0, 2**31))).rand(2, 32, 32)
    brain = brain < data.draw(st.floats(0, 1))
    outside = masking.outside_brain(jnp.asarray(brain), (8, 8), cells=cells, min_fraction=limit)
    side = cells * 4
    for i in range(8 // cells):
        for j in range(8 // cells):
            square = brain[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
            expected = square.mean((1, 2)) < limit
            block = outside[:, i * cells : (i + 1) * cells, j * cells : (j + 1) * cells]
            np.testing.assert_array_equal(
                block, np.broadcast_to(expected[:, None, None], block.shape)
            )


def test_the_official_brain_mask_rule_with_its_borderline_cells():
    golden = fixtures.load("g_masks")
    brain = golden["brainmask"] > 0
    outside = masking.outside_brain(jnp.asarray(brain), (32, 32), cells=2, min_fraction=0.9)
    np.testing.assert_array_equal(outside, golden["reduced"][:, 0])
    counts = brain[3].reshape(16, 16, 16, 16).sum((1, 3))
    squares = np.asarray(outside[3])[::2, ::2]
    assert (squares[counts == 230] == 1).all() and (counts == 230).any()
    assert (squares[counts == 231] == 0).all() and (counts == 231).any()


def test_no_gate_without_a_limit():
    nothing = masking.outside_brain(jnp.zeros((1, 16, 16), bool), (4, 4), cells=1, min_fraction=0.0)
    assert not nothing.any()


def test_outside_the_brain_stays_visible():
    visible = jnp.array([[[0.0, 0.0, 1.0, 1.0]]])
    outside = jnp.array([[[0.0, 1.0, 0.0, 1.0]]])
    np.testing.assert_array_equal(masking.keep_outside(visible, outside), [[[0, 1, 1, 1]]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per": "slice"}, "masking.per: found 'slice'"),
        ({"sides": (1, 3)}, "masking.probabilities"),
        ({"sides": (1, 2, 4, 5)}, r"masking.sides: \[5\] do not divide the latent of 32x32"),
        ({"probabilities": (0.5, 0.5, 0.5, 0.5)}, "sum to 1"),
    ],
)
def test_bad_options_name_the_key(change, message):
    with pytest.raises(errors.UserError, match=message):
        masking.draw_visible(jax.random.key(0), (2, 32, 32), **TRAIN | change)


def test_squares_that_do_not_tile_are_refused():
    brain = jnp.ones((1, 64, 64), bool)
    with pytest.raises(errors.UserError, match=r"masking.brain_cells: 3 does not tile"):
        masking.outside_brain(brain, (8, 8), cells=3, min_fraction=0.9)

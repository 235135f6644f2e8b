"""Methods on tokens with a network of a few lines, and the masked autoencoder that can be one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.anomaly_maps import difference, stick_breaking
from madad_jax.core import errors
from madad_jax.methods import base, dpmm, masked_pretraining, memory_bank
from madad_jax.models import image_networks

SIDE, PATCH = 16, 4


@dataclasses.dataclass(frozen=True)
class Pixels:
    """A network whose token of a patch is its pixels."""

    patch: int = PATCH
    width: int = PATCH**2

    def init(self, key, image_shape):
        del key, image_shape
        return {"gain": jnp.ones(())}

    def tokens(self, params, image):
        b, h, w, _ = image.shape
        x = image.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH).transpose(0, 1, 3, 2, 4)
        return params["gain"] * x.reshape(b, h // PATCH, w // PATCH, -1)


class Slices:
    """Three slices in batches of two; the last is filled up with a slice without brain."""

    def __init__(self, seed=0):
        draw = np.random.default_rng(seed)
        self.image = draw.uniform(-1, 1, (4, SIDE, SIDE, 1)).astype(np.float32)
        self.brain = np.zeros((4, SIDE, SIDE), bool)
        self.brain[:3, PATCH:] = True

    def __len__(self):
        return 3

    def __iter__(self):
        for rows in (slice(0, 2), slice(2, 4)):
            yield {"image": self.image[rows], "brain_mask": self.brain[rows]}


def quiet(what):
    del what


def bank(**options):
    residual = difference.Residual(inside_brain=True)
    parts = {"image_size": SIDE, "residual": residual, "name": "memory_bank"}
    return memory_bank.MemoryBank(**{"encoder": Pixels(), "size": 100} | parts | options)


def fit(method, slices=None, seed=0):
    drawn = method.init(jax.random.key(1), {})
    found = method.fit(drawn, slices or Slices(), jax.random.key(seed), quiet)
    return jax.tree.map(jnp.asarray, found)  # as the stage puts them on its devices


def healthy_rows(slices):
    """Tokens of healthy brain, of length 1, by loops."""
    rows = []
    for image, brain in zip(slices.image, slices.brain, strict=True):
        for r in range(0, SIDE, PATCH):
            for c in range(0, SIDE, PATCH):
                if brain[r : r + PATCH, c : c + PATCH].mean() >= 0.5:
                    row = image[r : r + PATCH, c : c + PATCH].ravel()
                    rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def test_the_bank_holds_every_token_of_healthy_brain():
    method = bank()
    assert isinstance(method, base.Fitted) and isinstance(method, base.Method)
    params = fit(method)
    expected = healthy_rows(Slices())
    assert len(expected) == 36 and params["bank"].shape == (100, PATCH**2)
    np.testing.assert_allclose(params["bank"][:36], expected, atol=1e-6)
    np.testing.assert_allclose(params["bank"][36:72], expected, atol=1e-6)  # once more
    shapes = jax.tree.map(jnp.shape, method.init(jax.random.key(0), {}))
    assert jax.tree.map(jnp.shape, params) == shapes


def test_what_was_seen_is_0_and_what_was_not_is_its_distance():
    slices, method = Slices(), bank()
    params = fit(method, slices)
    image = slices.image[:2].copy()
    image[0, 8:12, 4:8] = -image[0, 8:12, 4:8]  # one patch of the first slice
    batch = {"image": jnp.asarray(image), "brain_mask": jnp.asarray(slices.brain[:2])}
    out = method.anomaly_map(params, {}, batch, jax.random.key(0))
    maps = np.asarray(out["map"])
    np.testing.assert_allclose(maps[1], 0.0, atol=1e-5)
    token = -healthy_rows(slices)[4 + 1]  # its row of patches is the second that is brain
    farthest = 1 - (healthy_rows(slices) @ token).max()
    assert farthest > 0.1
    # Bilinear: the middle of the patch is next to the token's own value, a step of 1 / 8 away.
    assert 0.7 * farthest < maps[0, 9:11, 5:7].max() <= farthest + 1e-6
    assert maps[0].max() == maps[0, 8:12, 4:8].max() and maps[0, :4].max() == 0
    np.testing.assert_array_equal(out["reconstruction"], image)
    loss, metrics = method.loss(params, {}, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, farthest / 24, rtol=1e-4)
    assert metrics == {"loss": loss}


def test_a_smaller_bank_is_a_coreset_or_refused():
    rows = healthy_rows(Slices())
    for kind in ("greedy", "random"):
        found = fit(bank(size=10, coreset=kind))["bank"]
        nearest = np.linalg.norm(found[:, None] - rows[None], axis=-1).min(1)
        assert nearest.max() < 1e-5 and len(np.unique(found, axis=0)) == 10
        again = fit(bank(size=10, coreset=kind))["bank"]
        np.testing.assert_array_equal(found, again)
    with pytest.raises(errors.UserError, match=r"coreset: found 'none' with 36 tokens .* of 10"):
        fit(bank(size=10, coreset="none"))


def test_many_slices_give_as_many_tokens_each():
    slices, method = Slices(), bank(most_tokens=15)
    found = method.healthy_tokens({"encoder": {"gain": jnp.ones(())}}, slices, jax.random.key(0))
    rows = healthy_rows(slices)
    place = np.linalg.norm(found[:, None] - rows[None], axis=-1).argmin(1)
    assert len(found) == 15 and np.bincount(place // 12).tolist() == [5, 5, 5]
    slices.brain[:] = False
    with pytest.raises(errors.UserError, match=r"data\.train: no brain in any slice"):
        fit(bank(), slices)


def test_pooling_takes_neighbours_in():
    slices = Slices()
    params = fit(bank(), slices)
    x = jnp.asarray(slices.image[:1])
    one, pooled = (np.asarray(bank(pooling=p).tokens(params, x))[0] for p in (1, 3))
    mean = one[0:3, 1:4].sum((0, 1))
    np.testing.assert_allclose(pooled[1, 2], mean / np.linalg.norm(mean), atol=1e-6)


def test_slices_are_brought_to_the_size_of_the_network():
    method = bank(image_size=2 * SIDE)
    params = fit(method)
    tokens = method.tokens(params, jnp.asarray(Slices().image))
    assert tokens.shape == (4, 8, 8, PATCH**2)
    batch = {k: jnp.asarray(v) for k, v in next(iter(Slices())).items()}
    assert method.anomaly_map(params, {}, batch, jax.random.key(0))["map"].shape == (2, SIDE, SIDE)
    with pytest.raises(errors.UserError, match=r"features\.image_size: found 18, .* 4 pixels"):
        bank(image_size=18)
    with pytest.raises(errors.UserError, match=r"methods\.memory_bank\.pooling, .*: found 2"):
        bank(pooling=2, name="memory_bank (untrained backbone)")


def test_dpmm_measures_the_way_to_means_that_hold_tokens():
    residual = difference.Residual()
    mixture = stick_breaking.Options(components=6, epochs=3, batch=36)
    method = dpmm.Dpmm(
        encoder=Pixels(), image_size=SIDE, residual=residual, name="dpmm", mixture=mixture
    )
    assert isinstance(method, base.Fitted)
    params = fit(method)
    shapes = jax.tree.map(jnp.shape, method.init(jax.random.key(0), {}))
    assert jax.tree.map(jnp.shape, params) == shapes
    np.testing.assert_allclose(params["shares"].sum(), 1.0, atol=1e-3)
    rows = healthy_rows(Slices())
    params["shares"] = jnp.array([0.4, 0.0, 0.2, 0.2, 0.1, 0.1])
    means = params["means"] / np.linalg.norm(params["means"], axis=1, keepdims=True)
    expected = 1 - (rows @ np.delete(means, 1, 0).T).max(1)
    np.testing.assert_allclose(method.distance(params, jnp.asarray(rows)), expected, atol=1e-5)


def pretraining(ratio=0.75):
    encoder = image_networks.masked_autoencoder(patch=PATCH, hidden_size=8, depth=1, num_heads=1)
    return masked_pretraining.MaskedPretraining(encoder, SIDE, ratio)


def slices_of(count):
    image = np.random.default_rng(0).uniform(-1, 1, (count, SIDE, SIDE, 1)).astype(np.float32)
    return {"image": jnp.asarray(image), "brain_mask": jnp.ones((count, SIDE, SIDE), bool)}


def test_pretraining_hides_its_share_and_reads_nothing_of_it():
    method, batch = pretraining(), slices_of(3)
    params, key = method.init(jax.random.key(0), {}), jax.random.key(5)
    hidden = np.asarray(method._draw_hidden(key, 3))
    assert (hidden.sum((1, 2)) == 12).all() and len(np.unique(hidden, axis=0)) == 3
    loss, _ = method.loss(params, {}, batch, key)
    squares = hidden.repeat(PATCH, 1).repeat(PATCH, 2)[..., None]
    guess = method.encoder.apply(params, batch["image"], 1.0 - jnp.asarray(hidden))
    error = np.square(np.asarray(batch["image"]) - np.asarray(guess))
    np.testing.assert_allclose(loss, error[squares > 0].mean(), rtol=1e-5)
    # What is hidden may be anything: the guess is the same.
    other = jnp.where(jnp.asarray(squares) > 0, 0.3, batch["image"])
    again = method.encoder.apply(params, other, 1.0 - jnp.asarray(hidden))
    np.testing.assert_allclose(guess, again, atol=1e-6)


def test_an_encoder_that_computes_visible_squares_alone_gives_the_same():
    method, batch = pretraining(), slices_of(2)
    params = method.init(jax.random.key(0), {})
    visible = 1.0 - method._draw_hidden(jax.random.key(1), 2)
    guess = method.encoder.apply(params, batch["image"], visible)
    np.testing.assert_allclose(
        method.encoder.apply(params, batch["image"], visible, 4), guess, atol=1e-5
    )
    other = method.encoder.apply(params, batch["image"], visible, 3)  # one too few
    assert np.abs(np.asarray(other - guess)).max() > 1e-3


def test_hidden_squares_without_brain_do_not_count():
    method, batch = pretraining(), slices_of(2)
    params, key = method.init(jax.random.key(0), {}), jax.random.key(5)
    brain = np.zeros((2, SIDE, SIDE), bool)
    brain[:, :8] = True
    loss, _ = method.loss(params, {}, batch | {"brain_mask": jnp.asarray(brain)}, key)
    hidden = np.asarray(method._draw_hidden(key, 2))
    guess = method.encoder.apply(params, batch["image"], 1.0 - jnp.asarray(hidden))
    error = np.square(np.asarray(batch["image"]) - np.asarray(guess))[:, :8]
    counted = hidden.repeat(PATCH, 1).repeat(PATCH, 2)[:, :8, :, None] > 0
    np.testing.assert_allclose(loss, error[counted].mean(), rtol=1e-5)


def test_every_square_is_guessed_three_times_from_what_it_is_not():
    method, batch = pretraining(), slices_of(1)
    params = method.init(jax.random.key(0), {})
    out = method.anomaly_map(params, {}, batch, jax.random.key(2))
    order = np.asarray(method._ranks(jax.random.key(2), 1))
    total = np.zeros((1, SIDE, SIDE, 1))
    for part in range(4):
        shown = (order // 4 == part).astype(np.float32)
        guess = np.asarray(method.encoder.apply(params, batch["image"], jnp.asarray(shown)))
        total += guess * (1 - shown).repeat(PATCH, 1).repeat(PATCH, 2)[..., None]
    np.testing.assert_allclose(out["reconstruction"], total / 3, atol=1e-5)
    difference_ = np.abs(np.asarray(batch["image"]) - total / 3)[..., 0] / 2
    np.testing.assert_allclose(out["map"], difference_, atol=1e-5)


def test_its_encoder_gives_tokens_of_visible_squares():
    method = pretraining()
    params = method.init(jax.random.key(0), {})
    assert isinstance(method.encoder, image_networks.FeatureEncoder)
    tokens = method.encoder.tokens(params, slices_of(2)["image"])
    assert tokens.shape == (2, 4, 4, 8) and method.encoder.width == 8
    np.testing.assert_allclose(tokens.mean(-1), 0.0, atol=1e-5)  # after a norm
    with pytest.raises(errors.UserError, match=r"features\.masked\.ratio: found 1\.0"):
        pretraining(1.0)

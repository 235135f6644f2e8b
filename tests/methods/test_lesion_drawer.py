"""The drawer of lesions: its loss, what guidance adds, and what a slice keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import samplers, schedule
from madad_jax.methods import lesion_drawer
from madad_jax.models import registry
from tests.methods import stand_ins

SIDE = 32
DENOISER = registry.denoiser("dit", size=None, hidden_size=16, depth=1, num_heads=2, patch_size=1)
DRAWER = lesion_drawer.LesionDrawer(
    denoiser=DENOISER,
    autoencoder=stand_ins.autoencoder(),
    schedule=schedule.make_schedule("cosine", 4),
    types=2,
    rank=4,
    batch_size=4,
)


@pytest.fixture(scope="module")
def frozen():
    weights = DENOISER.init(jax.random.key(0), (1, 8, 8, 16))
    leaves, tree = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return {
        "denoiser": jax.tree.unflatten(tree, drawn),
        "autoencoder": {},
        "scaling_factor": np.float32(0.5),
    }


def slices(count=5):
    """(images, masks of a square in each, which is black)."""
    draw = np.random.default_rng(0)
    image = draw.uniform(0.0, 0.4, (count, SIDE, SIDE, 1)).astype(np.float32)
    mask = np.zeros((count, SIDE, SIDE), np.float32)
    mask[:, 10:20, 13:22] = 1.0
    return jnp.asarray(image), jnp.asarray(mask)


def batch():
    image, mask = slices()
    return {
        "lesion_image": jnp.where(mask[..., None] > 0, -1.0, image),
        "lesion_mask": mask,
        "lesion_type": jnp.array([1, 2, 1, 2, 1]),
        "healthy_image": image,
        "healthy_mask": jnp.roll(mask, 5, axis=1),
    }


def test_a_few_steps_lower_the_loss(frozen):
    tx = optax.adam(1e-2)
    params = DRAWER.init_adapters(jax.random.key(2), frozen)
    state = tx.init(params)

    @jax.jit
    def step(params, state, n):
        key = jax.random.fold_in(jax.random.key(3), n)
        gradient, metrics = jax.grad(DRAWER.loss, has_aux=True)(params, frozen, batch(), key)
        updates, state = tx.update(gradient, state)
        return optax.apply_updates(params, updates), state, metrics["loss"]

    losses = []
    for n in range(150):
        params, state, loss = step(params, state, n)
        losses.append(float(loss))
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])


def test_the_loss_is_the_error_inside_the_mask(frozen, monkeypatch):
    """With the network's answer known: ||m (z0 - f)||^2 / |m|, and nothing of the outside."""
    monkeypatch.setattr(lesion_drawer, "augment", lambda key, images, masks: (images, masks))
    one = {name: value[:1] for name, value in batch().items()}
    soft = np.asarray(DRAWER.soften(one["lesion_mask"]))[0]
    z0 = np.asarray(DRAWER.scaled_mean(frozen, one["lesion_image"]))[0]
    monkeypatch.setattr(
        type(DRAWER.adapters), "apply", lambda self, w, p, x, t, types, mask: jnp.zeros_like(x)
    )
    _, metrics = DRAWER.loss({}, frozen, one, jax.random.key(0))
    expected = (np.square(soft[..., None] * z0).mean(-1).sum()) / soft.sum()
    np.testing.assert_allclose(metrics["lesion"], expected, rtol=1e-5)


def test_fresh_adapters_fill_as_the_frozen_denoiser_does(frozen):
    image, mask = slices(2)
    params = DRAWER.init_adapters(jax.random.key(2), frozen)
    keys, kinds = jax.random.split(jax.random.key(4), 2), jnp.array([1, 2])
    made = DRAWER.draw(params, frozen, image, mask, kinds, keys)
    x0 = DRAWER.scaled_mean(frozen, image)
    region = lesion_drawer.grow(DRAWER.soften(mask))
    each = [jax.random.split(k, 5) for k in keys]
    shape = x0.shape[1:]
    noise = jnp.stack(
        [jnp.stack([jax.random.normal(k, (1, *shape))[0] for k in ks]) for ks in each], 1
    )
    alone = samplers.inpaint(
        lambda x, t: DENOISER.predict(frozen["denoiser"], x, t),
        x0,
        region,
        DRAWER.schedule,
        noise,
    )
    expected = DRAWER.autoencoder.decode({}, alone / 0.5)
    np.testing.assert_allclose(made["drawn"], expected, atol=1e-4)
    # The stand-in's cells are 4 pixels wide and do not overlap: what is not drawn is kept.
    outside = np.repeat(np.repeat(np.asarray(region) == 0, 4, 1), 4, 2)
    np.testing.assert_array_equal(
        np.asarray(made["drawn"])[outside], np.asarray(made["healthy"])[outside]
    )
    inside = ~outside
    assert (np.asarray(made["drawn"])[inside] != np.asarray(made["healthy"])[inside]).mean() > 0.9


def test_a_slice_does_not_depend_on_those_beside_it(frozen):
    image, mask = slices()
    params = DRAWER.init_adapters(jax.random.key(2), frozen)
    params["types"] = params["types"].at[1:].set(1.0)
    keys, kinds = jax.random.split(jax.random.key(4), 5), jnp.array([1, 2, 1, 2, 1])
    made = DRAWER.draw(params, frozen, image, mask, kinds, keys)
    few = DRAWER.draw(params, frozen, image[3:], mask[3:], kinds[3:], keys[3:])
    np.testing.assert_allclose(made["drawn"][3:], few["drawn"], atol=1e-5)


def test_guidance_goes_beyond_what_the_type_alone_draws(frozen):
    image, mask = slices(1)
    params = DRAWER.init_adapters(jax.random.key(2), frozen)
    params["types"] = params["types"].at[1].set(1.0)
    keys = jax.random.split(jax.random.key(4), 1)

    def change(guidance, kind=1):
        drawer = dataclasses.replace(
            DRAWER,
            guidance=guidance,
            reweight=False,
            schedule=schedule.make_schedule("cosine", 1),
        )
        made = drawer.draw(params, frozen, image, mask, jnp.array([kind]), keys)
        return np.asarray(made["drawn"])

    none, alone, twice = change(0.0), change(1.0), change(2.0)
    assert np.abs(alone - none).max() > 1e-3
    np.testing.assert_allclose(none, change(2.0, kind=0), atol=1e-5)
    # One step: the answer is linear in the guidance.
    np.testing.assert_allclose(twice - none, 2 * (alone - none), atol=1e-4)


def test_cells_that_look_healthy_are_guided_more():
    healthy = jnp.zeros((1, 4, 4, 2))
    region = jnp.zeros((1, 4, 4)).at[0, 1, :].set(1.0)
    x = healthy.at[0, 1].set(jnp.array([[1.0, 1], [1, 1], [2, 2], [3, 3]]))
    weight = np.asarray(lesion_drawer.guidance_weights(x, healthy, region))[0, ..., 0]
    inverse = np.array([1.0, 1.0, 1 / 4, 1 / 9])
    np.testing.assert_allclose(weight[1], np.clip(4 * inverse / inverse.sum(), 1.0, 1.5), rtol=1e-6)
    assert (weight[[0, 2, 3]] == 1.0).all() and weight[1, 0] == 1.5 and weight[1, 3] == 1.0


def test_slices_and_masks_are_moved_alike():
    image, mask = slices(24)
    image = jnp.where(mask[..., None] > 0, 1.0, -1.0)
    made, moved = lesion_drawer.augment(jax.random.key(0), image, mask)
    sure = np.asarray(moved) > 0.99
    assert np.asarray(made)[..., 0][sure].min() > 0.75  # white, less 10 % of the intensity
    assert np.asarray(made)[..., 0][np.asarray(moved) == 0].max() == -1.0
    areas = np.asarray(moved).sum((1, 2)) / mask.sum((1, 2))
    assert 0.6 < areas.min() < 0.8 and 1.25 < areas.max() < 1.65


def test_the_region_is_the_mask_and_its_neighbours():
    soft = jnp.zeros((1, 6, 6)).at[0, 2, 3].set(0.1)
    grown = np.asarray(lesion_drawer.grow(soft))[0]
    expected = np.zeros((6, 6))
    expected[1:4, 2:5] = 1
    np.testing.assert_array_equal(grown, expected)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch_size": 3}, "--batch_size: found 3, accepted: even"),
        ({"guidance": -1.0}, "--guidance: found -1.0"),
        ({"rank": 0}, "--rank: found 0"),
        ({"denoiser": stand_ins.denoiser()[0]}, "found 'stand-in', accepted: dit"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, text):
    with pytest.raises(errors.UserError, match=text):
        dataclasses.replace(DRAWER, **changes)

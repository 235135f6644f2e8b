"""MAD-AD with a mask head at image resolution, on stand-ins for its other networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import schedule
from madad_jax.methods import madad, pixel_mask
from madad_jax.models import image_networks
from madad_jax.synthesis import drawn, shapes
from tests.methods import stand_ins

SIDE = 16  # pixels; 4 cells of the stand-in autoencoder
MASKING = madad.Masking(sides=(1, 2), probabilities=(0.5, 0.5), brain_cells=1)
HEAD = madad.PixelHead(
    pixel_mask.PixelMask(
        image_networks.mask_network(widths=(8,), num_groups=4),
        drawn.Options(healthy=0.0, min_radius=0.1),
    )
)
FROZEN = {"autoencoder": {}, "scaling_factor": jnp.float32(0.5)}


@dataclasses.dataclass(frozen=True)
class _DrawnBefore(pixel_mask.PixelMask):
    """Gives the slices that it is given."""

    example: pixel_mask.Example | None = None

    def draw(self, key, batch, frozen):
        return self.example


def method():
    return madad.MadAd(
        denoiser=stand_ins.denoiser(gain=0.9)[0],
        autoencoder=stand_ins.autoencoder(),
        schedule=schedule.make_schedule("cosine", 10),
        masking=MASKING,
        score=madad.Score(sigma=0.0),
        synthesis=shapes.Options(share=0.5),
        pixel_head=HEAD,
    )


def batch(count=6):
    draw = np.random.default_rng(0)
    brain = np.zeros((count, SIDE, SIDE), bool)
    brain[:, :, : SIDE // 2] = True
    image = np.where(brain, draw.uniform(-1, 1, brain.shape), -1.0)[..., None]
    return {"image": jnp.asarray(image, jnp.float32), "brain_mask": jnp.asarray(brain)}


def parameters(logit=0.0):
    head = HEAD.mask.init(jax.random.key(0), batch())
    return {
        "denoiser": {"x0": jnp.float32(0.1), "logit": jnp.float32(logit)},
        "pixel_head": head,
    }


def test_the_loss_adds_that_of_the_head_which_trains_the_head_alone():
    m, b = method(), batch()

    @jax.jit
    def run(params, frozen, key):
        def added(params, frozen):
            total, metrics = m.loss(params, frozen, b, key)
            own = metrics["x0_loss"] + m.loss_options.mask_weight * metrics["mask_loss"]
            more = metrics["pixel_entropy"] + 0.5 * (1.0 - metrics["pixel_dice"])
            return more, (total, own, metrics)

        return jax.value_and_grad(added, argnums=(0, 1), has_aux=True)(params, frozen)

    (more, (total, own, metrics)), (gradient, frozen) = run(parameters(), FROZEN, jax.random.key(2))
    np.testing.assert_allclose(total, own + HEAD.weight * more, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], total)
    assert {"x0_error_noised", "mask_sensitivity", "pixel_sensitivity"} < set(metrics)
    assert all(np.isfinite(v) for v in metrics.values()) and more > 0
    assert not any(np.any(g) for g in jax.tree.leaves((gradient["denoiser"], frozen)))
    assert all(np.any(g) for g in jax.tree.leaves(gradient["pixel_head"]))


def test_the_denoiser_learns_from_every_second_slice_and_the_head_from_all():
    m = method()
    half = dataclasses.replace(m, pixel_head=dataclasses.replace(HEAD, denoiser_every=2))
    b, params, key = batch(), parameters(), jax.random.key(2)
    drawn_example = HEAD.mask.draw(jax.random.fold_in(jax.random.split(key, 6)[5], 1), b)

    @jax.jit
    def run(image):
        mask = _DrawnBefore(HEAD.mask.network, example=drawn_example._replace(healthy=image))
        head = dataclasses.replace(half.pixel_head, mask=mask)
        return dataclasses.replace(half, pixel_head=head).loss(params, FROZEN, b, key)[1]

    usual = run(drawn_example.healthy)
    unread = run(drawn_example.healthy.at[1::2].add(0.3))
    read = run(drawn_example.healthy.at[::2].add(0.3))
    assert unread["x0_loss"] == usual["x0_loss"] != read["x0_loss"]
    whole = m.loss(params, FROZEN, b, key)[1]
    np.testing.assert_allclose(usual["pixel_entropy"], whole["pixel_entropy"], rtol=1e-6)
    with pytest.raises(errors.UserError, match=r"denoiser_every: found 0, accepted: at least 1"):
        madad.PixelHead(HEAD.mask, denoiser_every=0)


def test_cells_that_the_head_calls_abnormal_are_rewritten_whatever_the_denoiser_says():
    m, b = method(), batch()
    run = jax.jit(m.anomaly_map)
    for bias, rewritten in ((30.0, 1.0), (-30.0, 0.0)):
        params = parameters(logit=6.0)  # all is visible
        params["pixel_head"]["out"]["bias"] = jnp.full(4, bias)
        out = run(params, FROZEN, b, jax.random.key(0))
        assert (np.asarray(out["rewritten"])[:, :, :2] == rewritten).all()
        assert not np.any(out["rewritten"][:, :, 2:])  # outside the brain
        assert all(np.isfinite(v).all() for v in out.values())


def test_the_map_joins_the_head_with_the_other_signals():
    m, b = method(), batch()
    params = parameters()
    out = jax.jit(m.anomaly_map)(params, FROZEN, b, jax.random.key(0))
    pixels = HEAD.mask.probability(params["pixel_head"], FROZEN, b["image"], b["brain_mask"])
    np.testing.assert_allclose(out["mask_map"], pixels, rtol=1e-5)
    # There is no atlas; the stand-in calls a half of every cell noised, whose log-odds are 0.
    np.testing.assert_allclose(out["map"], pixels, atol=1e-4)
    assert out["difference_map"].shape == pixels.shape

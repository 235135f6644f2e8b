"""MAD-AD with a mask head at image resolution, on stand-ins for its other networks."""

import jax
import jax.numpy as jnp
import numpy as np

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

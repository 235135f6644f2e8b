import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors
from madad_jax.methods import dae, itermask2
from madad_jax.methods.wrappers import penalised
from madad_jax.models import interfaces, registry
from tests.methods import stand_ins
from tests.methods.test_reconstruction import batch


@dataclasses.dataclass(frozen=True)
class Block:
    """A network with a penalty of params["p"] a call."""

    sspcab: bool = True

    def apply(self, variables, x, t, *, train, rngs):
        del t, train, rngs
        p = variables["params"]["p"]
        return x + p, None, p


def test_the_penalty_is_weighed_into_loss_and_gradient():
    inner = dae.Dae(interfaces.Denoiser(name="block", _module=Block()), sigma=0.0)
    made = penalised.Penalised(inner, 0.1, "dae")
    params, b, key = {"p": jnp.float32(0.5)}, batch(), jax.random.key(0)
    run = jax.jit(jax.value_and_grad(made.loss, has_aux=True))
    (total, metrics), gradient = run(params, {}, b, key)
    # Without noise the input is the image: the error is p^2, the penalty p.
    np.testing.assert_allclose(total, 0.5**2 + 0.1 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(metrics["penalty"], 0.5)
    np.testing.assert_allclose(gradient["p"], 2 * 0.5 + 0.1, rtol=1e-5)
    maps = jax.jit(made.anomaly_map)(params, {}, b, key)["map"]
    expected = jax.jit(inner.anomaly_map)(params, {}, b, key)["map"]
    np.testing.assert_array_equal(maps, expected)


def test_a_network_without_the_block_is_named():
    made = penalised.Penalised(dae.Dae(stand_ins.denoiser()[0]), 0.1, "dae")
    with pytest.raises(errors.UserError, match=r"sspcab: found 0\.1 with method=dae"):
        jax.eval_shape(made.loss, {"x0": 0.0, "logit": 0.0}, {}, batch(), jax.random.key(0))


TINY = {
    "size": None,
    "model_channels": 8,
    "num_heads": 1,
    "channel_mult": (1,),
    "num_res_blocks": 1,
    "attention_rates": (8,),
    "num_groups": 4,
    "dropout": 0.0,
    "mask_head": False,
    "out_channels": 1,
    "sspcab": True,
}
MASKS = itermask2.Options(radius=3.0, sides=(2, 4), squares=3)


@pytest.mark.parametrize(
    ("make", "total", "penalty", "gradient"),
    [
        (lambda network: dae.Dae(network, resolution=4), 1.28754413, 2.16727281, 119.589294),
        (
            # Two networks: the mean of both penalties.
            lambda network: itermask2.IterMask2(network, difference.Residual(), MASKS),
            1.85833848,
            2.57673311,
            130.547119,
        ),
    ],
)
def test_numbers_are_those_of_penalties_collected_while_tracing(make, total, penalty, gradient):
    """Numbers of commit 3fd1695, whose blocks left their penalty in a context variable."""
    method = make(registry.denoiser("unet", **TINY))
    made, b = penalised.Penalised(method, 0.1, method.name), batch(count=2)
    shapes = jax.eval_shape(lambda key: made.init(key, b), jax.random.key(0))
    draw = np.random.default_rng(3)
    params = jax.tree.map(
        lambda s: jnp.asarray(0.3 * draw.standard_normal(s.shape), jnp.float32), shapes
    )
    run = jax.jit(jax.value_and_grad(made.loss, has_aux=True))
    (found, metrics), gradients = run(params, {}, b, jax.random.key(2))
    np.testing.assert_allclose(found, total, rtol=1e-5)
    assert metrics["loss"] == found
    np.testing.assert_allclose(metrics["penalty"], penalty, rtol=1e-5)
    size = sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(size, gradient, rtol=1e-4)

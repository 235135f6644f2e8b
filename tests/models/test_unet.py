import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import registry
from tests.models import official

TINY = {
    "size": None,
    "model_channels": 8,
    "num_heads": 2,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_rates": (2,),
    "num_groups": 4,
}
SHAPE = (2, 8, 8, 4)


def random_params(config):
    """Nothing at zero, so that every tensor matters."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 1 / math.sqrt(leaf.size / leaf.shape[-1])
        return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes(config))


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


def shapes(config):
    denoiser = registry.denoiser("unet", **config)
    return jax.eval_shape(lambda k: denoiser.init(k, SHAPE), jax.random.key(0))


def inputs():
    return jnp.asarray(official.array("u", *SHAPE)), jnp.array([0, 7])


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("XS", 16_142_149),
        ("S", 64_478_853),
        ("M", 145_010_117),
        ("L", 257_735_941),
        ("XL", 402_656_325),
    ],
)
def test_parameter_counts_of_the_official_sizes(size, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes({"size": size}))) == count


def test_starts_from_zero_or_from_the_input():
    x, t = inputs()
    for residual, wanted in ((False, np.zeros(SHAPE)), (True, x)):
        denoiser = registry.denoiser("unet", **TINY, residual_x0=residual)
        x0, logit = jax.jit(denoiser.apply)(denoiser.init(jax.random.key(0), SHAPE), x, t)[:2]
        np.testing.assert_array_equal(x0, wanted)
        np.testing.assert_array_equal(logit, np.zeros((2, 8, 8, 1)))


def test_remat_changes_neither_values_nor_gradients():
    x, t = inputs()
    one_level = TINY | {"channel_mult": (1,), "attention_rates": (1,)}
    params = random_params(one_level)

    def value_and_grad(**flags):
        denoiser = registry.denoiser("unet", **one_level, **flags)

        def loss(params):
            x0, logit = denoiser.apply(params, x, t, key=jax.random.key(5))[:2]
            return jnp.square(x0 - 1).mean() + jnp.square(logit - 1).mean()

        with jax.default_matmul_precision("highest"):
            return jax.jit(jax.value_and_grad(loss))(params)

    one, two = value_and_grad(), value_and_grad(remat=True)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one[1], two[1])


def test_dropout_only_with_a_key(params):
    x, t = inputs()
    apply = jax.jit(registry.denoiser("unet", **TINY).apply)
    still = [apply(params, x, t)[0] for _ in range(2)]
    drawn = [apply(params, x, t, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    np.testing.assert_array_equal(*still)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3
    assert np.abs(drawn[0] - still[0]).max() > 1e-3


def test_bfloat16_is_close_and_heads_stay_float32(params):
    x, t = inputs()
    full = jax.jit(registry.denoiser("unet", **TINY).apply)(params, x, t)
    half = jax.jit(registry.denoiser("unet", **TINY, dtype="bfloat16").apply)(params, x, t)
    assert half.penalty is None
    for a, b in zip(half[:2], full[:2], strict=True):
        assert a.dtype == jnp.float32
        assert 0 < np.abs(a - b).max() < 0.05 * np.abs(b).max()


def test_latent_sides_that_cannot_be_halved():
    with pytest.raises(errors.UserError, match="multiples of 2, found 8x7"):
        registry.denoiser("unet", **TINY).init(jax.random.key(0), (1, 8, 7, 4))

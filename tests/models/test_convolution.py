import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from madad_jax.core import errors
from madad_jax.models import registry
from madad_jax.models.layers import convolution


def arrays(shape, features):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    kernel = rng.standard_normal((3, 3, shape[-1], features)) / np.sqrt(9 * shape[-1])
    return jnp.asarray(x), jnp.asarray(kernel, jnp.float32)


def direct(x, kernel):
    """Nine products, float64."""
    h, w = x.shape[1:3]
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = (padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
    return sum(parts)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 2)])
def test_doubling_by_parity_is_doubling_and_convolving(shape):
    x, kernel = arrays(shape, 7)
    ours = convolution.upsample_by_parity(x, kernel)
    wanted = direct(x.repeat(2, axis=1).repeat(2, axis=2), kernel)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    plain = convolution.upsample_convolve(x, kernel, "plain")
    np.testing.assert_allclose(plain, wanted, atol=1e-5)


def products(function, *inputs):
    """(matrix products, convolutions) of the compiled program."""
    text = jax.jit(function).lower(*inputs).compile().as_text()
    return text.count(" dot("), text.count(" convolution(")


def shapes(channels):
    x = jax.ShapeDtypeStruct((2, 32, 32, channels), jnp.float32)
    return x, jax.ShapeDtypeStruct((3, 3, channels, channels), jnp.float32)


LARGE, SMALL = shapes(64), shapes(32)


def test_auto_is_winograd_for_large_maps_on_a_cpu_and_plain_elsewhere():
    def auto(x, kernel):
        return convolution.convolve(x, kernel, "auto")

    assert products(auto, *LARGE)[1] == 0
    assert products(auto, *SMALL) == (0, 1)
    half = [jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) for a in LARGE]
    assert "dot_general" not in str(jax.make_jaxpr(auto)(*half))
    exported = {
        platform: jax_export.export(jax.jit(auto), platforms=[platform])(*LARGE).mlir_module()
        for platform in ("cpu", "cuda")
    }
    assert "stablehlo.convolution" in exported["cuda"]
    assert "stablehlo.convolution" not in exported["cpu"]


def gradient(implementation):
    def loss(x, kernel):
        y = convolution.convolve(x, kernel, implementation)
        doubled = convolution.upsample_convolve(y, kernel, implementation)
        return jnp.square(doubled).mean()

    return jax.jit(jax.grad(loss, (0, 1)))


def test_derivatives_are_those_of_the_plain_convolution():
    x, kernel = arrays((2, 9, 6, 3), 3)
    ours, wanted = gradient("winograd")(x, kernel), gradient("plain")(x, kernel)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max() + 1e-8, rtol=2e-5)

    def second(implementation):
        def squares(k):
            return jnp.square(gradient(implementation)(x, k)[0]).sum()

        return jax.jit(jax.grad(squares))(kernel)

    wanted = second("plain")
    np.testing.assert_allclose(second("winograd"), wanted, atol=1e-5 * np.abs(wanted).max())


def test_derivatives_are_fast_too_on_a_cpu_and_plain_elsewhere():
    assert products(gradient("plain"), *LARGE)[1] == 6
    # The four parities of the doubling, forward.
    assert products(gradient("auto"), *LARGE)[1] == 4
    assert products(gradient("auto"), *SMALL)[1] == products(gradient("plain"), *SMALL)[1]
    exported = jax_export.export(jax.jit(gradient("auto")), platforms=["cuda"])(*LARGE)
    plain = jax_export.export(jax.jit(gradient("plain")), platforms=["cuda"])(*LARGE)
    wanted = plain.mlir_module().count("stablehlo.convolution")
    assert exported.mlir_module().count("stablehlo.convolution") >= wanted
    assert "stablehlo.dot_general" not in exported.mlir_module()


def test_networks_compute_the_same_either_way():
    """kl-f8's layers in small, with widths that "auto" leaves plain."""
    config = {"channels": 4, "channel_mult": (1, 2), "num_res_blocks": 0, "num_groups": 2}
    nets = [
        registry.autoencoder(**config, mid_attention=False, convolution=c)
        for c in ("plain", "winograd")
    ]
    params = nets[0].init(jax.random.key(0), (1, 16, 16, 1))
    image = jax.random.normal(jax.random.key(1), (2, 16, 16, 1))
    plain, fast = (
        jax.jit(lambda p, x, n=n: (n.encode(p, x), n.decode(p, n.encode(p, x)[0])))(params, image)
        for n in nets
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), plain, fast)
    assert np.abs(np.asarray(plain[1]) - fast[1]).max() > 0  # it was another way


def test_unknown_implementation_is_named():
    with pytest.raises(errors.UserError, match=r"autoencoder\.convolution: found 'fft', .*auto"):
        registry.autoencoder(convolution="fft")

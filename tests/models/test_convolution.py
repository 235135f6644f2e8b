import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from madad_jax import errors
from madad_jax.models import convolution, registry


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


# The third has forty rows of tiles that go in strips, the second sides that are no multiples of 4,
# the last more kernels than are transformed at once.
@pytest.mark.parametrize(
    ("shape", "features"),
    [((2, 8, 12, 5), 6), ((1, 5, 7, 3), 6), ((1, 160, 160, 128), 128), ((2, 8, 4, 512), 192)],
)
def test_winograd_is_the_convolution(shape, features):
    x, kernel = arrays(shape, features)
    ours = jax.jit(convolution.winograd)(x, kernel)
    # The error of the plain float32 convolution is 1e-6 of outputs of size 1.
    np.testing.assert_allclose(ours, direct(x, kernel), atol=2e-5)


def test_parts_are_as_large_as_fits_the_cache():
    assert convolution._divisor(10, 5) == convolution._divisor(10, 9) == 5
    assert convolution._divisor(192, 128) == 96
    assert convolution._divisor(7, 2) == convolution._divisor(7, 0) == 1
    assert convolution._divisor(8, 100) == 8

    def loops(*shape):
        x, kernel = jax.ShapeDtypeStruct(shape, jnp.float32), (3, 3, shape[-1], 512)
        kernel = jax.ShapeDtypeStruct(kernel, jnp.float32)
        return str(jax.make_jaxpr(convolution.winograd)(x, kernel)).count("scan[")

    assert loops(1, 32, 32, 512) == loops(1, 128, 128, 128) == 1
    assert loops(1, 32, 32, 128) == 0


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


LARGE = (
    jax.ShapeDtypeStruct((2, 32, 32, 128), jnp.float32),
    jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.float32),
)
SMALL = (
    jax.ShapeDtypeStruct((2, 32, 32, 64), jnp.float32),
    jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32),
)


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


def test_a_derivative_takes_the_plain_convolution_and_is_its():
    x, kernel = arrays((1, 8, 8, 3), 2)

    def gradient(implementation):
        def loss(x, kernel):
            y = convolution.convolve(x, kernel, implementation)
            doubled = convolution.upsample_convolve(y, kernel[:, :, :2], implementation)
            return jnp.square(doubled).sum()

        return jax.value_and_grad(loss, (0, 1))

    for ours, wanted in zip(
        jax.tree.leaves(gradient("winograd")(x, kernel)),
        jax.tree.leaves(gradient("plain")(x, kernel)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, wanted)


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

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.models.layers import winograd


def arrays(shape, features):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    kernel = rng.standard_normal((3, 3, shape[-1], features)) / np.sqrt(9 * shape[-1])
    g = rng.standard_normal((*shape[:3], features)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(kernel, jnp.float32), jnp.asarray(g)


def shifted(x):
    """{(row, column) of the kernel: the pixels that it meets}, float64."""
    h, w = x.shape[1:3]
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return {(i, j): padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)}


# The third has forty rows of tiles that go in strips, the second sides that are no multiples of 4,
# the last more kernels than are transformed at once.
# At the sizes of real processors the same is asked of LARGE, in a slow test.
LARGE = [((1, 160, 160, 128), 128), ((2, 8, 4, 512), 192)]
SHAPES = [((2, 8, 12, 5), 6), ((1, 5, 7, 3), 6), ((1, 160, 16, 8), 8), ((2, 8, 4, 32), 12)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """The cache of a processor in small, so that small arrays go in strips and parts too.

    In strips, of these shapes, goes the third alone, and in parts of the kernels the last.
    """
    monkeypatch.setattr(winograd, "_CHUNK", 256)
    monkeypatch.setattr(winograd, "_WORK", 2**11)
    monkeypatch.setattr(winograd, "_OUTPUTS", 8)


def loops_of(function, *inputs):
    return str(jax.make_jaxpr(function)(*inputs)).count("scan[")


def check_convolution(shape, features):
    x, kernel, _ = arrays(shape, features)
    ours = jax.jit(lambda *a: winograd.convolve(*a))(x, kernel)
    direct = sum(part @ np.asarray(kernel[i], np.float64) for i, part in shifted(x).items())
    # The error of the plain float32 convolution is 1e-6 of outputs of size 1.
    np.testing.assert_allclose(ours, direct, atol=2e-5)


def check_kernel_gradient(shape, features):
    x, _, g = arrays(shape, features)
    ours = np.asarray(jax.jit(lambda *a: winograd.kernel_gradient(*a))(x, g))
    rows = np.asarray(g, np.float64).reshape(-1, features)
    for place, part in shifted(x).items():
        direct = part.reshape(len(rows), -1).T @ rows
        np.testing.assert_allclose(ours[place], direct, atol=1e-5 * np.sqrt(len(rows)))


@pytest.mark.parametrize(("shape", "features"), SHAPES)
def test_is_the_convolution(shape, features):
    x, kernel, _ = arrays(shape, features)
    assert loops_of(winograd.convolve, x, kernel) == (shape[1] == 160 or features == 12)
    check_convolution(shape, features)


@pytest.mark.parametrize(("shape", "features"), SHAPES)
def test_gradient_of_the_kernel_is_the_sum_over_pixels(shape, features):
    x, _, g = arrays(shape, features)
    assert loops_of(winograd.kernel_gradient, x, g) == (shape[1] == 160 or features == 12)
    check_kernel_gradient(shape, features)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "features"), LARGE)
def test_strips_and_parts_of_real_processors(shape, features, monkeypatch):
    monkeypatch.undo()
    check_convolution(shape, features)
    check_kernel_gradient(shape, features)


def test_parts_are_as_large_as_fits_the_cache(monkeypatch):
    monkeypatch.undo()  # the sizes of real processors
    assert winograd._divisor(10, 5) == winograd._divisor(10, 9) == 5
    assert winograd._divisor(192, 128) == 96
    assert winograd._divisor(7, 2) == winograd._divisor(7, 0) == 1
    assert winograd._divisor(8, 100) == 8

    def loops(*shape):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        kernel = jax.ShapeDtypeStruct((3, 3, shape[-1], 512), jnp.float32)
        g = jax.ShapeDtypeStruct((*shape[:3], 512), jnp.float32)
        both = (winograd.convolve, x, kernel), (winograd.kernel_gradient, x, g)
        return [loops_of(f, *a) for f, *a in both]

    assert loops(1, 32, 32, 512) == loops(1, 128, 128, 128) == [1, 1]
    assert loops(1, 32, 32, 128) == [0, 0]

"""3-D convolutions by slabs of planes against SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from madad_jax.models.layers import volume_convolution

# Past the size up to which a volume is taken at once, with few products.
LARGE = (258, 258)


def _random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "side", "stride", "together"),
    [
        ((6, 5, 7), 3, 1, 1),
        ((8, 6, 6), 7, 2, 2),
        ((33, *LARGE), 3, 1, 1),  # planes one by one
        ((32, *LARGE), 7, 2, 2),
        ((32, *LARGE), 3, 2, 1),
    ],
)
def test_it_is_that_of_scipy(shape, side, stride, together):
    x, kernel = _random((*shape, 1)), _random((side, side, side, 1, 2), 1)
    ours = volume_convolution.convolve(jnp.asarray(x), jnp.asarray(kernel), stride, together)
    for o in range(2):
        wanted = ndimage.correlate(x[..., 0], kernel[..., 0, o], mode="constant")
        wanted = wanted[::stride, ::stride, ::stride]
        np.testing.assert_allclose(ours[..., o], wanted, atol=5e-4)


@pytest.mark.parametrize("shape", [(3, 4, 5), (32, *LARGE)])
def test_the_transposed_one_spreads_zeros_before_it(shape):
    x, kernel = _random((*shape, 1)), _random((3, 3, 3, 1, 2), 1)
    ours = volume_convolution.convolve_transposed(jnp.asarray(x), jnp.asarray(kernel))
    spread = np.zeros([2 * n for n in shape], np.float32)
    spread[::2, ::2, ::2] = x[..., 0]
    for o in range(2):
        wanted = ndimage.correlate(spread, kernel[..., 0, o], mode="constant")
        np.testing.assert_allclose(ours[..., o], wanted, atol=5e-4)


def test_planes_are_given_in_their_order():
    x = jnp.arange(2.0 * 1200 * 1200).reshape(2, 1200, 1200)
    firsts = volume_convolution.map_planes(lambda planes: planes[:, 0, 0], x)
    np.testing.assert_array_equal(firsts, x[:, 0, 0])

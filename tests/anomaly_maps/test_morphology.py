import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from madad_jax.anomaly_maps import morphology, structure


@pytest.mark.parametrize("side", [3, 7])
def test_grey_morphology_is_scipys(side):
    maps = np.random.default_rng(0).uniform(size=(2, 15, 18)).astype(np.float32)
    pairs = ((morphology.dilate, ndimage.grey_dilation), (morphology.close, ndimage.grey_closing))
    for ours, theirs in (*pairs, (morphology.erode, ndimage.grey_erosion)):
        expected = [theirs(m, size=(side, side)) for m in maps]
        np.testing.assert_array_equal(ours(jnp.asarray(maps), side), expected)


def test_the_largest_of_each_cell():
    maps = np.arange(2 * 6 * 9, dtype=np.float32).reshape(2, 6, 9)
    maps[0, 0, 4] = 500
    found = morphology.largest_of_cells(jnp.asarray(maps), 3)
    cells = [[m[i : i + 3, j : j + 3].max() for j in (0, 3, 6)] for m in maps for i in (0, 3)]
    np.testing.assert_array_equal(found, np.reshape(cells, (2, 2, 3)))


def test_structural_dissimilarity_is_wangs_formula():
    draw = np.random.default_rng(0)
    a = draw.uniform(-1, 1, (2, 16, 16, 1)).astype(np.float32)
    b = np.clip(a + draw.normal(0, 0.3, a.shape), -1, 1).astype(np.float32)
    found = jax.jit(structure.dissimilarity)(jnp.asarray(a), jnp.asarray(b))

    def mean(x):
        return ndimage.gaussian_filter(x, (0, 1.5, 1.5), mode="reflect")

    x, y = a[..., 0].astype(float), b[..., 0].astype(float)
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    ssim = (2 * mx * my + 4e-4) * (2 * cov + 3.6e-3)
    ssim /= (mx**2 + my**2 + 4e-4) * (vx + vy + 3.6e-3)
    np.testing.assert_allclose(found, (1 - ssim) / 2, atol=2e-4)
    assert found.min() >= 0 and found.max() > 0.1

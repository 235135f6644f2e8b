import jax
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import noise


def fields(kind):
    return np.asarray(noise.draw(jax.random.key(0), (1500, 16, 16, 2), kind))


def neighbours(x, distance):
    """Correlation of cells so far apart in a row."""
    return (x[:, :, distance:] * x[:, :, :-distance]).mean()


@pytest.mark.parametrize("kind", noise.KINDS)
def test_every_cell_has_mean_zero_and_variance_one(kind):
    x = fields(kind)
    assert x.shape == (1500, 16, 16, 2)
    assert np.abs(x.mean(0)).max() < 5 / np.sqrt(1500)
    assert np.abs(x.var(0) - 1).max() < 5 * np.sqrt(2 / 1500)
    assert abs((x[..., 0] * x[..., 1]).mean()) < 0.02  # channels are drawn for themselves


def test_pyramids_are_smooth_over_several_cells_and_white_noise_is_not():
    white, pyramid = fields("gaussian"), fields("pyramid")
    assert abs(neighbours(white, 1)) < 0.01
    near, far = neighbours(pyramid, 1), neighbours(pyramid, 4)
    # Squares of 1, 2, 4, 8 with a quarter of the variance each, shifted at random: at
    # distance d a square of side s holds both cells with probability 1 - d/s.
    assert near == pytest.approx((0 + 1 / 2 + 3 / 4 + 7 / 8) / 4, abs=0.03)
    assert far == pytest.approx((1 - 4 / 8) / 4, abs=0.03)


def test_unknown_kinds_name_the_key():
    with pytest.raises(errors.UserError, match=r"diffusion.noise: found 'pink', accepted: gauss"):
        noise.draw(jax.random.key(0), (1, 4, 4, 1), "pink")

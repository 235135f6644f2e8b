import numpy as np
import pytest

from madad_jax.data.cohort import random_fields

_LEVELS = tuple(4.0 * k for k in range(6))


@pytest.mark.parametrize("sigma", [2.0, 6.0, 20.0])
def test_unit_variance(sigma):
    grid = random_fields.Grid(128, 208.0, _LEVELS)
    fields = [random_fields.smooth(np.random.default_rng(s), grid, sigma) for s in range(12)]
    assert abs(np.std(fields) - 1.0) < 0.25
    assert abs(np.mean(fields)) < 0.3


def test_correlation_length_is_in_millimetres():
    grid = random_fields.Grid(208, 208.0, _LEVELS)
    field = np.concatenate(
        [random_fields.smooth(np.random.default_rng(s), grid, 8.0) for s in range(6)]
    )

    def correlation(shift):
        return np.corrcoef(field[:, :, shift:].ravel(), field[:, :, :-shift].ravel())[0, 1]

    assert correlation(4) > 0.8  # exp(-(d / 2 sigma)^2) = 0.94
    assert 0.15 < correlation(16) < 0.55  # 0.37
    assert abs(correlation(40)) < 0.2


def test_same_field_at_every_size():
    small, large = (
        random_fields.smooth(
            np.random.default_rng(1), random_fields.Grid(side, 208.0, _LEVELS), 10.0
        )
        for side in (64, 256)
    )
    averaged = large.reshape(6, 64, 4, 64, 4).mean((2, 4))
    np.testing.assert_allclose(averaged, small, atol=0.05)


def test_at_levels_is_linear():
    volume = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    np.testing.assert_allclose(
        random_fields.at_levels(volume, np.array([0.0, 1.25, 3.0]))[:, 0, 0], [0.0, 1.25, 3.0]
    )

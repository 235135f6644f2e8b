import jax
import numpy as np
import pytest

from madad_jax.synthesis.draws import Draws


def test_numbers_keep_to_their_ranges_and_differ():
    draws = Draws(jax.random.key(0), 200, 8)
    first, second = np.asarray(draws.uniform(2.0, 5.0)), np.asarray(draws.uniform())
    assert first.shape == (200, 1, 1) and first.min() >= 2 and first.max() <= 5
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.3
    octaves = np.log2(np.asarray(draws.log_uniform(1.0, 4.0)))
    assert octaves.min() >= 0 and octaves.max() <= 2 and abs(octaves.mean() - 1) < 0.2
    normal = np.asarray(draws.normal())
    assert abs(normal.mean()) < 0.3 and abs(normal.std() - 1) < 0.2
    assert abs(np.asarray(draws.coin(0.2)).mean() - 0.2) < 0.1
    sign = np.asarray(draws.sign(0.8))
    assert set(sign.ravel()) == {-1.0, 1.0} and (sign > 0).mean() > 0.6
    assert draws.several(2).shape == (2, 200, 1, 1)


def test_more_than_the_table_holds_is_refused():
    draws = Draws(jax.random.key(0), 2, 3)
    draws.several(3)
    with pytest.raises(ValueError, match="more than 3 draws"):
        draws.uniform()

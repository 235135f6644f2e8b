import numpy as np
import pytest

from madad_jax.metrics import forgetting


def test_measures_are_their_formulas():
    a = np.array([[0.8, 0.75, 0.0], [0.9, 0.7, 0.2], [0.5, 0.6, 0.9]])
    found = forgetting.summarise(a)
    assert found == pytest.approx(
        {
            "average": (0.5 + 0.6 + 0.9) / 3,
            # Of task 0 the best before the end was after task 1; what lies above the diagonal of
            # task 1 does not count.
            "forgetting": ((0.9 - 0.5) + (0.7 - 0.6)) / 2,
            "worst_drop": 0.4,
            "backward_transfer": ((0.5 - 0.8) + (0.6 - 0.7)) / 2,
        }
    )


def test_one_line_has_an_average_alone():
    found = forgetting.summarise(np.array([[0.4, 0.8]]))
    assert found.pop("average") == pytest.approx(0.6)
    assert set(found.values()) == {None}


def test_gain_is_negative_forgetting():
    found = forgetting.summarise(np.array([[0.4, 0.0], [0.5, 0.8]]))
    assert found["forgetting"] == pytest.approx(-0.1)

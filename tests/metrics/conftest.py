"""The official code's metric numbers."""

import pathlib

import numpy as np
import pytest

_FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def golden():
    with np.load(_FIXTURES / "e_metrics.npz") as data:
        return dict(data)

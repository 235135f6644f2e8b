"""The tiny data set of tests/e2e, and the command that measures speed."""

import functools

import pytest

from tests.e2e.conftest import command, png_root, tiny  # noqa: F401


@pytest.fixture
def speed(command):  # noqa: F811
    """speed(*flags) -> Popen of `python -m benchmarks.speed` on the tiny config."""
    return functools.partial(command, module="benchmarks.speed")

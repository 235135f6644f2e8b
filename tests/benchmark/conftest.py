"""The tiny data set and the command of tests/e2e."""

from tests.e2e.conftest import command, png_root, tiny  # noqa: F401

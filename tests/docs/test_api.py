"""The examples of docs/api.md do what they say."""

import doctest

from tests.docs import pages


def test_examples():
    done = doctest.testfile(
        str(pages.DOCS / "api.md"),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
        encoding="utf-8",
    )
    assert done.attempted >= 25 and done.failed == 0

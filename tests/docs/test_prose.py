"""README is a front page, and sentences stay short."""

import statistics

import pytest

from tests.docs import pages

LONGEST, AVERAGE = 45, 25


def test_readme_is_one_screen():
    text = (pages.ROOT / "README.md").read_text()
    assert len(text.split()) <= 450
    assert text.count("\n") <= 45


@pytest.mark.parametrize("path", pages.pages(), ids=pages.name)
def test_sentences_are_short(path):
    lengths = {s: pages.count(s) for s in pages.sentences(path.read_text())}
    assert {s: n for s, n in lengths.items() if n > LONGEST} == {}
    assert statistics.mean(lengths.values()) <= AVERAGE


def test_there_are_pages_enough():
    assert len(pages.pages()) - 1 >= 14


def test_a_long_sentence_is_seen():
    long = " ".join(["word"] * 46)
    skipped = f"# Title {long}\n\n| a | {long} |\n```\n{long}\n```\n"
    text = f"{skipped}Short one. The {long}. `Code` here.\n- {long}\n"
    counts = [pages.count(s) for s in pages.sentences(text)]
    assert counts == [2, 47, 2, 46]

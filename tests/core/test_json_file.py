"""JSON of strangers ends in a value or in one line."""

import pytest

from madad_jax.core import errors, json_file, messages


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no JSON"),
        (b"{'a': 1}", "no JSON"),
        (b"\xff\xfe\xfd", "no JSON"),
        (b"1" * 5000, "no JSON"),
        (b"[" * 70 + b"]" * 70, "deeper than 64"),
        (b"[" * 100_000 + b"]" * 100_000, "deeper than 64"),
        (b"null", "holds null; accepted: a JSON object"),
        (b"[1, 2]", "accepted: a JSON object"),
    ],
)
def test_a_file_that_is_no_object_is_named_in_one_line(tmp_path, content, words):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(errors.UserError) as found:
        json_file.read_object(path)
    assert words in str(found.value)
    assert "state.json" in str(found.value)
    assert len(str(found.value)) < 400


def test_a_missing_file_a_large_file_and_a_good_file(tmp_path):
    with pytest.raises(errors.UserError, match="cannot be read"):
        json_file.read(tmp_path / "none.json")
    path = tmp_path / "good.json"
    path.write_text('{"a": [1, {"b": null}]}')
    assert json_file.read_object(path) == {"a": [1, {"b": None}]}
    with pytest.raises(errors.UserError, match="has 23 bytes; accepted: JSON of at most 10"):
        json_file.read(path, most_bytes=10)


def test_words_of_a_file_are_shortened_and_cannot_steer_a_terminal():
    assert messages.shorten("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert messages.shorten("x" * 200, 10) == "x" * 9 + "…"
    assert messages.shorten(list(range(10**6))) == "list of 1000000, first [0, 1, 2]"
    assert messages.shorten(10**5000) == "an integer of 16610 bits"
    assert messages.shorten("Größe 3") == "Größe 3"

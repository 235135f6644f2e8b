"""The program that damages files finds nothing that is wrong, and would tell it."""

import pytest

from benchmarks import damage
from madad_jax.core import errors

# NIfTI has tests of its own, with more tries.
READERS = tuple(kind for kind in damage.KINDS if not kind.startswith("nii"))


@pytest.mark.parametrize("tries", [20, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", READERS)
def test_readers_refuse_or_read_the_same(tmp_path, kind, tries):
    found = damage.attempt(kind, tries, tmp_path)
    assert found["tries"] == tries == sum(found[column] for column in damage.COLUMNS[1:])
    assert found["wrong"] == found["tracebacks"] == 0, found
    assert found["refused"] > tries / 4


def test_what_is_wrong_is_counted(tmp_path, monkeypatch):
    answers = iter([{"a": 1}, {"a": 1}, {"a": 2}, errors.UserError("two\nlines"), KeyError("a")])

    def read(path):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(damage.KINDS, "odd", ("odd", lambda: b"12345678", read, True))
    found = damage.attempt("odd", 4, tmp_path)
    assert (found["equal"], found["wrong"], found["tracebacks"]) == (1, 2, 1)
    assert found["first"] == "seed 3: KeyError"


def test_a_row_stands_in_the_table():
    row = dict.fromkeys(damage.COLUMNS, 3) | {"longest": 0.5, "memory": 2048, "first": ""}
    assert "| npz | 3 | 3 | 3 | 3 | 3 | 3 | 0.50 | 2 |" in damage.table({"npz": row})

"""The validator before a run: where it is, where it is not, and what it finds."""

import json

import pytest

from madad_jax.bids import validator
from madad_jax.core import errors
from tests.bids import conftest


def stand_in(folder, monkeypatch, issues, status=16):
    """A program of the validator's name that gives these issues."""
    program = folder / validator.PROGRAM
    text = issues if isinstance(issues, str) else json.dumps({"issues": {"issues": issues}})
    (folder / "answer").write_text(text)
    program.write_text(f"#!/bin/sh\ncat {folder / 'answer'}\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setattr(validator, "find", lambda: str(program))


def issue(code, place, severity="error"):
    return {"code": code, "location": place, "severity": severity}


def test_errors_refuse_and_damaged_files_are_told(tmp_path, monkeypatch, caplog):
    damaged, hint = issue("EMPTY_FILE", "/sub-1/x"), issue("TOO_FEW_AUTHORS", "/d", "warning")
    stand_in(tmp_path, monkeypatch, [damaged, hint])
    validator.check("raw")
    assert "1 damaged files: sub-1/x" in caplog.text
    stand_in(tmp_path, monkeypatch, [damaged, issue("NOT_INCLUDED", "/a\x1b[31m")])
    with pytest.raises(errors.UserError, match=r"NOT_INCLUDED.*--skip-bids-validation") as caught:
        validator.check("raw")
    assert "EMPTY_FILE" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "answer", ["", "no JSON", "{}", '{"issues": 3}', '{"issues": {"issues": [1]}}']
)
def test_an_answer_that_cannot_be_read(tmp_path, monkeypatch, answer):
    stand_in(tmp_path, monkeypatch, answer)
    with pytest.raises(errors.UserError, match="gave no answer that can be read"):
        validator.check("raw")


def test_a_line_where_it_is_not_installed(monkeypatch, caplog):
    monkeypatch.setattr(validator, "find", lambda: "")
    validator.check("raw")
    assert "bids-validator-deno is not installed: the data set is not validated" in caplog.text


def test_the_program_itself(tree, tmp_path, caplog):
    assert conftest.errors_of(tree) == []
    validator.check(str(tree))
    conftest.write_description(tmp_path / "raw")
    for number, content in enumerate((b"", b"no NIfTI" * 99)):
        path = tmp_path / "raw" / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (path.parent / f"sub-{number}_FLAIR.nii.gz").symlink_to("gone")
    validator.check(str(tmp_path / "raw"))
    assert "3 damaged files: sub-0/anat/sub-0_T1w.nii.gz, sub-1" in caplog.text
    conftest.save(tmp_path / "raw" / "sub-2" / "anat" / "sub-2_run-1_acq-x_T1w.nii.gz", 0)
    with pytest.raises(errors.UserError, match="sub-2_run-1_acq-x_T1w"):
        validator.check(str(tmp_path / "raw"))

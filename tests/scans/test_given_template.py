"""Which template a scan gets: by file, by week, and by the record of a model."""

import dataclasses
import json

import pytest

from madad_jax.core import errors
from madad_jax.scans import given_template


def make(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def atlas(tmp_path):
    return make(
        tmp_path / "atlas", "STA30.nii.gz", "STA28.nii", "STA29.nii.gz", "read.me", ".7.nii"
    )


def test_a_folder_by_rising_week(atlas):
    found = given_template.find(atlas)
    assert [(t.file, t.week) for t in found] == [
        ("STA28.nii", 28.0),
        ("STA29.nii.gz", 29.0),
        ("STA30.nii.gz", 30.0),
    ]
    assert len({t.sha256 for t in found}) == 3 and found[0].path == str(atlas / "STA28.nii")
    half = given_template.find(make(atlas.parent / "half", "w24.5.nii.gz"))
    assert half[0].week == 24.5


@pytest.mark.parametrize(
    ("weeks", "file"),
    [
        (28.0, "STA28.nii"),
        (28.4, "STA28.nii"),
        (28.5, "STA28.nii"),
        (28.6, "STA29.nii.gz"),
        (31.0, "STA30.nii.gz"),
        (27.0, "STA28.nii"),
    ],
)
def test_the_nearest_week(atlas, weeks, file):
    assert given_template.choose(given_template.find(atlas), weeks).file == file


def test_a_week_away_is_too_far(atlas):
    found = given_template.find(atlas)
    words = (
        r"found 31\.01 weeks, the nearest template 'STA30\.nii\.gz' shows 30; accepted: within 1"
    )
    with pytest.raises(errors.UserError, match=words):
        given_template.choose(found, 31.01)
    with pytest.raises(errors.UserError, match="28 to 30 weeks; accepted: --gestational_age"):
        given_template.choose(found, None)
    # A file alone says no week, whatever its name.
    alone = given_template.find(atlas / "STA28.nii")
    assert given_template.choose(alone, 36.0) is alone[0] and alone[0].week is None


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "holds 0 files"),
        (
            ("STA28.nii.gz", "STA28_tissue.nii.gz"),
            "'STA28.nii.gz' and 'STA28_tissue.nii.gz' for we",
        ),
        (
            ("t2_28.nii.gz",),
            r"'t2_28.nii.gz': found 2, 28; accepted: names with exactly one number",
        ),
        (("mean.nii",), "found no number"),
        (("STA280.nii",), "found 280, accepted: 10 to 45 weeks"),
    ],
)
def test_folders_that_do_not_say_a_week_each(tmp_path, names, words):
    with pytest.raises(errors.UserError, match=f"^template: .*{words}"):
        given_template.find(make(tmp_path / "atlas", *names))


def test_files_that_are_none(tmp_path):
    for name, words in (("gone.nii", "found no"), ("a.mgz", "accepted: .nii.gz, .nii, or a f")):
        make(tmp_path, "a.mgz")
        with pytest.raises(errors.UserError, match=words):
            given_template.find(tmp_path / name)


def test_a_record_has_no_paths_and_comes_back(atlas):
    found = given_template.find(atlas)
    text = json.dumps(given_template.to_list(found))
    assert str(atlas) not in text and given_template.from_list(json.loads(text)) == found


@pytest.mark.parametrize("value", [3, {}, [3], [{"file": "a"}], [{"file": "a", "sha256": "x"}]])
def test_a_damaged_record_is_refused(value):
    with pytest.raises(errors.UserError, match=r"^template: found"):
        given_template.from_list(value)


def test_what_a_model_was_trained_with_is_asked_for(atlas):
    recorded = given_template.from_list(given_template.to_list(given_template.find(atlas)[:2]))

    def ask(path="", weeks=None, known=recorded):
        return given_template.find_recorded(known, str(path), weeks, "runs/x")

    assert [(t.file, t.path) for t in ask(atlas, 28.2)] == [("STA28.nii", str(atlas / "STA28.nii"))]
    # One file of the folder alone, under another name; its week is that of the record.
    copy = atlas.parent / "copy.nii"
    copy.write_bytes((atlas / "STA28.nii").read_bytes())
    assert ask(copy)[0].path == str(copy)
    with pytest.raises(errors.UserError, match="found 30 weeks, the nearest"):
        ask(copy, 30.0)
    with pytest.raises(errors.UserError, match=r"--template is missing: runs/x was trained on"):
        ask()
    with pytest.raises(errors.UserError, match=r"found 'STA30\.nii\.gz' \(sha256 .* accepted for"):
        ask(atlas, 30.0)
    assert ask(known=()) == ()
    for given in ((atlas, None), ("", 28.0)):
        with pytest.raises(errors.UserError, match="scans registered to ICBM152"):
            ask(*given, known=())


def test_a_path_is_no_part_of_what_a_template_is(atlas):
    found = given_template.find(atlas)[0]
    assert dataclasses.replace(found, path="/elsewhere") == found

"""Scans of several gestational ages, each with its week's template, from the command to disk."""

import json
import shutil

import pytest

from madad_jax.core import errors
from madad_jax.data import provenance
from madad_jax.prepare import __main__ as main
from madad_jax.prepare import ages, subject
from madad_jax.prepare import job as job_lib
from madad_jax.scans import given_template
from tests.scans import cases, fetal_cases

TABLE = """
id: '[a-z]+'
healthy: true
images: {{T2: '{{id}}_T2{{nii}}'}}
options: {{registration: none, template: '{atlas}', ages: '{table}'}}
fractions: {{test: 1.0}}
"""
WEEKS = {"young": 27.2, "older": 28.4, "oldest": 33.0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four scans, a table of ages that leaves one out, and templates of two weeks."""
    folder = tmp_path_factory.mktemp("fetal")
    for name in (*WEEKS, "unknown"):
        cases.save(folder / "in" / f"{name}_T2.nii.gz", *fetal_cases.see(voxel=1.5))
    (folder / "atlas").mkdir()
    for week in (27, 28):
        fetal_cases.write_template(folder / "atlas", f"STA{week}.nii.gz", factor=week / 28)
    rows = "".join(f"{name}\t{weeks}\n" for name, weeks in WEEKS.items())
    (folder / "ages.tsv").write_text(f"participant_id\tGestational_age\n{rows}")
    paths = {"atlas": folder / "atlas", "table": folder / "ages.tsv"}
    (folder / "cohort.yaml").write_text(TABLE.format(**paths))
    return folder


def arguments(place, out, *more):
    return [
        *("prepare", "--cohort=folder", f"--cohort_file={place / 'cohort.yaml'}"),
        *(f"--in={place / 'in'}", f"--out={out}", "--image_size=48", "--field_of_view=96"),
        *("--slice_step=20", *more),
    ]


def make_job(place, out, *more):
    options = main.make_flags()
    options(arguments(place, out, *more))
    return main.make_job(options)


@pytest.fixture(scope="module")
def prepared(place):
    out = place / "out"
    assert main.run(arguments(place, out)) == 1
    return out


def test_each_scan_has_its_weeks_template(prepared, place):
    dataset = json.loads((prepared / "dataset.json").read_text())
    assert {scan: facts["template"] for scan, facts in dataset["scans"].items()} == {
        "young": "STA27.nii.gz",
        "older": "STA28.nii.gz",
    }
    rows = [json.loads(line) for line in (prepared / "manifest.jsonl").read_text().splitlines()]
    assert {(row["scan"], row["gestational_weeks"]) for row in rows} == {
        ("young", 27.2),
        ("older", 28.4),
    }
    assert len(rows) >= 6 and {row["split"] for row in rows} == {"test_healthy"}
    transform = json.loads((prepared / "transforms" / "older.json").read_text())
    assert transform["to"] == "STA28.nii.gz mm (RAS+)" and transform["overlap"] > 0.9
    said = (prepared / "summary.md").read_text()
    assert "- oldest: gestational age: found 33 weeks, the nearest template 'STA28.nii.gz'" in said
    assert "- unknown: gestational age is missing: --ages does not name it" in said
    assert "the user's template (STA27.nii.gz, STA28.nii.gz" in (prepared / "README.md").read_text()


def test_the_record_says_which_templates_and_comes_back(prepared, place, tmp_path):
    files = given_template.find(place / "atlas")
    assert str(place) not in (prepared / "dataset.json").read_text()
    found = provenance.describe_source(
        name="png_folder", root=str(prepared), modality="T2", image_size=24, cohort=None
    )
    assert found.template == files and all(t.path == "" for t in found.template)
    assert found.geometry.space == "template" and found.geometry.image_size == 24
    (tmp_path / "preparation.json").write_text(json.dumps(found.to_dict()))
    assert provenance.read(tmp_path / "preparation.json") == found


def test_what_is_done_again(prepared, place, tmp_path):
    """A moved atlas changes nothing; another age one scan; another template is another folder."""
    moved = shutil.copytree(place / "atlas", tmp_path / "moved")
    plan = job_lib.plan(make_job(place, prepared, f"--template={moved}"))
    assert len(plan.current) == 2 and not plan.todo
    table = tmp_path / "ages.csv"
    table.write_text("id,weeks\nyoung,27.2\nolder,27.9\n")
    plan = job_lib.plan(make_job(place, prepared, f"--ages={table}"))
    assert [item.scan for item in plan.todo] == ["older"]
    fetal_cases.write_template(moved, "STA28.nii.gz", factor=2.0)
    with pytest.raises(errors.UserError, match=r"was prepared with options\.template="):
        job_lib.plan(make_job(place, prepared, f"--template={moved}"))


def test_one_age_of_all_takes_one_template(place, tmp_path):
    job = make_job(place, tmp_path / "out", "--gestational_age=27.6")
    assert [t.file for t in job.options.preparation.template] == ["STA28.nii.gz"]
    plan = job_lib.plan(job)
    assert not plan.refused and {item.weeks for item in plan.todo} == {27.6}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gestational_age=28", "--ages={place}/ages.tsv"], "exclude each other"),
        (["--gestational_age=280"], "--gestational_age: found 280, accepted: 10 to 45"),
        (["--gestational_age=36"], "within 1 week of a template"),
        (["--template={place}/none"], "template: found no '"),
        (["--ages={place}/cohort.yaml"], "--ages: .* has the columns"),
        (["--protocol=s1"], "protocol: found 's1'"),
        (["--field_of_view=50"], "field_of_view: found 50 mm"),
    ],
)
def test_one_line_for_what_the_user_can_mend(place, tmp_path, flags, words):
    given = [flag.format(place=place) for flag in flags]
    with pytest.raises(errors.UserError, match=words):
        job_lib.plan(make_job(place, tmp_path / "out", *given))


def test_a_folder_of_templates_needs_ages(place, tmp_path):
    text = (place / "cohort.yaml").read_text()
    bare = tmp_path / "bare.yaml"
    bare.write_text(text.replace(f", ages: '{place / 'ages.tsv'}'", ""))
    with pytest.raises(errors.UserError, match="gestational age is missing: the templates show 27"):
        make_job(place, tmp_path / "out", f"--cohort_file={bare}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns"),
        ("id,age\na,3\n", "accepted: one of .* and one of weeks, gestational_age"),
        ("id,weeks\na,28\nb\n", "line 3: found ''"),
        ("id,weeks\na,196\n", "line 2: found 196, accepted: 10 to 45"),
        ("id,weeks\na,nan\n", "line 2: found nan"),
        ("id,weeks\na,28\na,29\n", "line 3: 'a' has 28 and 29 weeks; accepted: one age"),
    ],
)
def test_tables_with_mistakes_are_refused(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(errors.UserError, match=words):
        ages.read(str(tmp_path / "a.csv"))


def test_a_scan_goes_before_its_person_and_somebody_is_named():
    item = subject.Item("p_1", "p", "", {"T2": "/in/p_1.nii"})
    placed, _ = ages.assign([item], ages.Ages(of_each={"p": 25.0, "p_1": 26.0}), ())
    assert placed[0].weeks == 26.0
    with pytest.raises(errors.UserError, match="none of 1 scans is named"):
        ages.assign([item], ages.Ages(of_each={"q": 25.0}), ())
    assert ages.assign([item], ages.Ages(), ()) == ([item], {})

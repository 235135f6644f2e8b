"""What lies on disk by an earlier version: digests and key orders, written down."""

import json

from madad_jax.data import provenance
from madad_jax.prepare import cohorts, output, subject
from madad_jax.prepare import job as job_lib
from madad_jax.scans import geometry
from tests.scans import cases

OPTIONS = cases.options(
    protocol="s2",
    geometry=geometry.Geometry(64, 208.0),
    registration="none",
    shift=(1.0, -2.0, 0.5),
    brain_mask="given",
    low=2.0,
    n4=True,
    bits=16,
    labels=(1, 4),
    unjudged=(2,),
)
GEOMETRY = (
    '{"image_size": 64, "field_of_view": 208.0, "centre": [0.0, -18.0], "left": "left", '
    '"first_level": -72.0, "level_step": 1.0, "space": "ICBM152"}'
)


def test_options_are_stored_as_before():
    """In this order: `dataset.json` is compared byte by byte."""
    assert json.dumps(OPTIONS.to_dict()) == (
        f'{{"protocol": "s2", "geometry": {GEOMETRY}, "slice_step": 1, "least_brain": 0.02, '
        '"registration": "none", "shift": [1.0, -2.0, 0.5], "brain_mask": "given", '
        '"intensity": "percentile", "low": 2.0, "high": 99.0, "n4": true, '
        '"interpolation": "linear", "bits": 16, "labels": [1, 4], "unjudged": [2]}'
    )


def test_a_scan_prepared_before_is_current():
    images = {"T1": "/in/a.nii", "T2": "/in/b.nii"}
    item = subject.Item("a_1", "a", "test", images, brain_mask="/in/m.nii")
    assert output.key(item, OPTIONS, "/in") == "4c2de33fe3fc7643"


def test_the_lists_digest_is_as_before():
    cohort = cohorts.Cohort(title="t", images={"T1": ("{id}",)})
    lists = {"b": "train", "a": "test"}
    job = job_lib.Job(cohort, "/in", "/out", ("T1",), OPTIONS, {"train": 1.0}, lists=lists)
    assert job.settings()["lists"] == "08e6e2b7a3cf72b2"


def test_a_runs_preparation_is_stored_as_before(tmp_path):
    made = provenance.SourcePreparation(
        geometry.Geometry(64, 208.0), shift=(1.0, -2.0, 0.5), modality="T1", numbers=(4, 30, 2)
    )
    text = (
        f'{{"geometry": {GEOMETRY}, "modality": "T1", "registration": "affine", '
        '"shift": [1.0, -2.0, 0.5], "brain_mask": "auto", "intensity": "percentile", '
        '"low": 1.0, "high": 99.0, "n4": false, "interpolation": "linear", "least_brain": 0.02, '
        '"numbers": [4, 30, 2]}'
    )
    assert json.dumps(made.to_dict()) == text
    (tmp_path / "preparation.json").write_text(text)
    assert provenance.read(tmp_path / "preparation.json") == made


def test_a_prepared_folder_says_how_scans_are_cut(tmp_path):
    """All that changes a pixel comes back from `dataset.json`, as `card.dataset` lays it out."""
    options = OPTIONS.to_dict()
    facts = {"format": 1, "geometry": options.pop("geometry"), "options": options}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    found = provenance.describe_source(
        name="png_folder", root=str(tmp_path), modality="T2", image_size=64, cohort=None
    )
    mine = OPTIONS.preparation
    assert {name: getattr(found, name) for name in vars(mine)} == vars(mine)
    assert found.modality == "T2" and found.numbers is None

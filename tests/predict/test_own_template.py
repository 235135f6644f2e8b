"""A model of scans that were registered to the user's own template scores scans by that file."""

import dataclasses
import json
import shutil

import pytest

from madad_jax.core import errors
from madad_jax.predict import __main__, api
from madad_jax.scans import given_template, target
from tests.scans import cases, fetal_cases


@pytest.fixture(scope="module")
def place(untrained, tmp_path_factory):
    """A run whose record names a template, the template, and a turned scan."""
    folder = tmp_path_factory.mktemp("fetal")
    (folder / "atlas").mkdir()
    fetal_cases.write_template(folder / "atlas")
    templates = given_template.find(folder / "atlas")
    geometry = target.lay_slices(templates, 32, 96.0)
    record = {
        "geometry": geometry.to_dict(),
        "modality": "T1",
        "brain_mask": "nonzero",
        "template": given_template.to_list(templates),
        "numbers": [4, 60, 14],
    }
    shutil.copytree(untrained, folder / "run")
    (folder / "run" / "preparation.json").write_text(json.dumps(record))
    cases.save(folder / "scan.nii.gz", *fetal_cases.see(fetal_cases.move(), voxel=1.5))
    return folder


def command(place, *more):
    return [
        *("predict", f"--checkpoint={place / 'run'}", f"--input={place / 'scan.nii.gz'}"),
        *(f"--output={place / 'out'}", "--threshold=0.01", "--report=false", *more),
    ]


def test_a_scan_is_cut_by_the_template_that_is_given(place):
    given = (f"--template={place / 'atlas'}", "--gestational_age=28.5")
    assert __main__.run(command(place, *given)) == 0
    summary = json.loads((place / "out" / "summary.json").read_text())
    scan = summary["scan"]
    assert scan["registration_overlap"] > 0.95 and scan["slices_scored"] == 4
    assert scan["template"]["file"] == "STA28.nii.gz" and scan["template"]["week"] == 28.0
    # Other programs take it for the way to ICBM152, and regions for adults'.
    assert scan["to_template_mm"] is None
    assert all(c["centre_mni_mm"] is None for c in summary["candidates"])
    assert "not named" in (place / "out" / "candidates.tsv").read_text()
    with pytest.raises(errors.UserError, match=r"with a scan that is registered to 'STA28"):
        __main__.run(command(place, *given, "--space=MNI152NLin2009aSym"))


def test_without_it_or_with_another_nothing_is_scored(place, untrained, tmp_path):
    other = fetal_cases.write_template(tmp_path, factor=0.5)
    run = str(place / "run")
    with pytest.raises(errors.UserError, match=r"--template is missing: --checkpoint=.*STA28"):
        api.load(run, threshold=0.5)
    with pytest.raises(errors.UserError, match=r"--template: found .*, accepted for .*STA28"):
        api.load(run, threshold=0.5, template=other)
    with pytest.raises(errors.UserError, match="--gestational_age: found 200, accepted: 10 to 45"):
        api.load(run, threshold=0.5, template=str(place / "atlas"), gestational_age=200.0)
    with pytest.raises(errors.UserError, match="scans registered to ICBM152"):
        api.load(str(untrained), threshold=0.5, template=other)


def test_the_model_itself_keeps_its_record(place):
    model = api.open_model(str(place / "run"), "")
    found = api.find_template(model, str(place / "atlas" / "STA28.nii.gz"), None)
    assert found.preparation.template[0].path and not model.preparation.template[0].path
    assert dataclasses.replace(found, preparation=model.preparation) == model

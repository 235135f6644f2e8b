"""Two contrasts, one of them missing on some slices: trained, and scored with either and both."""

import json
import shutil

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.evaluation import calibrate, paired
from madad_jax.experiment import contrast_views

SETS = ("test", "test-T1", "test-T2")
GEOMETRY = {"image_size": 256, "field_of_view": 192.0, "level_step": 2.0}


@pytest.fixture
def both(tiny, tmp_path, png_root):
    """The tiny config on slices whose second contrast is the first one's picture; a person of the
    training set and one of the test set have no second one."""
    root = tmp_path / "both"
    shutil.copytree(png_root, root)
    for path in root.glob("*/*-T1.png"):
        if not path.name.startswith(("train00", "test00")):
            shutil.copy(path, path.with_name(path.name.replace("-T1", "-T2")))
    (root / "dataset.json").write_text(json.dumps({"geometry": GEOMETRY}))
    tiny.data.update(root=str(root), modality="T1,T2")
    tiny.eval.contrasts = ("T1,T2", "T1", "T2")
    return tiny


@pytest.mark.slow
def test_one_run_scores_every_subset_with_thresholds_of_its_own(both, execute, tmp_path):
    run = tmp_path / "run"
    execute(both, run)
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    own = {row["set"]: row for row in rows if row["method"] == "madad"}
    assert tuple(own) == SETS
    assert [own[name]["missing"] for name in SETS] == [[], ["T2"], ["T1"]]
    # The person without T2 is left out where T2 is asked for.
    assert own["test"]["n_slices"] == own["test-T2"]["n_slices"] < own["test-T1"]["n_slices"]
    text = (run / "report.md").read_text()
    assert "Set test-T1: scored without T2; shown was T1." in text
    for contrasts in ((), ("T1",), ("T2",)):
        found = calibrate.load(run, contrast_views.calibration_file(contrasts))
        assert found.facts["contrasts"] == list(contrasts or ("T1", "T2"))
    factors = json.loads((run / "latents" / "complete.json").read_text())["scaling_factor"]
    assert len(factors) == 2 and np.isfinite(factors).all()
    differ = paired.differences([str(run), f"{run}@test-T2"], "test", draws=20)
    assert {entry["run"] for entry in differ[1:]} == {"run", "run@test-T2"}
    with pytest.raises(errors.UserError, match="holds other slices"):
        paired.differences([str(run), f"{run}@test-T1"], "test", draws=20)

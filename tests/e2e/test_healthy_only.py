"""A cohort of healthy people alone: no `test` folder, and nothing wrong with that."""

import json
import shutil

import pytest

from madad_jax.core import errors
from madad_jax.evaluation import calibrate
from madad_jax.experiment import report_stage

GEOMETRY = {"image_size": 256, "field_of_view": 192.0, "level_step": 2.0}


@pytest.fixture
def healthy(tiny, tmp_path, png_root):
    """The tiny config on the tiny data without its test sets."""
    root = tmp_path / "healthy"
    shutil.copytree(png_root, root, ignore=shutil.ignore_patterns("test*"))
    (root / "dataset.json").write_text(json.dumps({"geometry": GEOMETRY}))
    tiny.data.root = str(root)
    return tiny


def test_a_run_trains_calibrates_and_says_what_evaluation_needs(
    healthy, execute, trained, tmp_path, capsys
):
    run = tmp_path / "run"
    healthy.autoencoder.checkpoint = str(trained)
    execute(healthy, run)
    assert [s.subject for s in calibrate.load(run).select("map", "none").scans] == [
        f"val0{i}" for i in range(5)
    ]
    text = (run / "report.md").read_text()
    assert "no set 'test'" in text and "T1|brainmask|segmentation}.png" in text
    assert "Calibrated on 5 healthy validation scans" in text and "curves.png" in text
    assert "Results" not in text and not (run / "results.jsonl").exists()
    report_stage.print_table(str(run))
    assert capsys.readouterr().out == f"report: {run / 'report.md'}\n"
    # Slices that do not say where they lie calibrate nothing, and that is said.
    (run / "calibration.npz").unlink()
    (tmp_path / "healthy" / "dataset.json").unlink()
    execute(healthy, run, "evaluate")
    assert "No calibration for whole scans" in (run / "report.md").read_text()


def test_a_set_that_was_asked_for_is_missed(healthy, execute, tmp_path):
    healthy.eval.sets = ("test", "other")
    with pytest.raises(errors.UserError, match=r"test' does not exist; found: train, val"):
        execute(healthy, tmp_path / "run")


def test_a_folder_of_another_letter_case_is_a_mistake(healthy, execute, tmp_path, png_root):
    shutil.copytree(png_root / "test", tmp_path / "healthy" / "Test")
    with pytest.raises(errors.UserError, match=r"test' does not exist; found: Test, train, val"):
        execute(healthy, tmp_path / "run")


def test_healthy_test_people_are_named(healthy, png_root, tmp_path):
    from madad_jax.assembly import parts
    from madad_jax.experiment import healthy_only

    shutil.copytree(png_root / "test_healthy", tmp_path / "healthy" / "test_healthy")
    made = parts.assemble(healthy)
    assert healthy_only.sets_to_score(made) == ()
    assert "--config.eval.sets=\"('test_healthy',)\"" in healthy_only.explain(made)

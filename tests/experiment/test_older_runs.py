"""A run folder of version 0.1.0, whose config had MAD-AD's settings at the top, still opens."""

import json
import pathlib
import tarfile

import jax
import pytest
from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import config_record, parts
from madad_jax.core import errors
from madad_jax.evaluation import report
from madad_jax.experiment import stages
from madad_jax.predict import run_model
from madad_jax.runtime import stop as stop_lib
from tests.e2e import tiny_config

ARCHIVE = pathlib.Path(__file__).parents[1] / "fixtures" / "run_of_0_1_0" / "run.tar.xz"


@pytest.fixture
def older(tmp_path):
    """The folder with `run` and `slices`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def config_of(folder):
    config = tiny_config.get_config()
    config.denoiser.hidden_size = 16
    config.data.root = str(folder / "slices")
    return config


def execute(config, folder, mode):
    with stop_lib.GracefulStop() as stop:
        stages.execute(config, str(folder / "run"), mode, stop, jax.devices()[:1])


def test_it_is_evaluated_with_the_figures_of_before(older):
    results = older / "run" / "results.jsonl"
    before = report.read_results(epath.Path(results))
    results.unlink()
    execute(config_of(older), older, "evaluate")
    after = report.read_results(epath.Path(results))
    assert [row["method"] for row in after] == [row["method"] for row in before]
    for ours, theirs in zip(after, before, strict=True):
        assert ours["preset"] == theirs["preset"] == "paper, changed"
        for key in ("ap", "auroc", "pooled_max_dice", "max_dice"):
            # Weights are the same; another processor rounds maps otherwise.
            assert ours[key] == pytest.approx(theirs[key], abs=2e-3), (ours["method"], key)


def test_another_training_is_refused_by_the_name_of_today(older):
    config = config_of(older)
    config.methods.madad.masking.max_ratio = 0.5
    with pytest.raises(errors.UserError, match=r"methods\.madad\.masking\.max_ratio: 0\.4 -> 0\.5"):
        execute(config, older, "evaluate")


def test_another_inference_is_not(older):
    config = config_of(older)
    config.methods.madad.inference.sampler.steps = 3
    assert "methods.madad.inference.sampler.steps" not in parts.assemble(config).stage_record(
        "denoiser"
    )


def test_its_own_config_opens_for_prediction(older):
    """Read from the checkpoint, with every key that today's code asks for."""
    found = run_model.read_config(epath.Path(older / "run"), None)
    made = parts.assemble(config_dict.ConfigDict(found))
    assert made.method.score.sigma == 5.0 * 32 / 256 and made.method.sampler.steps == 2
    assert made.preset == "paper, changed"
    assert any(word.startswith("methods.madad.loss.mask=") for word in found["preset_values"])
    assert not set(found) & {"score", "sampler", "masking", "loss"}


def test_renaming_leaves_what_is_of_today():
    now = config_record.plain(tiny_config.get_config())
    assert config_record.rename(now) == now
    flat = {"score.sigma": 1.0, "score.gamma": 2.0, "scores": 3, "autoencoder.loss.kl_weight": 4}
    assert config_record.rename_flat(flat) == {
        "map.sigma": 1.0,
        "methods.madad.inference.score.gamma": 2.0,
        "scores": 3,
        "autoencoder.loss.kl_weight": 4,
    }
    assert json.dumps(config_record.rename({"converted_from": "x", "kind": {}}))

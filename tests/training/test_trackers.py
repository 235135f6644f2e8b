"""Trackers: what they get, that a run goes on without them, and the real ones without a network."""

import json
import logging
import math
import sys

import pytest

from madad_jax.assembly import config_record
from madad_jax.core import errors
from madad_jax.training import metric_log, trackers
from tests.e2e import tiny_config

FAKE = """
LOG = []
class Run:
    def __init__(self, **options):
        LOG.append(options)
        self.id = options["id"] or "new"
    def define_metric(self, *a, **k):
        pass
    def log(self, row):
        if "broken" in str(row):
            raise OSError("no route to host")
        LOG.append(row)
    def finish(self):
        LOG.append("finished")
init = Run
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A package named wandb that writes down what it gets."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    import wandb

    yield wandb
    del sys.modules["wandb"]


def made(tmp_path, names=("wandb",)):
    return trackers.Trackers(names, tmp_path / "run", "tiny", {"seed": 0, "a": {"b": 1}})


def test_the_same_numbers_as_the_file(fake, tmp_path):
    with metric_log.MetricWriter(tmp_path / "run", True, made(tmp_path)) as writer:
        writer.write("denoiser", "train", 10, {"loss": 0.5, "lr": math.nan})
    opened, row, end = fake.LOG
    assert opened["name"] == "tiny" and opened["config"] == {"seed": 0, "a": {"b": 1}}
    # What is not finite is no point of a curve.
    assert row == {"denoiser/train/loss": 0.5, "denoiser/step": 10} and end == "finished"
    assert metric_log.read(tmp_path / "run")[0]["loss"] == 0.5


def test_a_continued_run_continues_its_record(fake, tmp_path):
    made(tmp_path).close()
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()) == {"wandb": "new"}
    made(tmp_path).close()
    assert [o["id"] for o in fake.LOG if isinstance(o, dict)] == [None, "new"]


def test_a_tracker_that_fails_is_dropped_with_a_line(fake, tmp_path, caplog):
    with (
        caplog.at_level(logging.WARNING),
        metric_log.MetricWriter(tmp_path / "run", True, made(tmp_path)) as writer,
    ):
        writer.write("denoiser", "train", 1, {"broken": 1.0})
        writer.write("denoiser", "train", 2, {"loss": 1.0})
    assert "wandb failed and gets no more metrics (OSError: no route to host)" in caplog.text
    assert len(metric_log.read(tmp_path / "run")) == 2 and len(fake.LOG) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandbb", r"log.track: found 'wandbb', accepted: wandb, mlflow"),
        ("mlflow", r"log.track: found 'mlflow', which is not installed; pip .*madad_jax\[track\]"),
    ],
)
def test_what_is_not_there_is_said_before_a_step(monkeypatch, tmp_path, name, message):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match=message):
        made(tmp_path, (name,))


def test_a_run_is_the_same_with_a_tracker():
    config = tiny_config.get_config()
    keys = config_record.stage_keys(config, True)
    before = {s: config_record.flatten(config_record.plain(config), keys[s]) for s in keys}
    config.log.track = ("wandb", "mlflow")
    after = {s: config_record.flatten(config_record.plain(config), keys[s]) for s in keys}
    assert before == after


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    """The package itself, which keeps what it would send."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with metric_log.MetricWriter(tmp_path / "run", True, made(tmp_path)) as writer:
        writer.write("denoiser", "train", 10, {"loss": 0.5})
    (run_id,) = json.loads((tmp_path / "run" / "trackers.json").read_text()).values()
    (kept,) = (tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{run_id}.wandb")
    assert b"denoiser/train/loss" in kept.read_bytes()


def test_mlflow_in_the_run_folder(tmp_path, monkeypatch):
    """The package itself: a data base beside the run's other files, continued by the next start."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (10, 20):
        with metric_log.MetricWriter(tmp_path / "run", True, made(tmp_path, ("mlflow",))) as writer:
            writer.write("denoiser", "train", step, {"loss": 1.0 / step})
    (run_id,) = json.loads((tmp_path / "run" / "trackers.json").read_text()).values()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    points = client.get_metric_history(run_id, "denoiser/train/loss")
    assert [(p.step, p.value) for p in points] == [(10, 0.1), (20, 0.05)]
    assert client.get_run(run_id).data.params == {"seed": "0", "a.b": "1"}

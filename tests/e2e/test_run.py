"""The whole job on tiny data, its resumption, and what a user does wrong."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from madad_jax.assembly import parts
from madad_jax.checkpoints import saver as saver_lib
from madad_jax.core import errors
from madad_jax.data import provenance
from madad_jax.devices import mesh as mesh_lib
from madad_jax.evaluation import calibrate, report
from madad_jax.experiment import preflight
from madad_jax.metrics import scan_stacks
from madad_jax.runtime import stop as stop_lib
from madad_jax.runtime import watchdog
from madad_jax.training import batch_specs
from madad_jax.training import trainer as trainer_lib


class StopAfter(stop_lib.GracefulStop):
    """Asks for a stop after some steps, as a signal would."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def requested(self, step):
        if step >= self._step:
            self.signal = signal.SIGTERM
        return self.signal is not None


@pytest.fixture(scope="module")
def finished(tmp_path_factory, png_root, trained):
    """One undisturbed run, shared by the tests that only look at it."""
    from madad_jax.experiment import stages
    from tests.e2e import tiny_config

    config = tiny_config.get_config()
    config.data.root = str(png_root)
    workdir = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(trained, workdir)
    with stop_lib.GracefulStop() as stop:
        stages.execute(config, str(workdir), "run", stop, jax.devices()[:1])
    return workdir


def restored(config, workdir, stage="denoiser"):
    """The newest state of a stage, with its data position."""
    key = (config.to_json(), stage)
    if key not in _STATES:
        _STATES[key] = _abstract_state(config, stage)
    with saver_lib.Checkpointer(workdir / stage / "checkpoints") as saver:
        return saver.restore_latest(_STATES[key])


_STATES = {}  # Traced once a config: a second each.


def _abstract_state(config, stage):
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    made = parts.assemble(config)
    method, plan = made.method, made.plan
    if stage == "autoencoder":
        method, plan = made.autoencoder.method, made.autoencoder.plan
    planned = plan.budget(12)
    tx, _ = plan.optimizer(planned)
    trainer = trainer_lib.Trainer(
        method,
        tx,
        plan.options(planned),
        batch_spec=batch_specs.image_spec(plan.batch_size, 32),
        mesh=mesh,
        seed=0,
    )
    return trainer.abstract


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timing = ("time", "samples_per_second")
    lines = [line for line in lines if line["split"] != "goodput"]
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_leaves_everything_a_user_was_promised(finished):
    rows = report.read_results(finished / "results.jsonl")
    names = [row["method"] for row in rows]
    assert [r["learns"] for r in rows].count(False) == 3 and "madad" in names
    detector = rows[names.index("madad")]
    assert detector["preset"] == "paper, changed" and 0 <= detector["ap"] <= 1
    assert detector["n_lesion_slices"] == 6 and detector["n_healthy_slices"] == 3
    text = (finished / "report.md").read_text()
    assert "madad" in text and "synthetic" not in text.lower()
    for file in ("curves.png", "eval/test/panels/panel_00.png"):
        assert (finished / file).stat().st_size > 5000
    assert list((finished / "tensorboard").rglob("events*")), "no TensorBoard curves"
    stages_seen = {(row["stage"], row["split"]) for row in metrics_of(finished)}
    assert stages_seen == {(s, p) for s in ("autoencoder", "denoiser") for p in ("train", "val")}


def test_same_command_again_trains_nothing_and_changes_nothing(
    finished, tiny, execute, monkeypatch
):
    # Nor is it checked again.
    monkeypatch.setattr(preflight, "check_programs", lambda parts: pytest.fail("checked twice"))

    def stamps():
        return {p: p.stat().st_mtime_ns for p in finished.rglob("*/checkpoints/**/*")}

    before, metrics = stamps(), metrics_of(finished)
    execute(tiny, finished, "train")
    assert stamps() == before and metrics_of(finished) == metrics


@pytest.mark.parametrize("stage,at", [("autoencoder", 3), ("denoiser", 7)])
def test_stopped_and_resumed_equals_undisturbed_bit_for_bit(
    finished, tiny, execute, tmp_path, stage, at
):
    if stage == "denoiser":
        shutil.copytree(finished / "autoencoder", tmp_path / "autoencoder")
        shutil.copytree(finished / "latents", tmp_path / "latents")
    with pytest.raises(stop_lib.Stopped) as stopped:
        execute(tiny, tmp_path, "train", stop=StopAfter(at))
    assert stopped.value.exit_status == 143
    assert restored(tiny, tmp_path, stage).step == at
    execute(tiny, tmp_path, {"autoencoder": "train_autoencoder", "denoiser": "train"}[stage])
    ours, theirs = restored(tiny, tmp_path, stage), restored(tiny, finished, stage)
    assert_same(ours.state, theirs.state)
    assert ours.data_state == theirs.data_state
    expected = [row for row in metrics_of(finished) if row["stage"] == stage]
    assert [row for row in metrics_of(tmp_path) if row["stage"] == stage] == expected


def test_continues_on_eight_devices_within_rounding(finished, tiny, execute, tmp_path):
    for name in ("autoencoder", "latents", "denoiser"):
        shutil.copytree(finished / name, tmp_path / name)
    # As if it had been stopped before its last checkpoint.
    (tmp_path / "denoiser" / "complete.json").unlink()
    shutil.rmtree(tmp_path / "denoiser" / "checkpoints" / "12")
    assert restored(tiny, tmp_path).step == 8
    tiny.mesh.update(data=2, fsdp=2, tensor=2)
    execute(tiny, tmp_path, "train", devices=8)
    ours, theirs = restored(tiny, tmp_path), restored(tiny, finished)
    assert ours.step == 12
    for a, b in zip(
        jax.tree.leaves(ours.state.params), jax.tree.leaves(theirs.state.params), strict=True
    ):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)


def test_denoiser_starts_from_the_averaged_weights_of_another_run(
    finished, tiny, execute, tmp_path
):
    """At a rate of 0 the weights after the one step are those before it."""
    shutil.copytree(finished / "autoencoder", tmp_path / "autoencoder")
    shutil.copytree(finished / "latents", tmp_path / "latents")
    trained = restored(tiny, finished).state
    expected, _ = saver_lib.restore_ema(finished / "denoiser" / "checkpoints", trained.ema_params)
    tiny.denoiser.init = str(finished)
    tiny.train.steps = 1
    tiny.optim.update(lr=0.0, warmup_epochs=0.0)
    execute(tiny, tmp_path, "train")
    ours = restored(tiny, tmp_path)
    assert ours.step == 1
    assert_same(ours.state.params, expected)
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(trained.params), strict=True)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs), "averaged or not: same"


def test_another_config_in_the_same_folder_names_the_key(finished, tiny, execute):
    tiny.optim.lr = 0.5
    with pytest.raises(errors.UserError, match=r"optim\.lr: 0\.001 -> 0\.5"):
        execute(tiny, finished, "train")


def test_evaluation_options_may_change_without_training(finished, tiny, execute, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    tiny.methods.madad.inference.sampler.steps = 10
    tiny.eval.panels = 0
    execute(tiny, tmp_path / "run", "evaluate")
    assert len(report.read_results(tmp_path / "run" / "results.jsonl")) >= 6


@pytest.mark.parametrize("where", ["mean image", "healthy validation: batch 0", "test: batch 0"])
def test_evaluation_hears_a_signal_and_the_same_command_does_it(
    finished, tiny, execute, tmp_path, monkeypatch, where
):
    shutil.copytree(finished, tmp_path / "run")
    rows = tmp_path / "run" / "results.jsonl"
    rows.unlink()
    progress = watchdog.progress

    def stop_there(what):
        if what == where:
            os.kill(os.getpid(), signal.SIGTERM)
        progress(what)

    monkeypatch.setattr(watchdog, "progress", stop_there)
    with pytest.raises(stop_lib.Stopped, match=r"evaluation: .*: stopped") as stopped:
        execute(tiny, tmp_path / "run", "evaluate")
    assert stopped.value.exit_status == 143 and not rows.exists()
    if where.startswith("test"):  # Once is enough.
        monkeypatch.undo()
        execute(tiny, tmp_path / "run", "evaluate")
        assert rows.read_bytes() == (finished / "results.jsonl").read_bytes()


def test_maps_without_truth_come_out_without_figures(finished, tiny, execute, tmp_path, png_root):
    root = tmp_path / "data"
    shutil.copytree(png_root, root)
    for file in (root / "test").glob("*segmentation*"):
        file.unlink()
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "results.jsonl").unlink()
    tiny.data.root = str(root)
    execute(tiny, tmp_path / "run", "evaluate")
    rows = report.read_results(tmp_path / "run" / "results.jsonl")
    assert all(row["ap"] is None and row["n_unknown"] == 6 for row in rows)
    assert list((tmp_path / "run" / "eval" / "test" / "panels").glob("*.png"))


def test_nan_stops_with_the_step_and_saves_nothing_broken(tiny, execute, tmp_path):
    tiny.autoencoder.optim.lr = 1e30
    tiny.autoencoder.discriminator = False  # half of the time to compile
    with pytest.raises(errors.UserError, match=r"autoencoder: the loss of step \d+ is"):
        execute(tiny, tmp_path, "train_autoencoder")
    folder = tmp_path / "autoencoder" / "checkpoints"
    for step in [p for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []:
        state = restored(tiny, tmp_path, "autoencoder").state
        assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(state.params)), step


def test_evaluation_calibrates_where_slices_say_where_they_lie(
    finished, tiny, execute, tmp_path, png_root
):
    """`dataset.json` in the folder is all that it takes; without it there is no calibration."""
    assert not (finished / "calibration.npz").exists()
    root = tmp_path / "data"
    shutil.copytree(png_root, root)
    geometry = {"image_size": 256, "field_of_view": 192.0, "level_step": 2.0}
    (root / "dataset.json").write_text(json.dumps({"geometry": geometry, "low": 2.0}))
    shutil.copytree(finished, tmp_path / "run")
    tiny.data.root = str(root)
    execute(tiny, tmp_path / "run", "evaluate")
    found = calibrate.load(tmp_path / "run")
    scans = found.select("map", "none").scans
    assert [s.subject for s in scans] == [f"val0{i}" for i in range(5)]
    assert found.facts["spacing"] == [2.0, 6.0, 6.0] and found.facts["numbers"] == [0, 4, 1]
    assert set(found.healthy) == {
        (s, p) for s in ("map", "mask_map", "latent_map") for p in scan_stacks.PRESETS
    }
    assert found.facts["config"]["name"] == "tiny"
    kept = provenance.read(tmp_path / "run" / "preparation.json")
    assert kept.low == 2.0 and kept.geometry.image_size == 32 and kept.modality == "T1"
    assert len(scans[0].histogram) == 4096 and 0 < scans[0].score <= 1

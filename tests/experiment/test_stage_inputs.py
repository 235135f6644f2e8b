"""A stage is bound to what it read: weights by their digests, slices by their marks."""

import json
import logging
import os
import shutil
import types

import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from madad_jax.assembly import parts
from madad_jax.checkpoints import digests, reader
from madad_jax.checkpoints import saver as saver_lib
from madad_jax.core import errors
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import (
    frozen_weights,
    preflight,
    report_stage,
    slice_changes,
    stage_inputs,
    stages,
    trained_weights,
    workdir,
)
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.runtime import stop as stop_lib
from madad_jax.training import state as state_lib


@pytest.fixture
def log(caplog, monkeypatch):
    """What our loggers say, whether or not a command has run in this process before."""
    monkeypatch.setattr(logging.getLogger("madad_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "madad_jax")
    return caplog


def save(run, stage, value):
    """A checkpoint of one number in place of what was there."""
    folder = run / stage / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    weights = {"w": jnp.full(3, value, jnp.float32)}
    tree = {"autoencoder": weights, "discriminator": weights} if stage == "autoencoder" else weights
    state = state_lib.TrainState(jnp.zeros((), jnp.int32), {}, {}, tree)
    with saver_lib.Checkpointer(folder, async_save=False) as saver:
        saver.save(1, state, {}, {})
        saver.wait()
    return digests.weights_digest(weights)


def bind(folder, stage="denoiser", **keys):
    config = default.get_config()
    config.update_from_flattened_dict(keys)
    made = parts.assemble(config)
    where = workdir.of_parts(made, folder)
    where.is_complete(stage)
    trained_weights.bind(made, where, stage)
    return made, where


@pytest.fixture
def run(tmp_path):
    """A denoiser on its own autoencoder, begun and noted."""
    folder = tmp_path / "run"
    save(folder, "autoencoder", 1.0)
    bind(folder)
    save(folder, "denoiser", 2.0)
    return folder


def test_the_records_digest_is_that_of_the_weights(tmp_path):
    known = save(tmp_path, "autoencoder", 1.0)
    assert reader.weights_digests(tmp_path / "autoencoder" / "checkpoints", "autoencoder") == {
        1: known
    }
    plain = save(tmp_path, "denoiser", 1.0)
    assert reader.weights_digests(tmp_path / "denoiser" / "checkpoints") == {1: plain}


def test_the_same_weights_are_no_change(run):
    before = (run / "denoiser" / "inputs.json").read_bytes()
    save(run, "autoencoder", 1.0)  # written anew
    bind(run)
    assert (run / "denoiser" / "inputs.json").read_bytes() == before


def test_an_autoencoder_that_was_trained_again_is_named(run):
    then = stage_inputs.noted(workdir.Workdir(run), "denoiser")["autoencoder.checkpoint"]["digest"]
    now = save(run, "autoencoder", 9.0)
    words = f"denoiser was trained on other autoencoder weights: .*{then[:12]}.*{now[:12]}"
    with pytest.raises(errors.UserError, match=words) as caught:
        bind(run)
    assert "\n" not in str(caught.value)


def test_a_denoiser_without_weights_takes_what_is_there(tmp_path):
    save(tmp_path, "autoencoder", 1.0)
    bind(tmp_path)
    now = save(tmp_path, "autoencoder", 9.0)
    _, where = bind(tmp_path)
    assert stage_inputs.noted(where, "denoiser")["autoencoder.checkpoint"]["digest"] == now


def test_a_moved_autoencoder_is_found_by_its_new_path_and_other_weights_are_not_taken(tmp_path):
    save(tmp_path / "ae", "autoencoder", 1.0)
    bind(tmp_path / "run", **{"autoencoder.checkpoint": str(tmp_path / "ae")})
    save(tmp_path / "run", "denoiser", 2.0)
    (tmp_path / "ae").rename(tmp_path / "moved")
    made, where = bind(tmp_path / "run", **{"autoencoder.checkpoint": str(tmp_path / "moved")})
    # From now on the old path leads there too: prediction has no other.
    old = {"autoencoder.checkpoint": str(tmp_path / "ae")}
    made, where = bind(tmp_path / "run", **old)
    found = trained_weights.autoencoder_checkpoints(made, where)
    assert found == tmp_path / "moved" / "autoencoder" / "checkpoints"
    save(tmp_path / "moved", "autoencoder", 3.0)
    with pytest.raises(errors.UserError, match="other autoencoder weights"):
        bind(tmp_path / "run", **old)


def test_folders_that_move_together_still_find_each_other(tmp_path, monkeypatch):
    first = tmp_path / "first"
    save(first / "ae", "autoencoder", 1.0)
    monkeypatch.chdir(first)
    bind(first / "run", **{"autoencoder.checkpoint": "ae"})
    save(first / "run", "denoiser", 2.0)
    first.rename(tmp_path / "second")
    monkeypatch.chdir(tmp_path)
    made, where = bind(tmp_path / "second" / "run", **{"autoencoder.checkpoint": "ae"})
    found = trained_weights.autoencoder_checkpoints(made, where)
    assert os.path.samefile(found, tmp_path / "second" / "ae" / "autoencoder" / "checkpoints")


@pytest.mark.parametrize("noted", [True, False], ids=["today", "older"])
def test_a_forgotten_autoencoder_is_asked_for_before_another_is_trained(
    tmp_path, monkeypatch, noted
):
    shared, run = tmp_path / "shared", tmp_path / "run"
    save(shared, "autoencoder", 1.0)
    bind(run, **{"autoencoder.checkpoint": str(shared)})
    save(run, "denoiser", 2.0)
    if not noted:
        (run / "denoiser" / "inputs.json").unlink()
    made = parts.assemble(default.get_config())
    where = workdir.of_parts(made, run)
    match = rf"autoencoder\.checkpoint: found none, .* give --config\.autoencoder.*={shared}$"
    inputs = inputs_lib.Inputs(made.data, mesh_lib.make_mesh(), made.evaluation.batch_size)
    monkeypatch.setattr(preflight, "_check_stages", lambda *_: None)  # there are no slices
    for mode in ("run", "train", "train_autoencoder"):
        with pytest.raises(errors.UserError, match=match):
            preflight.check_inputs(made, where, inputs, mode)
    with pytest.raises(errors.UserError, match=match):
        trained_weights.autoencoder_checkpoints(made, where)
    bind(run, **{"autoencoder.checkpoint": str(shared)})


def test_two_runs_share_one_autoencoder_through_a_link(tmp_path):
    save(tmp_path / "ae", "autoencoder", 1.0)
    (tmp_path / "link").symlink_to(tmp_path / "ae")
    for name in ("a", "b"):
        bind(tmp_path / name, **{"autoencoder.checkpoint": str(tmp_path / "link")})
        save(tmp_path / name, "denoiser", 2.0)
        bind(tmp_path / name, **{"autoencoder.checkpoint": str(tmp_path / "ae")})


def test_a_run_without_digests_is_taken_and_given_them(run):
    (run / "denoiser" / "inputs.json").unlink()
    _, where = bind(run)
    assert len(stage_inputs.noted(where, "denoiser")["autoencoder.checkpoint"]["digest"]) == 64
    save(run, "autoencoder", 9.0)
    with pytest.raises(errors.UserError, match="other autoencoder weights"):
        bind(run)


def test_an_older_run_whose_autoencoder_moved_is_taken_with_a_line(tmp_path, log):
    save(tmp_path / "ae", "autoencoder", 1.0)
    bind(tmp_path / "run", **{"autoencoder.checkpoint": str(tmp_path / "ae")})
    save(tmp_path / "run", "denoiser", 2.0)
    (tmp_path / "run" / "denoiser" / "inputs.json").unlink()
    (tmp_path / "ae").rename(tmp_path / "moved")
    bind(tmp_path / "run", **{"autoencoder.checkpoint": str(tmp_path / "moved")})
    assert "kept no digest of the autoencoder weights" in log.text


def test_initial_weights_matter_until_the_training_is_finished(tmp_path, log):
    save(tmp_path, "autoencoder", 1.0)
    save(tmp_path / "other", "denoiser", 5.0)
    init = {"denoiser.init": str(tmp_path / "other")}
    bind(tmp_path, **init)
    save(tmp_path, "denoiser", 2.0)
    save(tmp_path / "other", "denoiser", 6.0)
    with pytest.raises(errors.UserError, match="trained on other initial weights"):
        bind(tmp_path, **init)
    with pytest.raises(errors.UserError, match=r"trained on other initial weights.* holds none"):
        bind(tmp_path)
    (tmp_path / "denoiser" / "complete.json").write_text("{}")
    bind(tmp_path, **init)
    assert "needs them no more" in log.text
    shutil.rmtree(tmp_path / "other")
    bind(tmp_path, **init)


def test_initial_weights_of_other_latents_are_said(run, log):
    known = stage_inputs.noted(workdir.Workdir(run), "denoiser")["autoencoder.checkpoint"]["digest"]
    stage_inputs.warn_of_other_latents(str(run), known)
    stage_inputs.warn_of_other_latents(str(run), "")
    (run / "older").mkdir()
    stage_inputs.warn_of_other_latents(str(run / "older"), known)
    assert "latents of another autoencoder" not in log.text
    stage_inputs.warn_of_other_latents(str(run), "0" * 64)
    assert f"denoiser.init: the weights of {run} were trained on the latents of another" in log.text


def test_lpips_weights_are_a_part_of_the_autoencoder(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"one")
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
    bind(tmp_path, "autoencoder", **{"autoencoder.lpips": str(tmp_path / "a.npz")})
    save(tmp_path, "autoencoder", 1.0)
    bind(tmp_path, "autoencoder", **{"autoencoder.lpips": str(tmp_path / "b.npz")})
    (tmp_path / "b.npz").write_bytes(b"two")
    for keys in ({"autoencoder.lpips": str(tmp_path / "b.npz")}, {}):
        with pytest.raises(errors.UserError, match="trained on other LPIPS weights"):
            bind(tmp_path, "autoencoder", **keys)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"weights": 3}', b"\xff", b"[" * 9999])
def test_a_damaged_note_is_one_line(run, content):
    (run / "denoiser" / "inputs.json").write_bytes(content)
    with pytest.raises(errors.UserError, match=r"inputs\.json") as caught:
        bind(run)
    assert "\n" not in str(caught.value)


def test_a_factor_of_other_weights_is_refused_where_a_denoiser_stands_on_it(run):
    where = workdir.Workdir(run, records={"latents": {}})
    where.mark("latents", scaling_factor=0.5, autoencoder="a" * 64)
    assert frozen_weights.recorded_factor(where, "a" * 64) == 0.5
    with pytest.raises(errors.UserError, match="measured on other autoencoder weights"):
        frozen_weights.recorded_factor(where, "b" * 64)
    where.mark("latents", scaling_factor=0.5)  # as older versions did
    assert frozen_weights.recorded_factor(where, "b" * 64) == 0.5


class Slices:
    """A source of PNG files, as far as marks and budgets need one."""

    def __init__(self, sizes):
        self.records = [types.SimpleNamespace(id=name) for name in sizes]
        self._sizes = list(sizes.values())

    def __len__(self):
        return len(self.records)

    def file_sizes(self):
        return self._sizes


def test_other_slices_are_counted_and_the_same_ones_elsewhere_are_no_change(run, log):
    where = workdir.Workdir(run)
    first = Slices({"a": "1+1", "b": "2+2", "c": "3+3"})
    assert slice_changes.compare(where, "denoiser", {"train": first}) == []  # noted
    assert slice_changes.compare(where, "denoiser", {"train": first}) == [] and not log.text
    other = Slices({"a": "1+1", "b": "2+9", "d": "4+4", "e": "5+5"})
    found = slice_changes.compare(where, "denoiser", {"train": other})
    assert found == ["train: 2 added, 1 removed, 1 changed of 3, as d"]
    assert found[0] in log.text and log.text.count("denoiser: the slices are not") == 1
    slice_changes.compare(where, "denoiser", {"train": other})
    assert log.text.count("denoiser: the slices are not") == 1, "said twice"


def test_a_stage_without_weights_notes_the_slices_of_today(tmp_path):
    where = workdir.Workdir(tmp_path)
    for sizes in ({"a": "1"}, {"b": "2"}):
        assert slice_changes.compare(where, "denoiser", {"train": Slices(sizes)}) == []
    assert json.loads((tmp_path / "denoiser" / "slices.json").read_text()) == {"train": {"b": "2"}}


def test_numbers_of_a_finished_stage_are_numbers(tmp_path):
    where = workdir.Workdir(tmp_path)
    (tmp_path / "denoiser").mkdir()
    for text in ("{}", '{"steps": null}', '{"steps": "12"}', '{"steps": NaN}', '{"steps": true}'):
        (tmp_path / "denoiser" / "complete.json").write_text(text)
        with pytest.raises(errors.UserError, match=r"complete\.json: steps: found .*a number"):
            where.number("denoiser", "steps")
    (tmp_path / "denoiser" / "complete.json").write_text('{"steps": 12}')
    assert where.number("denoiser", "steps") == np.float64(12)


@pytest.mark.parametrize("start,said", [(10, True), (9, False)])
def test_a_discriminator_that_never_acts_is_said_before_training(
    tmp_path, monkeypatch, log, start, said
):
    config = default.get_config()
    config.autoencoder.train.steps = 10
    config.autoencoder.loss.disc_start = start
    made = parts.assemble(config)
    inputs = inputs_lib.Inputs(made.data, mesh_lib.make_mesh(), 1)
    monkeypatch.setattr(inputs, "source", lambda split: Slices({"a": "1+1"}))
    trained = []

    def train(*args, **kwargs):
        trained.append(log.text)
        return 10

    monkeypatch.setattr(stages.training_stage, "train", train)
    stop = stop_lib.GracefulStop()
    stages.train_autoencoder(made, workdir.of_parts(made, tmp_path), inputs, stop)
    found = "the discriminator never acts: autoencoder.loss.disc_start=10" in trained[0]
    assert found == said


def test_rows_of_other_weights_are_said(run, log):
    known = next(iter(reader.weights_digests(run / "denoiser" / "checkpoints").values()))
    rows = [
        {"method": "mean image", "learns": False, "weights": "0" * 16},
        {"method": "old", "set": "test", "learns": True},
        {"method": "madad", "set": "test", "learns": True, "weights": known[:16]},
    ]
    report_stage._warn_of_other_weights(workdir.Workdir(run), rows)
    assert not log.text
    rows[2]["weights"] = "f" * 16
    report_stage._warn_of_other_weights(workdir.Workdir(run), rows)
    assert "1 rows of results.jsonl are of other weights than those of today, as madad" in log.text

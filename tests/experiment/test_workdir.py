"""What a change of the config means for a stage that is there, and what the refusal advises."""

import logging

import pytest

from configs import default
from madad_jax.assembly import config_record, parts
from madad_jax.core import errors
from madad_jax.experiment import workdir


@pytest.fixture
def log(caplog, monkeypatch):
    """What our loggers say, whether or not a command has run in this process before."""
    monkeypatch.setattr(logging.getLogger("madad_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "madad_jax")
    return caplog


def begin(folder, **keys):
    config = default.get_config()
    config.update_from_flattened_dict(keys)
    where = workdir.of_parts(parts.assemble(config), folder)
    for stage in ("autoencoder", "denoiser"):
        where.is_complete(stage)
        (where.checkpoints(stage) / "1").mkdir(parents=True, exist_ok=True)
    return where


def test_a_stage_without_weights_takes_the_config_of_today(tmp_path):
    begin(tmp_path)
    for stage in ("autoencoder", "denoiser"):
        (tmp_path / stage / "checkpoints" / "1").rmdir()
    begin(tmp_path, **{"optim.lr": 1e-5})
    begin(tmp_path, **{"optim.lr": 1e-5})
    with pytest.raises(errors.UserError, match=r"optim\.lr: 1e-05 -> "):
        begin(tmp_path)


def test_a_finished_stage_whose_weights_are_elsewhere_keeps_its_config(tmp_path):
    begin(tmp_path).mark("denoiser", steps=1)
    (tmp_path / "denoiser" / "checkpoints" / "1").rmdir()
    with pytest.raises(errors.UserError, match=r"optim\.lr"):
        begin(tmp_path, **{"optim.lr": 1e-5})


def test_nothing_is_written_where_another_run_should_be(tmp_path):
    made = parts.assemble(default.get_config())
    where = workdir.Workdir(
        tmp_path / "own", tmp_path / "typo", {"denoiser": made.stage_record("denoiser")}
    )
    assert not where.is_complete("denoiser")
    with pytest.raises(errors.UserError, match="typo has no finished stage 'denoiser'"):
        where.facts_here("denoiser")
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("key,value", [("train.steps", 40), ("optim.lr", 1e-5)])
def test_more_steps_and_another_rate_name_what_carries_the_weights_on(tmp_path, key, value):
    begin(tmp_path, **{"autoencoder.checkpoint": "runs/ae"})
    with pytest.raises(errors.UserError, match=key) as caught:
        begin(tmp_path, **{"autoencoder.checkpoint": "runs/ae", key: value})
    message = str(caught.value)
    assert f"--config.denoiser.init={tmp_path} --config.autoencoder.checkpoint=runs/ae" in message
    assert "remove" not in message and "\n" not in message


def test_a_run_with_its_own_autoencoder_hands_that_on_too(tmp_path):
    begin(tmp_path)
    with pytest.raises(errors.UserError, match=f"--config.autoencoder.checkpoint={tmp_path}"):
        begin(tmp_path, **{"train.steps": 40})


def test_an_autoencoder_of_another_config_is_not_carried_on(tmp_path):
    begin(tmp_path)
    with pytest.raises(errors.UserError, match="another --workdir, which trains anew") as caught:
        begin(tmp_path, **{"autoencoder.train.steps": 40})
    assert "denoiser.init" not in str(caught.value)


@pytest.mark.parametrize(
    "stage,section", [("denoiser", "optim"), ("autoencoder", "autoencoder.optim")]
)
def test_a_loss_that_is_not_finite_is_answered_in_the_same_words(tmp_path, stage, section):
    advice = begin(tmp_path).advise_not_finite(stage, section)
    assert advice.startswith(f"lower {section}.lr") and "another --workdir" in advice
    assert (f"--config.denoiser.init={tmp_path}" in advice) == (stage == "denoiser")


def test_packed_slices_go_on_with_a_run_and_drawn_ones_do_not(tmp_path):
    slices = {"data.root": "data/ours"}
    begin(tmp_path, **slices, **{"data.source": "png_folder"})
    for source in ("array_record", "tfds"):
        begin(tmp_path, **slices, **{"data.source": source})
    with pytest.raises(errors.UserError, match=r"data\.source: 'png_folder' -> 'cohort'"):
        begin(tmp_path, **{"data.source": "cohort"})


def test_how_a_network_is_computed_may_change_with_a_line(tmp_path, log):
    begin(tmp_path)
    changed = {key: value for key, value in config_record.EXECUTION.items()}
    begin(tmp_path, **changed)
    assert not log.text
    begin(tmp_path, **{"denoiser.attention": "xla", "denoiser.remat": True})
    assert "denoiser.attention: 'chunked' -> 'xla'" in log.text
    assert "denoiser.remat: False -> True" in log.text


def test_defaults_of_execution_are_those_of_the_config():
    plain = config_record.plain(default.get_config())
    assert config_record.plain_execution(plain) == plain


def test_attention_of_a_library_is_read_as_one_that_runs_anywhere():
    record = config_record.plain(default.get_config())
    record["denoiser"]["attention"] = "cudnn"
    record["autoencoder"]["attention"] = "xla"
    found = config_record.runs_anywhere(record)
    assert (
        found["denoiser"]["attention"] == "chunked" and found["autoencoder"]["attention"] == "xla"
    )
    assert record["denoiser"]["attention"] == "cudnn", "changed what it was given"


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 9999])
def test_a_damaged_record_is_one_line(tmp_path, content):
    begin(tmp_path)
    (tmp_path / "denoiser" / "config.json").write_bytes(content)
    with pytest.raises(errors.UserError, match=r"denoiser/config\.json") as caught:
        begin(tmp_path)
    assert "\n" not in str(caught.value)

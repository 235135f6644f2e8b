"""What the converter leaves behind is what the stages of a run look for."""

import contextlib
import io
import json
import pathlib
import shlex
import sys

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import default
from madad_jax.assembly import config_record, parts
from madad_jax.checkpoints import saver
from madad_jax.convert import __main__ as command
from madad_jax.convert import autoencoder_kl_weights, conversion, dit_weights
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import inputs, stages, trained_weights, workdir
from madad_jax.runtime import stop as stop_lib
from tests.convert import cases
from tests.convert import torch_files as files
from tests.models import official


def drawn(module, template):
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), template)
    return official.state({k: v.shape for k, v in module.to_official(zeros).items()})


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(folder, {kind: official state}, printed command) of an autoencoder and a denoiser."""
    folder = tmp_path_factory.mktemp("converted")
    vae = {"channels": 8, "channel_mult": (1, 2, 2), "num_res_blocks": 1, "num_groups": 4}
    sizes = {"size": "T/2", "patch_size": 2}
    states = {
        "autoencoder": drawn(autoencoder_kl_weights, autoencoder_kl_weights.template(vae)),
        "dit": drawn(dit_weights, dit_weights.template(sizes, 4)),
    }
    for kind, state in states.items():
        file = folder / f"{kind}.pt"
        file.write_bytes(files.zip_bytes(files.tensors(state)))
        groups = ["--num_groups=4"] if kind == "autoencoder" else []
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            command.run(["convert", f"--in={file}", f"--out={folder / 'run'}", *groups])
    return folder / "run", states, printed.getvalue().splitlines()[-1]


def configured(folder):
    """The default config with what the converter wrote, as the printed command sets it."""
    config = default.get_config("official")
    for section, values in json.loads((folder / "config.json").read_text()).items():
        for key, value in values.items():
            config[section][key] = tuple(value) if isinstance(value, list) else value
    config.autoencoder.discriminator = False
    return config


def test_evaluation_finds_both_networks(converted):
    folder, states, _ = converted
    config = configured(folder)
    made, mesh = parts.assemble(config), mesh_lib.make_mesh()
    own = {"denoiser": config_record.flatten(made.record, ("denoiser",))}
    run = workdir.Workdir(folder, records=own)
    params = trained_weights.restore_autoencoder(made, run, mesh)
    params = jax.tree.map(np.asarray, params)
    cases.same(conversion.to_official("autoencoder", params), states["autoencoder"])

    assert run.is_complete("denoiser") and run.facts("denoiser")["steps"] == 0
    shapes = jax.eval_shape(lambda: made.method.init(jax.random.key(0), made.image_spec()))
    params, _ = saver.restore_ema(folder / "denoiser" / "checkpoints", shapes, "best")
    params = jax.tree.map(np.asarray, params)
    cases.same(conversion.to_official("dit", params), states["dit"])


def test_another_run_can_name_the_folder(converted, tmp_path):
    folder, states, _ = converted
    config = configured(folder)
    config.autoencoder.checkpoint = str(folder)
    made, mesh = parts.assemble(config), mesh_lib.make_mesh()
    run = workdir.of_parts(made, tmp_path)
    run_inputs = inputs.Inputs(made.data, mesh, made.evaluation.batch_size)
    with stop_lib.GracefulStop() as stop:
        stages.train_autoencoder(made, run, run_inputs, stop)  # nothing to do
    params = trained_weights.restore_autoencoder(made, run, mesh)
    got = conversion.to_official("autoencoder", jax.tree.map(np.asarray, params))
    cases.same(got, states["autoencoder"])


def test_the_printed_command_sets_the_config(converted, monkeypatch):
    """Tuples above all: a list or a bare number would be another type."""
    folder, _, line = converted
    python, m, main, *words = shlex.split(line)
    assert (python, m, main) == ("python", "-m", "madad_jax.main")
    assert f"--workdir={folder}" in words and "--mode=evaluate" in words
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    overrides = ["x", *(word for word in words if word.startswith("--config"))]
    monkeypatch.setattr(sys, "argv", overrides)  # where config_flags looks for them
    monkeypatch.chdir(pathlib.Path(default.__file__).parents[1])
    values(overrides)
    assert values.config.autoencoder.channel_mult == (1, 2, 2)
    assert values.config.autoencoder.num_groups == 4
    assert values.config.denoiser.size == "T/2"
    assert not values.config.autoencoder.discriminator

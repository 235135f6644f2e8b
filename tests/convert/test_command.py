"""The command line from file to checkpoint and back."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from madad_jax.checkpoints import saver
from madad_jax.convert import __main__ as command
from madad_jax.convert import autoencoder_kl_weights, containers, conversion, unet_weights
from madad_jax.core import errors
from madad_jax.models import registry
from tests import holder
from tests.convert import cases
from tests.convert import torch_files as files
from tests.models import official

STATES = {"unet": cases.unet_state, "autoencoder": cases.vae_state, "dit": cases.dit_state}


def run(*words):
    return command.run(["convert", *map(str, words)])


def saved(folder, kind, state=None):
    file = folder / f"{kind}.pt"
    file.write_bytes(files.zip_bytes(files.tensors(state or STATES[kind]())))
    return file


def restored(folder, kind):
    """Through the same call as an evaluation."""
    stage = "autoencoder" if kind == "autoencoder" else "denoiser"
    template = conversion.convert(kind, STATES[kind]()).params
    template = {"autoencoder": template} if kind == "autoencoder" else template
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), template)
    params, config = saver.restore_ema(folder / stage / "checkpoints", shapes)
    return (params["autoencoder"] if kind == "autoencoder" else params), config


@pytest.mark.parametrize("kind", sorted(STATES))
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_there_and_back_is_bit_identical(tmp_path, capsys, kind, suffix):
    out, back = tmp_path / "run", tmp_path / f"back{suffix}"
    assert run(f"--in={saved(tmp_path, kind)}", f"--out={out}") == 0
    assert run(f"--in={out}", f"--out={back}", "--to=torch") == 0
    if suffix == ".safetensors":
        cases.same(safetensors.numpy.load_file(back), STATES[kind]())
    weights = containers.load(back)
    assert weights.kind == kind
    cases.same(weights.state, STATES[kind]())
    assert ("prefix 'model.' removed" in weights.notes) == (
        suffix == ".pt" and kind != "autoencoder"
    )
    assert f"{kind}, " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["unet", "autoencoder"])
def test_the_checkpoint_is_one_that_a_run_restores(tmp_path, capsys, kind):
    out = tmp_path / "run"
    file = saved(tmp_path, kind)
    assert run(f"--in={file}", f"--out={out}", f"--kind={kind}") == 0
    params, config = restored(out, kind)
    wanted = conversion.convert(kind, STATES[kind]()).params
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    assert config["converted_from"] == str(file)
    stage = "autoencoder" if kind == "autoencoder" else "denoiser"
    assert json.loads((out / stage / "complete.json").read_text())["steps"] == 0
    section = json.loads((out / "config.json").read_text())[stage]
    assert section["channels" if kind == "autoencoder" else "model_channels"] == 32
    assert "python -m madad_jax.main" in capsys.readouterr().out


def test_both_networks_in_one_folder_are_ready_to_evaluate(tmp_path, capsys):
    out = tmp_path / "run"
    run(f"--in={saved(tmp_path, 'autoencoder')}", f"--out={out}")
    first = capsys.readouterr().out.splitlines()[-1]
    assert f"--config.autoencoder.checkpoint={out}" in first and "--mode=run" in first
    run(f"--in={saved(tmp_path, 'unet')}", f"--out={out}")
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"--workdir={out}" in line and "--mode=evaluate" in line
    for words in (
        "autoencoder.channels=32",
        "denoiser.name=unet",
        "autoencoder.discriminator=False",
    ):
        assert f"--config.{words}" in line
    assert "autoencoder.checkpoint" not in line
    assert json.loads((out / "config.json").read_text()).keys() == {"autoencoder", "denoiser"}
    with pytest.raises(errors.UserError, match="denoiser exists"):
        run(f"--in={tmp_path / 'unet.pt'}", f"--out={out}")


def test_an_imagenet_dit_is_no_finished_stage(tmp_path, capsys):
    out = tmp_path / "run"
    assert run(f"--in={saved(tmp_path, 'dit', cases.imagenet_dit())}", f"--out={out}") == 0
    assert not (out / "denoiser" / "complete.json").exists()
    printed = capsys.readouterr().out
    assert f"--config.denoiser.init={out}" in printed and "not a detector" in printed


def test_verify_against_the_official_numbers(tmp_path, capsys):
    """The U-Net and the autoencoder of the shared formula file, from file to verdict."""
    keys = _unet32_shapes()
    file = saved(tmp_path, "unet", official.state(keys))
    with np.load(official.FIXTURES / "official_formula_weights.npz") as golden:
        x0, mask = golden["unet32_x0"], golden["unet32_mask"]
    npz = tmp_path / "vectors.npz"
    x = official.array("x", 2, 4, 32, 32)
    np.savez(npz, x=x, t=np.array([3, 9]), x0=x0, mask=mask)
    out = tmp_path / "run"
    assert run(f"--in={file}", f"--out={out}", f"--verify={npz}") == 0
    printed = capsys.readouterr().out
    assert "x0: largest absolute error" in printed and "mask: largest absolute error" in printed


def test_verify_tells_a_wrong_network(tmp_path, capsys):
    converted = conversion.convert("unet", cases.unet_state())
    x = official.array("x", 1, 4, 2, 2)
    denoiser = registry.denoiser("unet", **converted.settings)
    with jax.default_matmul_precision("highest"):
        x0 = denoiser.apply(
            converted.params, jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.array([3])
        ).x0
    npz, file = tmp_path / "vectors.npz", saved(tmp_path, "unet")
    words = [f"--in={file}", f"--verify={npz}"]
    for change, status, tolerance in ((1e-3, 0, 2e-3), (1e-3, 1, 2e-5), (np.nan, 1, 1e9)):
        np.savez(npz, x=x, t=[3], x0=np.asarray(x0).transpose(0, 3, 1, 2) + change)
        out = tmp_path / f"run-{change}-{tolerance}"
        assert run(*words, f"--out={out}", f"--tolerance={tolerance}") == status
        assert out.exists() == (status == 0)
        assert ("nothing is written" in capsys.readouterr().out) == (status == 1)


def _unet32_shapes():
    config = {"size": None, "model_channels": 32, "num_heads": 4}
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), unet_weights.template(config, 4))
    return {key: array.shape for key, array in unet_weights.to_official(zeros).items()}


def test_verify_autoencoder(tmp_path, capsys):
    config = {"channels": 32, "num_res_blocks": 1}
    zeros = jax.tree.map(
        lambda a: np.zeros(a.shape, np.float32), autoencoder_kl_weights.template(config)
    )
    shapes = {k: v.shape for k, v in autoencoder_kl_weights.to_official(zeros).items()}
    file = saved(tmp_path, "autoencoder", official.state(shapes))
    with np.load(official.FIXTURES / "official_formula_weights.npz") as golden:
        arrays = {k: golden[f"vae32_{v}"] for k, v in _VAE_NAMES.items()}
    arrays["image"] = np.tanh(official.array("image", 2, 1, 64, 64))
    arrays["latent"] = official.array("latent", 2, 4, 8, 8)
    npz = tmp_path / "vectors.npz"
    np.savez(npz, **arrays)
    assert run(f"--in={file}", f"--out={tmp_path / 'run'}", f"--verify={npz}") == 0
    printed = capsys.readouterr().out
    assert all(f"{name}: largest absolute error" in printed for name in _VAE_NAMES)


_VAE_NAMES = {"mean": "mean", "logvar": "logvar", "decoded": "decode"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((1, 4, 2, 2))}, "holds x; needed: x, t with x0 or mask"),
        (
            {"x": np.zeros((1, 4, 2, 2)), "t": [1], "x0": np.zeros((1, 4, 2, 3))},
            r"x0 has shape \(1, 4, 2, 3\)",
        ),
        ({"x": np.zeros((1, 3, 2, 2)), "t": [1], "x0": np.zeros(1)}, r"expected \(batch, 4"),
        ({"x": np.zeros((1, 4, 2, 2)), "t": [1, 2], "x0": np.zeros(1)}, "one per image"),
        (None, "--verify: .*no weights file"),
    ],
)
def test_unusable_vectors(tmp_path, arrays, message):
    npz = tmp_path / "vectors.npz"
    if arrays is None:
        npz.write_text("hello")
    else:
        np.savez(npz, **arrays)
    file = saved(tmp_path, "unet")
    with pytest.raises(errors.UserError, match=message):
        run(f"--in={file}", f"--out={tmp_path / 'run'}", f"--verify={npz}")
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_writes_nothing(tmp_path):
    state = dict(cases.unet_state())
    state.pop("out.2.bias")
    with pytest.raises(errors.UserError, match=r"1 missing \(out\.2\.bias\)"):
        run(f"--in={saved(tmp_path, 'unet', state)}", f"--out={tmp_path / 'run'}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["unet.pt"]


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise errors.UserError("disk full")

    monkeypatch.setattr(saver.Checkpointer, "wait", fail)
    with pytest.raises(errors.UserError, match="disk full"):
        run(f"--in={saved(tmp_path, 'unet')}", f"--out={tmp_path / 'run'}")
    assert not (tmp_path / "run" / "denoiser").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--in is missing"),
        (["--in=a.pt"], "--out is missing"),
        (["--in=a.pt", "--out=b"], "--in=a.pt: no such file"),
        (["--in=a.pt", "--out=b", "--kind=vae"], "--kind=vae: value should be one of"),
        (["--in=a.pt", "--out=b", "--tolerance=x"], "--tolerance=x"),
        (["--in=a.pt", "--out=b", "--tolerence=1"], "Unknown command line flag 'tolerence'"),
        (["--in=a.pt", "--out=b", "c"], "unexpected argument 'c'"),
        (["--in=a", "--out=b", "--to=torch"], "must end in .safetensors"),
        (["--in=a", "--out=b.pt", "--to=torch"], "--in=a: holds no checkpoints"),
        (["--in=a", "--out=b.pt", "--to=torch", "--adapt=sum"], "no meaning with --to=torch"),
    ],
)
def test_bad_flags(words, message):
    with pytest.raises(errors.UserError) as caught:
        run(*words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_export_of_a_folder_with_both_needs_the_kind(tmp_path):
    out = tmp_path / "run"
    for kind in ("unet", "autoencoder"):
        run(f"--in={saved(tmp_path, kind)}", f"--out={out}")
    target = tmp_path / "x.safetensors"
    with pytest.raises(errors.UserError, match=r"autoencoder and denoiser.*--kind"):
        run(f"--in={out}", f"--out={target}", "--to=torch")
    with pytest.raises(errors.UserError, match="of kind unet, not dit"):
        run(f"--in={out}", f"--out={target}", "--to=torch", "--kind=dit")
    assert run(f"--in={out}", f"--out={target}", "--to=torch", "--kind=autoencoder") == 0
    with pytest.raises(errors.UserError, match="exists; choose another name"):
        run(f"--in={out}", f"--out={target}", "--to=torch", "--kind=unet")


def test_the_command_itself(tmp_path):
    """One process: a file that wants to run something ends in one line and status 2."""
    file = tmp_path / "bad.pt"
    payload = b"cposix\nsystem\n(X\x05\x00\x00\x00touchtR."
    file.write_bytes(files.zip_bytes({}, data=payload))
    root = pathlib.Path(command.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "madad_jax.convert", f"--in={file}", f"--out={tmp_path / 'o'}"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and not (tmp_path / "o").exists()
    assert done.stderr.count("\n") == 1 and "asks to run posix.system" in done.stderr


def test_what_a_killed_conversion_left_is_replaced_and_a_trained_stage_is_not(tmp_path, capsys):
    out, file = tmp_path / "run", saved(tmp_path, "unet")
    left = out / "denoiser" / "checkpoints" / "0.orbax-checkpoint-tmp-123"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    assert run(f"--in={file}", f"--out={out}") == 0
    assert not left.exists() and (out / "denoiser" / "complete.json").exists()
    (tmp_path / "other" / "denoiser" / "checkpoints").mkdir(parents=True)
    (tmp_path / "other" / "denoiser" / "config.json").write_text("{}")
    with pytest.raises(errors.UserError, match="exists; choose another folder"):
        run(f"--in={file}", f"--out={tmp_path / 'other'}")


def test_a_folder_that_another_process_writes_is_refused(tmp_path, capsys):
    with (
        holder.held(tmp_path / "run") as first,
        pytest.raises(errors.UserError, match=f"process {first.pid} on "),
    ):
        run(f"--in={saved(tmp_path, 'unet')}", f"--out={tmp_path / 'run'}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]  # It was killed.

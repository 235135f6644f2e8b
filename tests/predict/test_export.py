import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.predict import api, export, run_model
from madad_jax.predict import model as model_lib

ROOT = pathlib.Path(__file__).parents[2]
ALONE = """
import sys
sys.path.insert(0, {folder!r})
import run
import numpy as np
given = np.load({slices!r})
np.savez({maps!r}, **run.predict(given["image"], given["brain_mask"], batch_size=3))
assert not [m for m in sys.modules if m.split(".")[0] in ("madad_jax", "flax")]
"""


@pytest.fixture(scope="module")
def exported(untrained):
    """By the command, in its own process: the shape checks of tests know no free batch size."""
    out = untrained / "export"
    flags = ["--mode=export", "--config=configs/demo.py", f"--workdir={untrained}"]
    done = subprocess.run(
        [sys.executable, "-m", "madad_jax.main", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return api.open_model(str(untrained), ""), out, done.stdout


def test_predicts_the_same_without_this_package(exported, tmp_path):
    model, out, said = exported
    assert "detector-tpu.jaxexport" in said
    rng = np.random.default_rng(0)
    brain = np.zeros((5, 32, 32), bool)
    brain[:, 6:26, 8:24] = True
    image = (rng.random((5, 32, 32)) * brain).astype(np.float32)
    np.savez(tmp_path / "slices.npz", image=image, brain_mask=brain)
    code = ALONE.format(
        folder=str(out), slices=str(tmp_path / "slices.npz"), maps=str(tmp_path / "maps.npz")
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "maps.npz") as maps:
        for number, start in enumerate((0, 3)):
            part = slice(start, start + 3)
            rows = np.resize(np.arange(5)[part], model.shards)  # as many as divide over devices
            batch = {"image": image[rows][..., None] * 2 - 1, "brain_mask": brain[rows]}
            ours = model.scorer(number, batch)
            for name in export.OUTPUTS:
                theirs = maps[name][part]
                assert np.abs(ours[name][: len(theirs)] - theirs).max() < 1e-5, name
        assert maps["map"].max() > 0, "nothing to compare"


def test_says_how_to_cut_slices(exported):
    _, out, _ = exported
    about = json.loads((out / "model.json").read_text())
    assert about["preparation"]["geometry"]["field_of_view"] == 208.0
    assert set(about["files"]) == {"cpu", "cuda", "tpu"} and about["image_size"] == 32
    assert "not a medical device" in about["note"]


def run_script(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    return subprocess.run(
        [sys.executable, str(folder / "run.py"), *map(str, arguments)],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_says_which_jax_reads_it(exported):
    _, out, _ = exported
    about = json.loads((out / "model.json").read_text())
    assert about["readers"] == f"jax {about['jax']} or newer"
    assert about["calling_convention"] >= 10


@pytest.mark.parametrize("damage", ["function", "weights", "model", "names", "shape", "no slices"])
def test_the_script_ends_in_one_line(exported, tmp_path, damage):
    _, out, _ = exported
    folder = tmp_path / "copy"
    shutil.copytree(out, folder)
    side = 16 if damage == "shape" else 32
    brain = np.ones((2, side, side), bool)
    slices, maps = tmp_path / "slices.npz", tmp_path / "maps.npz"
    np.savez(slices, image=brain * np.float32(0.5), brain_mask=brain)
    said = "slices.npz: no .npz"
    if damage == "function":
        # What an older JAX meets: bytes that it cannot make a program of.
        (folder / "detector-cpu.jaxexport").write_bytes(b"of another version")
        about = json.loads((folder / "model.json").read_text()) | {"jax": "99.1"}
        (folder / "model.json").write_text(json.dumps(about))
        said = f"this is jax {jax.__version__}, and jax 99.1 wrote"
    elif damage == "weights":
        content = bytearray((folder / "weights.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "weights.safetensors").write_bytes(content)
        said = "not the weights that model.json describes"
    elif damage == "model":
        (folder / "model.json").write_text("[]")
        said = "no description of an exported detector"
    elif damage == "names":
        about = json.loads((folder / "model.json").read_text()) | {"weights": "../weights"}
        (folder / "model.json").write_text(json.dumps(about))
        said = "accepted: names of files beside it"
    elif damage == "shape":
        said = "image: found shape (2, 16, 16), accepted: (n, 32, 32)"
    else:
        slices.write_bytes(b"no archive")
    done = run_script(folder, slices, maps)
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not maps.exists()


def test_a_run_of_cudnn_is_read_everywhere(untrained, monkeypatch):
    """Its own config, from the checkpoint, with attention that this machine may lack."""
    read = run_model.saver.read_config

    def of_cudnn(folder, *args):
        config = read(folder, *args)
        config["denoiser"] |= {"attention": "cudnn", "dtype": "bfloat16"}
        return config

    monkeypatch.setattr(run_model.saver, "read_config", of_cudnn)
    model = api.open_model(str(untrained), "")
    assert model.parts.record["denoiser"]["attention"] == "chunked"
    brain = np.ones((model.shards, 32, 32), bool)
    batch = {"image": np.zeros((model.shards, 32, 32, 1), np.float32), "brain_mask": brain}
    assert np.isfinite(model.scorer(0, batch)["map"]).all()


def test_an_exchanged_autoencoder_is_refused(untrained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(untrained, run)
    noted = {"autoencoder.checkpoint": {"digest": "a" * 64, "path": ""}}
    (run / "denoiser" / "inputs.json").write_text(json.dumps({"weights": noted}))
    with pytest.raises(errors.UserError, match="denoiser was trained on other autoencoder weights"):
        api.open_model(str(run), "")


def test_a_calibration_beside_exchanged_weights_is_refused():
    facts = {"weights": "w", "frozen": {"autoencoder": "aaaa", "scaling_factor": 0.5}}

    def check(weights="w", **frozen):
        model_lib.check_calibrated("run", facts, weights, facts["frozen"] | frozen)

    check()
    with pytest.raises(errors.UserError, match="made with other weights"):
        check(weights="v")
    with pytest.raises(errors.UserError, match="autoencoder aaaa -> bbbb"):
        check(autoencoder="bbbb")
    del facts["frozen"]  # an older one
    model_lib.check_calibrated("run", facts, "w", {"autoencoder": "bbbb"})

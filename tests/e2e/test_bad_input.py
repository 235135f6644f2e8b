"""What a user can do wrong: one line that names it, and nothing half written."""

import shutil

import cv2
import numpy as np
import pytest

from madad_jax.core import errors


def _change(config, path, value):
    *parents, leaf = path.split(".")
    for name in parents:
        config = config[name]
    config[leaf] = value


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("data.root", "", "data.root is empty"),
        ("data.root", "/nowhere/at/all", "/nowhere/at/all"),
        ("data.modality", "T9", "T9.*T1"),
        ("data.source", "pngfolder", "data.source: found 'pngfolder'; did you mean 'png_folder'"),
        ("data.image_size", 33, "33x33 is not divisible"),
        ("train.batch_size", 7, "train.batch_size: found 7"),
        ("mesh.fsdp", 3, "config.mesh"),
        ("method", "madat", "madad"),
        ("denoiser.name", "dot", "dit"),
        ("denoiser.size", "Q/2", "Q/2"),
        ("denoiser.attention", "flash", "flash"),
        ("diffusion.schedule", "sine", "cosine"),
        ("methods.madad.loss.mask", "hinge", "loss.mask: found 'hinge'"),
        ("methods.madad.loss.region", "rim", "loss.region: found 'rim'"),
        ("methods.madad.inference.sampler.steps", 11, "sampler.steps: found 11, accepted: 1 to 10"),
        ("methods.madad.inference.score.difference", "l3", "score.difference: found 'l3'"),
        ("methods.madad.inference.score.reference", "mean", "score.reference: found 'mean'"),
        ("methods.madad.masking.sides", (1, 3), "masking"),
        ("optim.schedule", "linear", "schedule"),
        ("data.augment", "wild", "data.augment: found 'wild', accepted: none, paper, official"),
        ("data.latents", "cache", "data.latents: found 'cache', accepted: live, cached"),
        ("data.latent_draws", 0, "data.latent_draws: found 0"),
        ("eval.checkpoint", "newest", "eval.checkpoint: found 'newest', accepted: best, latest"),
        ("eval.false_positive_rate", 1.0, "eval.false_positive_rate: found 1.0"),
        ("eval.batch_size", 7, "eval.batch_size: found 7"),
        ("eval.sets", (), "eval.sets is empty"),
        ("log.every_steps", 0, "log.every_steps: found 0"),
        ("checkpoint.every_steps", 0, "checkpoint.every_steps: found 0"),
        ("train.ema_decay", 1.0, "train.ema_decay: found 1.0"),
        ("train.steps", -1, "train.steps, train.epochs: found -1"),
        ("synthesis.share", 1.5, "synthesis.share: found 1.5"),
        ("denoiser.init", "/no/run", "denoiser.init: found '/no/run', which has no denoiser/"),
        ("autoencoder.checkpoint", "/no/run", "autoencoder.checkpoint: found '/no/run'"),
        ("eval.sets", ("tset",), "tset"),
        ("autoencoder.crop", 64, "autoencoder.crop: found 64"),
        ("autoencoder.num_groups", 3, "num_groups"),
        ("autoencoder.lpips", "/no/file.npz", "autoencoder.lpips: no file"),
        ("autoencoder.dtype", "float8", "autoencoder.dtype: found 'float8'"),
    ],
)
def test_one_line_that_names_the_key(tiny, execute, tmp_path, key, value, message):
    _change(tiny, key, value)
    devices = 2 if key in ("train.batch_size", "eval.batch_size", "mesh.fsdp") else 1
    with pytest.raises(errors.UserError, match=message) as caught:
        execute(tiny, tmp_path / "run", devices=devices)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").rglob("checkpoints/*")), "found only after training"


def test_synthetic_anomalies_need_images(tiny, execute, tmp_path):
    tiny.data.latents = "cached"
    tiny.synthesis.share = 0.5
    with pytest.raises(errors.UserError, match=r"synthesis.share: found 0.5 with data.latents="):
        execute(tiny, tmp_path / "run")


def test_a_latent_cache_is_local(tiny, execute, tmp_path):
    tiny.data.latents = "cached"
    tiny.data.latents_dir = "gs://bucket/latents"
    with pytest.raises(errors.UserError, match=r"data.latents_dir: found 'gs://bucket/latents'"):
        execute(tiny, tmp_path, "train")


@pytest.mark.parametrize(
    "damage,message",
    [
        ("empty", "train"),
        ("corrupt", "train00-slice_0-T1.png"),
        ("mask size", "train00-slice_0-brainmask.png"),
        ("no mask", "train00-slice_0"),
        ("shared subject", "train00"),
    ],
)
def test_damaged_data_names_the_file(tiny, execute, tmp_path, png_root, damage, message):
    root = tmp_path / "data"
    shutil.copytree(png_root, root)
    first = root / "train" / "train00-slice_0"
    if damage == "empty":
        shutil.rmtree(root / "train")
        (root / "train").mkdir()
    elif damage == "corrupt":
        (root / "train" / f"{first.name}-T1.png").write_bytes(b"\x89PNG not really")
    elif damage == "mask size":
        cv2.imwrite(f"{first}-brainmask.png", np.zeros((8, 8), np.uint8))
    elif damage == "no mask":
        (root / "train" / f"{first.name}-brainmask.png").unlink()
    else:
        for kind in ("T1", "brainmask"):
            shutil.copy(f"{first}-{kind}.png", root / "val")
    tiny.data.root = str(root)
    with pytest.raises(errors.UserError, match=message) as caught:
        execute(tiny, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_workdir_that_is_a_file(tiny, execute, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="workdir"):
        execute(tiny, tmp_path / "file")


def test_checkpoint_of_another_model(tiny, execute, tmp_path, trained):
    tiny.autoencoder.channels = 16
    tiny.autoencoder.checkpoint = str(trained)
    with pytest.raises(errors.UserError, match="another model"):
        execute(tiny, tmp_path / "b", "train")


def test_report_before_anything_says_what_to_run(tiny, execute, tmp_path):
    with pytest.raises(errors.UserError, match="--mode=evaluate"):
        execute(tiny, tmp_path, "report")
    with pytest.raises(errors.UserError, match="no finished stage 'denoiser'"):
        execute(tiny, tmp_path, "evaluate")

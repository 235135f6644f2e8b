"""Training from cached latents: the same job as from images, stopped, damaged and changed."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest

from madad_jax.assembly import parts as parts_lib
from madad_jax.core import errors
from madad_jax.data.input import cached_latents
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import latent_cache, trained_weights
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.runtime import stop as stop_lib
from tests.e2e.test_run import StopAfter, assert_same, metrics_of, restored


@pytest.fixture
def cached(tiny, trained, monkeypatch):
    """The tiny config on cached latents, with shards of so few records that there are several."""
    monkeypatch.setattr(cached_latents, "RECORDS_PER_SHARD", 8)
    tiny.autoencoder.checkpoint = str(trained)
    tiny.data.latents = "cached"
    tiny.data.latent_draws = 3
    return tiny


def losses(workdir, split):
    rows = [r for r in metrics_of(workdir) if (r["stage"], r["split"]) == ("denoiser", split)]
    return np.array([row["loss"] for row in rows])


def shards_of(workdir):
    return {p.name: p.stat().st_mtime_ns for p in workdir.rglob("*.array_record")}


def test_trains_as_from_images_to_the_rounding_of_bfloat16(cached, execute, tmp_path):
    cached.data.augment = "none"
    execute(cached, tmp_path / "cached", "train")
    cached.data.latents = "live"
    execute(cached, tmp_path / "live", "train")
    for split in ("train", "val"):
        ours, theirs = losses(tmp_path / "cached", split), losses(tmp_path / "live", split)
        assert len(ours) == len(theirs) >= 3
        np.testing.assert_allclose(ours, theirs, rtol=3e-4)  # falls by 10 %
        assert (ours != theirs).any(), "both read images"
    shards = sorted(shards_of(tmp_path / "cached"))
    assert [name for name in shards if name.startswith("train")] == [
        "train-00000-of-00002.array_record",
        "train-00001-of-00002.array_record",
    ], "without augmentation one draw is kept"


@pytest.mark.parametrize("at", ["latents", pytest.param("denoiser", marks=pytest.mark.slow)])
def test_stopped_and_resumed_equals_undisturbed_bit_for_bit(cached, execute, tmp_path, at):
    execute(cached, tmp_path / "whole", "train")
    # Step numbers: a batch of the cache, then a step of the denoiser; the former end first.
    step = {"latents": 2, "denoiser": 7}[at]
    with pytest.raises(stop_lib.Stopped, match=at):
        execute(cached, tmp_path / "cut", "train", stop=StopAfter(step))
    before = shards_of(tmp_path / "cut")
    assert len(before) == {"latents": 2, "denoiser": 6}[at]
    execute(cached, tmp_path / "cut", "train")
    after = shards_of(tmp_path / "cut")
    assert len(after) == 6 and before.items() <= after.items(), "encoded again"
    for path in (tmp_path / "whole").rglob("*.array_record"):
        assert next((tmp_path / "cut").rglob(path.name)).read_bytes() == path.read_bytes()
    ours, theirs = (restored_cached(cached, tmp_path / name) for name in ("cut", "whole"))
    assert_same(ours.state, theirs.state)
    assert ours.data_state == theirs.data_state


def restored_cached(config, workdir):
    config.data.latents = "live"  # shapes of the state are the same, and no cache is asked for
    return restored(config, workdir)


@pytest.fixture
def fill(cached, tmp_path):
    """fill(change=None): the cache stage alone, on weights that `change` may have changed."""
    cached.data.latents_dir = str(tmp_path / "shared")

    def call(change=None):
        with stop_lib.GracefulStop() as stop:
            parts = parts_lib.assemble(cached)
            this = workdir_lib.of_parts(parts, tmp_path / "run")
            mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
            inputs = inputs_lib.Inputs(parts.data, mesh, parts.evaluation.batch_size)
            params = trained_weights.restore_autoencoder(parts, this, mesh)
            params = change(params) if change else params
            return latent_cache.prepare(parts, this, inputs, stop, params)

    return call


def test_a_changed_autoencoder_is_encoded_anew_and_the_same_one_is_not(fill, tmp_path):
    def change(params):
        leaves, tree = jax.tree.flatten(params)
        leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].add(1e-3)
        return jax.tree.unflatten(tree, leaves)

    fill()
    first = shards_of(tmp_path / "shared")
    fill()
    assert shards_of(tmp_path / "shared") == first
    fill(change)
    folders = list((tmp_path / "shared").iterdir())
    assert len(folders) == 2
    facts = [json.loads((f / "manifest.json").read_text())["facts"] for f in folders]
    assert facts[0].pop("autoencoder") != facts[1].pop("autoencoder") and facts[0] == facts[1]


def test_a_damaged_shard_is_written_anew(fill, tmp_path, caplog):
    fill()
    path = sorted((tmp_path / "shared").rglob("train-*"))[1]
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    others = {name: t for name, t in shards_of(tmp_path / "shared").items() if name != path.name}
    with caplog.at_level(logging.WARNING):
        fill()
    assert path.name in caplog.text and "damaged" in caplog.text
    assert path.read_bytes() == content
    assert others.items() <= shards_of(tmp_path / "shared").items()


def test_changed_slices_are_encoded_anew(fill, cached, tmp_path, png_root):
    root = tmp_path / "data"
    shutil.copytree(png_root, root)
    cached.data.root = str(root)
    fill()
    for kind in ("T1", "brainmask"):
        shutil.copy(
            root / "train" / f"train01-slice_1-{kind}.png",
            root / "train" / f"train00-slice_0-{kind}.png",
        )
    fill()
    assert len(list((tmp_path / "shared").iterdir())) == 2


def test_draws_differ_by_their_augmentation_alone(fill, cached):
    latent = fill()
    assert {split: len(part) for split, part in latent.items()} == {"train": 12, "val": 5}
    first, second = (latent["train"].read(3, draw) for draw in (0, 1))
    assert (first["latent_mean"] != second["latent_mean"]).any()
    assert first["brain_mask"].shape == (32, 32) and first["brain_mask"].any()
    cached.data.augment = "none"
    plain = fill()
    assert plain["train"].draws == 1
    np.testing.assert_array_equal(plain["val"][2]["latent_mean"], latent["val"][2]["latent_mean"])


def test_one_autoencoder_serves_both_ways(tiny, execute, tmp_path, trained):
    """`data.latents` is none of the autoencoder's keys, but is one of the denoiser's."""
    shutil.copytree(trained, tmp_path / "run")
    tiny.data.latents = "cached"
    tiny.train.steps = 2
    execute(tiny, tmp_path / "run", "train")
    tiny.data.latents = "live"
    with pytest.raises(errors.UserError, match=r"data.latents: 'cached' -> 'live'"):
        execute(tiny, tmp_path / "run", "train")


@pytest.mark.slow
def test_eight_devices_train_alike_within_rounding(cached, execute, tmp_path):
    execute(cached, tmp_path / "one", "train")
    cached.mesh.update(data=2, fsdp=2, tensor=2)
    execute(cached, tmp_path / "eight", "train", devices=8)
    np.testing.assert_allclose(
        losses(tmp_path / "eight", "train"), losses(tmp_path / "one", "train"), rtol=2e-3
    )

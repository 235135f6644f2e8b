"""Training from cached latents: the same job as from images, stopped, damaged and changed."""

import json
import logging
import shutil

import numpy as np
import pytest

from madad_jax import errors, runtime
from madad_jax.data import latents
from tests.e2e.test_run import StopAfter, assert_same, metrics_of, restored


@pytest.fixture(scope="module")
def trained(tmp_path_factory, png_root):
    """A trained tiny autoencoder, whose run every test starts from."""
    import jax

    from madad_jax import stages
    from tests.e2e import tiny_config

    config = tiny_config.get_config()
    config.data.root = str(png_root)
    workdir = tmp_path_factory.mktemp("trained")
    with runtime.GracefulStop() as stop:
        stages.execute(config, str(workdir), "train_autoencoder", stop, jax.devices()[:1])
    return workdir


@pytest.fixture
def cached(tiny, trained, monkeypatch):
    """The tiny config on cached latents, with shards of so few records that there are several."""
    monkeypatch.setattr(latents, "RECORDS_PER_SHARD", 8)
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
    cached.train.steps = 24
    execute(cached, tmp_path / "cached", "train")
    cached.data.latents = "live"
    execute(cached, tmp_path / "live", "train")
    cached.seed = 1
    execute(cached, tmp_path / "seed", "train")
    for split in ("train", "val"):
        ours, theirs = losses(tmp_path / "cached", split), losses(tmp_path / "live", split)
        assert len(ours) == len(theirs) > 3
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)
        assert (ours != theirs).any(), "both read images"
        assert np.abs(losses(tmp_path / "seed", split) / theirs - 1).max() > 2e-2
    shards = sorted(shards_of(tmp_path / "cached"))
    assert [name for name in shards if name.startswith("train")] == [
        "train-00000-of-00002.array_record",
        "train-00001-of-00002.array_record",
    ], "without augmentation one draw is kept"


@pytest.mark.parametrize("at", ["latents", "denoiser"])
def test_stopped_and_resumed_equals_undisturbed_bit_for_bit(cached, execute, tmp_path, at):
    execute(cached, tmp_path / "whole", "train")
    cached.data.latent_draws = 3
    # Step numbers: a batch of the cache, then a step of the denoiser; the former end first.
    step = {"latents": 2, "denoiser": 7}[at]
    with pytest.raises(runtime.Stopped, match=at):
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


def test_a_changed_autoencoder_is_encoded_anew_and_the_same_one_is_not(
    cached, execute, tmp_path, trained
):
    cached.data.latents_dir = str(tmp_path / "shared")
    execute(cached, tmp_path / "a", "train")
    first = shards_of(tmp_path / "shared")
    cached.denoiser.dropout = 0.0
    execute(cached, tmp_path / "b", "train")
    assert shards_of(tmp_path / "shared") == first
    other = tmp_path / "autoencoder"
    shutil.copytree(trained, other)
    cached.autoencoder.checkpoint = ""
    cached.autoencoder.train.steps = 9
    shutil.rmtree(other / "autoencoder")
    execute(cached, other, "train_autoencoder")
    cached.autoencoder.checkpoint = str(other)
    execute(cached, tmp_path / "c", "train")
    folders = list((tmp_path / "shared").iterdir())
    assert len(folders) == 2
    facts = [json.loads((f / "manifest.json").read_text())["facts"] for f in folders]
    assert facts[0].pop("autoencoder") != facts[1].pop("autoencoder") and facts[0] == facts[1]


def test_a_damaged_shard_is_written_anew(cached, execute, tmp_path, caplog):
    cached.data.latents_dir = str(tmp_path / "shared")
    execute(cached, tmp_path / "a", "train")
    path = sorted((tmp_path / "shared").rglob("train-*"))[1]
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    others = {name: t for name, t in shards_of(tmp_path / "shared").items() if name != path.name}
    with caplog.at_level(logging.WARNING):
        execute(cached, tmp_path / "b", "train")
    assert path.name in caplog.text and "damaged" in caplog.text
    assert path.read_bytes() == content
    assert others.items() <= shards_of(tmp_path / "shared").items()


def test_changed_slices_are_encoded_anew(cached, execute, tmp_path, png_root):
    root = tmp_path / "data"
    shutil.copytree(png_root, root)
    cached.data.root = str(root)
    cached.data.latents_dir = str(tmp_path / "shared")
    execute(cached, tmp_path / "a", "train")
    for kind in ("T1", "brainmask"):
        shutil.copy(
            root / "train" / f"train01-slice_1-{kind}.png",
            root / "train" / f"train00-slice_0-{kind}.png",
        )
    execute(cached, tmp_path / "b", "train")
    assert len(list((tmp_path / "shared").iterdir())) == 2


def test_one_autoencoder_serves_both_ways(tiny, execute, tmp_path):
    """`data.latents` is none of the autoencoder's keys, but is one of the denoiser's."""
    execute(tiny, tmp_path, "train_autoencoder")
    tiny.data.latents = "cached"
    execute(tiny, tmp_path, "train")
    tiny.data.latents = "live"
    with pytest.raises(errors.UserError, match="data.latents: 'cached' -> 'live'"):
        execute(tiny, tmp_path, "train")


def test_continues_on_eight_devices_within_rounding(cached, execute, tmp_path):
    execute(cached, tmp_path / "one", "train")
    cached.mesh.update(data=2, fsdp=2, tensor=2)
    execute(cached, tmp_path / "eight", "train", devices=8)
    np.testing.assert_allclose(
        losses(tmp_path / "eight", "train"), losses(tmp_path / "one", "train"), rtol=2e-3
    )


def test_a_workdir_that_is_not_local_is_refused(cached, execute, tmp_path):
    cached.data.latents_dir = "gs://bucket/latents"
    with pytest.raises(errors.UserError, match=r"data.latents_dir: found 'gs://bucket/latents'"):
        execute(cached, tmp_path, "train")

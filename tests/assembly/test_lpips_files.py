"""LPIPS weights in every format, whole and damaged."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from madad_jax.assembly import networks
from madad_jax.core import errors
from madad_jax.models.networks import lpips
from tests import damage
from tests.convert import torch_files as files


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Weights of VGG16 have 58 MB; these have two channels everywhere."""
    monkeypatch.setattr(lpips, "WIDTHS", (2,) * 5)


def weights(dtype="f4"):
    state, channels = {}, 3
    for block, indices in enumerate(lpips.BLOCKS):
        for n in indices:
            state[f"net.slice{block + 1}.{n}.weight"] = np.full((2, channels, 3, 3), n / 4)
            state[f"net.slice{block + 1}.{n}.bias"] = np.arange(2.0)
            channels = 2
        state[f"lin{block}.model.1.weight"] = np.ones((1, 2, 1, 1))
    return {key: np.asarray(value, dtype) for key, value in state.items()}


def saved(path, state):
    if path.suffix == ".npz":
        np.savez(path, **state)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(state, path)
    else:
        path.write_bytes(files.zip_bytes(files.tensors(state)))
    return str(path)


FORMS = [(".npz", "f4"), (".npz", "f2")]
FORMS += [(end, t) for end in (".safetensors", ".pth") for t in ("f4", "f2", ml_dtypes.bfloat16)]


@pytest.mark.parametrize(("suffix", "dtype"), FORMS)
def test_every_format_and_type_gives_the_same_weights(tmp_path, suffix, dtype):
    read = networks.read_lpips_weights(saved(tmp_path / f"vgg{suffix}", weights(dtype)))
    wanted = lpips.prepare(weights())
    assert read.keys() == wanted.keys()
    for layer, leaves in wanted.items():
        for leaf, array in leaves.items():
            assert read[layer][leaf].dtype == np.float32
            np.testing.assert_array_equal(read[layer][leaf], array)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_damaged_weights_are_one_line(tmp_path, suffix):
    path = saved(tmp_path / f"vgg{suffix}", weights())
    data = (tmp_path / f"vgg{suffix}").read_bytes()
    for seed in range(20):
        (tmp_path / f"vgg{suffix}").write_bytes(damage.cut(data, seed))
        with pytest.raises(errors.UserError, match=r"autoencoder\.lpips: ") as caught:
            networks.read_lpips_weights(path)
        assert str(caught.value).isprintable() and f"vgg{suffix}" in str(caught.value)


def test_a_wrong_shape_and_a_missing_tensor_are_named(tmp_path):
    state = weights()
    state["lin2.model.1.weight"] = np.ones((1, 3, 1, 1), np.float32)
    path = saved(tmp_path / "vgg.npz", state)
    with pytest.raises(errors.UserError, match=r"vgg.npz: .*lin2.model.1.weight has shape \(1, 3"):
        networks.read_lpips_weights(path)
    del state["lin2.model.1.weight"]
    with pytest.raises(errors.UserError, match=r"lin2.model.1.weight is missing"):
        networks.read_lpips_weights(saved(tmp_path / "vgg.npz", state))

"""Against PyTorch itself: files that it wrote, and files of ours that it loads."""

import pathlib

import jax
import numpy as np
import pytest

from madad_jax.convert import containers, conversion, export, tensor_names, torch_file
from tests.convert import cases
from tests.convert import torch_files as files

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "torch"


def read(path):
    with path.open("rb") as stream, torch_file.opened(str(path), stream) as root:
        table = tensor_names.flat(str(path), root)
        return {key: tensor.read() for key, tensor in table.tensors.items()}


@pytest.mark.parametrize("name", ["state_zip", "state_legacy"])
def test_state_dicts_that_pytorch_wrote(name):
    """What the fixtures hold is in their README; written down here a second time."""
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    wanted = {
        "transposed": base.T,
        "strided": base[1:3, ::2],
        "expanded": np.tile(base[0], (3, 1)),
        "scalar": np.float32(1.5),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.full(2, 0.5, np.float32),
        "bfloat16": np.array([0.0, 1.0, 2.5, -3.140625], np.float32),
        "float16": np.array([0.0, 1.0, 2.5, -3.140625], np.float16),
        "float64": np.array([0.1, 0.2]),
        "int64": np.array([2**40, -1]),
        "bool": np.array([True, False]),
    }
    got = read(FIXTURES / f"{name}.pt")
    cases.same(got, wanted)
    for key, array in wanted.items():
        assert got[key].dtype == np.asarray(array).dtype, key


def test_a_module_that_pytorch_pickled():
    got = read(FIXTURES / "module_zip.pt")
    shapes = {key: array.shape for key, array in got.items()}
    assert shapes == {
        "norm.weight": (8,),
        "norm.bias": (8,),
        "qkv.weight": (24, 8, 1),
        "qkv.bias": (24,),
        "kept": (3,),
    }
    np.testing.assert_array_equal(got["qkv.weight"].ravel(), np.arange(192) / 64)
    np.testing.assert_array_equal(got["kept"], [0, 1, 2])


@pytest.mark.torch
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_that_pytorch_writes_now(tmp_path, legacy, protocol):
    torch = pytest.importorskip("torch")
    state = {k: torch.from_numpy(v) for k, v in cases.unet_state().items()}
    half = {k: v.to(torch.bfloat16) for k, v in state.items()}
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": not legacy}
    file = tmp_path / "weights.pt"

    torch.save({"model": state, "epoch": 3}, file, **options)
    cases.same(containers.load(file).state, cases.unet_state())
    torch.save(half, file, **options)
    cases.same(containers.load(file).state, {k: v.float().numpy() for k, v in half.items()})
    torch.save(module, file, **options)
    cases.same(read(file), {k: v.numpy() for k, v in module.state_dict().items()})


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["unet", "autoencoder"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_pytorch_loads_what_is_exported(tmp_path, kind, suffix):
    torch = pytest.importorskip("torch")
    state = cases.unet_state() if kind == "unet" else cases.vae_state()
    params = jax.tree.map(np.asarray, conversion.convert(kind, state).params)
    file = tmp_path / f"weights{suffix}"
    export.write(file, kind, conversion.to_official(kind, params))
    if suffix == ".pt":
        loaded = torch.load(file, weights_only=True)
        loaded = loaded["model"] if kind == "unet" else loaded
    else:
        loaded = pytest.importorskip("safetensors.torch").load_file(file)
    cases.same({k: v.numpy() for k, v in loaded.items()}, state)
    assert all(v.is_contiguous() and v.dtype == torch.float32 for v in loaded.values())


@pytest.mark.torch
@pytest.mark.parametrize("write", [files.zip_bytes, files.legacy_bytes])
def test_pytorch_agrees_with_the_writer_of_these_tests(tmp_path, write):
    """Else our reader would only be tested against our own idea of the format."""
    torch = pytest.importorskip("torch")
    base = np.arange(24, dtype=np.float32)
    file = tmp_path / "weights.pt"
    file.write_bytes(
        write({"a": files.View(base, 7, (2, 3), (6, 2)), "b": files.tensor(base.astype("f2"))})
    )
    loaded = torch.load(file, weights_only=True, map_location="cpu")
    np.testing.assert_array_equal(loaded["a"].numpy(), base.reshape(4, 6)[1:3, 1::2])
    np.testing.assert_array_equal(loaded["b"].numpy(), base.astype("f2"))

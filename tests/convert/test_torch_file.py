"""Both formats of torch.save, element types, views, and files that are not whole."""

import io
import random
import zipfile

import ml_dtypes
import numpy as np
import pytest

from madad_jax.convert import tensors, torch_file
from madad_jax.core import errors
from tests.convert import torch_files as files

BASE = np.arange(24, dtype=np.float32)


def read(data, name="file.pt"):
    """{key: array} of a state dict in bytes."""
    with torch_file.opened(name, io.BytesIO(data)) as root:
        return {k: v.read() for k, v in root.items() if isinstance(v, tensors.Tensor)}


@pytest.mark.parametrize("write", [files.zip_bytes, files.legacy_bytes])
@pytest.mark.parametrize("dtype", list(files.STORAGE))
def test_element_types(write, dtype):
    array = np.array([[0, 1, 2], [3, 100, 1]]).astype(dtype)
    got = read(write({"a": files.tensor(array)}))["a"]
    assert got.dtype == (np.float32 if dtype == ml_dtypes.bfloat16 else dtype)
    np.testing.assert_array_equal(got.astype("f8"), array.astype("f8"))


@pytest.mark.parametrize("write", [files.zip_bytes, files.legacy_bytes])
def test_bfloat16_is_exact(write):
    bits = np.arange(0, 2**16, 97, dtype=np.uint16)
    got = read(write({"a": files.tensor(bits.view(ml_dtypes.bfloat16))}))["a"]
    np.testing.assert_array_equal(got.view(np.uint32), bits.astype(np.uint32) << 16)


@pytest.mark.parametrize("write", [files.zip_bytes, files.legacy_bytes])
def test_views_share_a_storage(write):
    views = {
        "transposed": (files.View(BASE, 0, (6, 4), (1, 6)), BASE.reshape(4, 6).T),
        "strided": (files.View(BASE, 7, (2, 3), (6, 2)), BASE.reshape(4, 6)[1:3, 1::2]),
        "broadcast": (files.View(BASE, 2, (3, 2), (0, 1)), np.tile(BASE[2:4], (3, 1))),
        "scalar": (files.View(BASE, 5, (), ()), BASE[5]),
        "empty": (files.View(BASE, 24, (0, 3), (3, 1)), np.zeros((0, 3))),
    }
    data = write({key: view for key, (view, _) in views.items()})
    assert len(data) < 3000  # the storage is there once
    got = read(data)
    for key, (_, wanted) in views.items():
        assert got[key].flags.c_contiguous and got[key].shape == wanted.shape
        np.testing.assert_array_equal(got[key], wanted)


def test_big_endian():
    got = read(files.zip_bytes({"a": files.tensor(BASE)}, byteorder="big"))["a"]
    np.testing.assert_array_equal(got, BASE)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickle_protocols(protocol):
    state = {"a": files.tensor(BASE), "text": "é", "n": [1, -5, 2**70, 1.5, None, True, (1, 2)]}
    if protocol == 0:
        # It can name a storage only as text, which torch never writes.
        with pytest.raises(errors.UserError, match="described in an unknown way"):
            read(files.zip_bytes(state, protocol))
        return
    data = files.zip_bytes(state, protocol)
    with torch_file.opened("f", io.BytesIO(data)) as root:
        assert root["n"] == state["n"] and root["text"] == "é"


@pytest.mark.parametrize(
    "view",
    [
        files.View(BASE, 1, (24,), (1,)),
        files.View(BASE, 0, (5, 5), (6, 1)),
        files.View(BASE, -1, (2,), (1,)),
        files.View(BASE, 0, (-1, 2), (1, 1)),
        files.View(BASE, 0, (2,), (-1,)),
        files.View(BASE, 0, (2, 2), (1,)),
        files.View(BASE, 0, (1 << 40,), (0,)),
        files.View(BASE, 0, (1.0,), (1,)),
        files.View(BASE, 0, "ab", (1, 1)),
        files.View(BASE, 0, (1,) * 40, (1,) * 40),
    ],
)
def test_views_beyond_their_storage_are_refused(view):
    with pytest.raises(errors.UserError, match="damaged"):
        read(files.zip_bytes({"a": view}))


def test_what_is_no_weights_file():
    cases = {
        b"": "no weights file",
        b"hello": "no weights file",
        b"PK\x03\x04 but no zip": "damaged zip",
        files.dump({"a": 1})[0]: "a pickle, but not of torch.save",
    }
    for data, message in cases.items():
        with pytest.raises(errors.UserError, match=message) as caught:
            read(data)
        assert "file.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_lengths_in_the_file_are_not_believed():
    # A claim of 2**60 bytes in the pickle, and one of a quadrillion elements in a storage.
    with pytest.raises(errors.UserError, match="damaged"):
        read(files.zip_bytes({}, data=b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x."))
    data = files.zip_bytes({"a": files.tensor(BASE)})
    pickled = files.dump({"a": files.tensor(BASE)})[0]
    huge = pickled.replace(b"K\x18t", b"\x8a\x06" + (10**14).to_bytes(6, "little") + b"t", 1)
    assert huge != pickled
    with pytest.raises(errors.UserError, match=r"storage 0 has 96 bytes instead of 4000000000000"):
        read(files.zip_bytes({"a": files.tensor(BASE)}, data=huge))
    assert read(data)["a"].size == 24


SMALL = {
    "layer.weight": np.arange(60, dtype=np.float32).reshape(3, 20),
    "layer.bias": np.linspace(-1, 1, 7, dtype=np.float16),
    "steps": np.array(12, np.int64),
}


def damaged(data, seed):
    """Every second one is cut short, the others have one to four bytes changed."""
    draw = random.Random(seed)
    if seed % 2:
        return data[: draw.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(data))] ^= draw.randint(1, 255)
    return bytes(changed)


@pytest.mark.parametrize("write", [files.zip_bytes, files.legacy_bytes])
def test_random_corruptions_give_an_error_or_an_equal_result(write):
    data = write(files.tensors(SMALL))
    whole = read(data)
    refused = 0
    for seed in range(200):
        bad = damaged(data, seed)
        try:
            got = read(bad)
        except errors.UserError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert seed % 2 == 0, "a shortened file was taken for whole"
        if write is files.legacy_bytes:
            continue  # no checksum: a changed number inside of a tensor shows nowhere
        assert got.keys() == whole.keys()
        for key in whole:
            np.testing.assert_array_equal(got[key], whole[key])
    assert refused >= 100


def test_compressed_and_doubled_entries_are_refused():
    pickled, _ = files.dump({"a": 1})
    for names, kind in ((["a/data.pkl"], zipfile.ZIP_DEFLATED), (["a/data.pkl", "b/data.pkl"], 0)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for name in names:
                archive.writestr(name, pickled + bytes(500))
        with pytest.raises(errors.UserError, match=r"517 bytes or is compressed|2 entries"):
            read(buffer.getvalue())


def test_torchscript_is_named():
    buffer = io.BytesIO(files.zip_bytes({"a": 1}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(errors.UserError, match="TorchScript"):
        read(buffer.getvalue())

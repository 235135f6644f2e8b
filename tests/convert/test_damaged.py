"""Damaged files of every format that is read: one line, or the values of the whole file."""

import io
import json
import random
import tracemalloc
import zipfile

import numpy as np
import pytest

from madad_jax.convert import containers
from madad_jax.core import errors
from tests import damage
from tests.convert import torch_files as files

STATE = {
    "input_blocks.0.0.weight": np.arange(60, dtype=np.float32).reshape(3, 20),
    "input_blocks.0.0.bias": np.linspace(-1, 1, 7, dtype=np.float16),
}


def npz(state):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **state)
    return buffer.getvalue()


def safetensors(state):
    header, body = {}, b""
    for key, array in state.items():
        kind = {"float32": "F32", "float16": "F16"}[array.dtype.name]
        places = [len(body), len(body) + array.nbytes]
        header[key] = {"dtype": kind, "shape": list(array.shape), "data_offsets": places}
        body += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


WRITERS = {
    "zip": lambda state: files.zip_bytes(files.tensors(state)),
    "legacy": lambda state: files.legacy_bytes(files.tensors(state)),
    "module": lambda state: files.zip_bytes(files.module(files.nested(state))),
    "safetensors": safetensors,
    "npz": npz,
}
CHECKED = ("zip", "module", "npz")  # the others have no checksum: a changed number shows nowhere
MOST_BYTES = 2**25  # memory of one try; the files have some kilobytes


def outcome(path, traced=True):
    """{key: array}, or None for a refusal in one line; `traced`: within bounded memory, slowly."""
    if traced:
        tracemalloc.start()
    try:
        return containers.load(path, "unet").state
    except errors.UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1500
        return None
    finally:
        if traced:
            assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
            tracemalloc.stop()


@pytest.mark.parametrize("form", sorted(WRITERS))
@pytest.mark.parametrize("tries", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_damage_is_told_or_does_no_harm(tmp_path, form, tries):
    data = WRITERS[form](STATE)
    file = tmp_path / "weights.pt"
    file.write_bytes(data)
    whole = outcome(file)
    assert whole is not None
    refused = equal = 0
    for seed in range(tries):
        _, changed = damage.damaged(data, seed)
        file.write_bytes(changed)
        got = outcome(file, traced=seed % 5 == 0)
        if got is None:
            refused += 1
        elif form in CHECKED:
            assert got.keys() == whole.keys(), seed
            for key in whole:
                np.testing.assert_array_equal(got[key], whole[key], err_msg=str(seed))
            equal += 1
    print(f"| {form} | {tries} | {refused} | {equal} |")
    assert refused > tries / 3


ODD = (7, -1, 2**70, 1.5, None, True, [], [1], (), {}, "", "x" * 1000, b"y", (1, (2, 3)))


def twisted(value, draw):
    """The same tree with one of its values, or keys, replaced by one of `ODD`."""
    if isinstance(value, files.Object):
        made = files.Object("a.B")
        made.kind, made.attributes = value.kind, twisted(value.attributes, draw)
        return made
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        pairs = list(value.items())
        place = list(value).index(key)
        if draw.random() < 0.3:
            pairs[place] = (draw.choice((3, 1.5, None, True, (1, 2), b"k", "")), value[key])
        else:
            pairs[place] = (key, twisted(value[key], draw))
        return type(value)(pairs)
    return draw.choice(ODD)


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 300), marks=pytest.mark.slow)])
@pytest.mark.parametrize("write", [files.zip_bytes, files.legacy_bytes])
def test_another_type_anywhere_is_one_line(tmp_path, write, seeds):
    file = tmp_path / "weights.pt"
    for seed in seeds:
        draw = random.Random(f"twist {seed}")
        root = {
            "model": files.module(files.nested(STATE)),
            "state_dict": files.tensors({f"a.{key}": value for key, value in STATE.items()}),
            "epoch": 3,
        }
        root.pop(draw.choice(["model", "state_dict"]))
        file.write_bytes(write(twisted(root, draw)))
        outcome(file)


@pytest.mark.parametrize("name", ["archive.npz", "arrays.npz"])
def test_archives_of_odd_arrays(tmp_path, name):
    file = tmp_path / name
    odd = {
        "object": np.array([{}, 1], object),
        "text": np.array(["a"]),
        "complex": np.ones(2, np.complex64),
        "record": np.zeros(2, [("a", "f4")]),
    }
    for array in odd.values():
        np.savez(file, a=array)
        with pytest.raises(errors.UserError, match=r"a\.npy"):
            containers.read_arrays(file, "--verify")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"no array")
    with pytest.raises(errors.UserError, match=r"damaged: a\.npy"):
        containers.read_arrays(file, "--verify")


def test_arrays_come_as_numpy_reads_them(tmp_path):
    arrays = {
        "rows": np.arange(12, dtype=np.float64).reshape(3, 4),
        "columns": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        "big": np.arange(5, dtype=">i4"),
        "flags": np.array([True, False]),
        "scalar": np.float16(1.5),
        "none": np.zeros((0, 3), np.uint8),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        got = containers.read_arrays(tmp_path / "a.npz", "--verify")
        assert got.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(got[key], array)
            assert got[key].shape == array.shape, key

"""Damaged headers: the format's own library and ours refuse the same files, and read the same."""

import copy
import io
import json
import random

import numpy as np
import pytest
import safetensors.numpy

from madad_jax.convert import safetensors_file
from madad_jax.core import errors
from tests import damage

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADER = {
    "__metadata__": {"format": "pt"},
    "a": ENTRY,
    "b": {"dtype": "F16", "shape": [2, 3], "data_offsets": [8, 20]},
    "c": {"dtype": "F64", "shape": [], "data_offsets": [20, 28]},
    "none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [28, 28]},
}
BODY = np.arange(28, dtype=np.uint8).tobytes()


def built(header, body=BODY):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def ours(data):
    """{key: array}, or None for a refusal."""
    stream = io.BytesIO(data)
    try:
        if not safetensors_file.is_one(stream):
            return None
        return {key: tensor.read() for key, tensor in safetensors_file.load("f", stream).items()}
    except errors.UserError as error:
        assert str(error).isprintable() and len(str(error)) < 500
        return None


def theirs(data):
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return None


def changed(seed):
    """A header with one value, name or entry of it changed."""
    draw = random.Random(f"header {seed}")
    header = copy.deepcopy(HEADER)
    key = draw.choice([key for key in header if key != "__metadata__"])
    entry = header[key]
    field = draw.choice(sorted(entry))
    odd = draw.choice([None, True, -1, 1.5, 2**70, "x", [], {}, [1, 2, 3], [[1]], ["1"]])
    way = draw.randrange(7)
    if way == 0:
        entry[field] = odd
    elif way == 1:
        del entry[field]
    elif way == 2:
        entry["data_offsets"][draw.randrange(2)] += draw.choice([-8, -1, 1, 4, 8])
    elif way == 3:
        header[f"{key}2"] = copy.deepcopy(entry)
    elif way == 4:
        del header[key]
    elif way == 5:
        header["__metadata__"] = odd
    else:
        entry["shape"] = [*entry["shape"], draw.choice([0, 1, 2])]
    return header


@pytest.mark.parametrize("seed", range(10))
def test_both_refuse_the_same_headers(seed):
    refused = 0
    for number in range(60):
        data = built(changed(60 * seed + number))
        mine, wanted = ours(data), theirs(data)
        assert (mine is None) == (wanted is None), data
        refused += mine is None
        if mine is not None:
            assert mine.keys() == wanted.keys()
            for key in mine:
                np.testing.assert_array_equal(mine[key], wanted[key])
    assert 10 < refused < 60


def test_what_is_read_of_damaged_bytes_is_what_the_library_reads():
    read = 0
    for seed in range(300):
        _, data = damage.damaged(built(HEADER), seed)
        mine = ours(data)
        if mine is not None:
            wanted = theirs(data)
            assert wanted is not None, data
            for key in mine:
                np.testing.assert_array_equal(mine[key], wanted[key])
            read += 1
    assert 0 < read < 200


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ({"a": ENTRY, "b": ENTRY}, 8, "overlaps"),
        ({"a": ENTRY, "b": ENTRY | {"data_offsets": [12, 20]}}, 20, "leaves a hole"),
        ({"a": ENTRY}, 9, "take 8 bytes, 9 are there"),
        (b'{"a":%s,"a":%s}' % ((json.dumps(ENTRY).encode(),) * 2), 8, "stands twice"),
        ({"a": ENTRY | {"shape": [1] * 33, "data_offsets": [0, 4]}}, 4, "at most 32 axes"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}', 8, "-0 is no length"),
        (b'{"a":{"x":NaN,"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "NaN is no JSON"),
        ({"a": ["F32", [2], [0, 8]]}, 8, "header entry 'a'"),
        ({"a": 3}, 8, "header entry 'a'"),
    ],
)
def test_headers_that_do_not_describe_the_file(header, body, message):
    with pytest.raises(errors.UserError, match=message):
        safetensors_file.load("f", io.BytesIO(built(header, bytes(body))))

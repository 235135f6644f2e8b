"""Rebuilds the weights and inputs of `tests/fixtures` from their drawing rule."""

import pathlib
import re
import zlib

import numpy as np

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
# GroupNorm layers of both networks, by key: their weights are drawn around one.
_NORM = re.compile(r"(^|\.)(norm\d?|norm_out|in_layers\.0|out_layers\.0|out\.0|mt_out\.0)\.\w+$")


def _normal(name, shape):
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def weight(key, shape):
    """The tensor of state-dict name `key` and PyTorch shape `shape`."""
    n = _normal(key, shape)
    if _NORM.search(key):
        n = 1 + 0.2 * n if key.endswith("weight") else 0.1 * n
    elif key.endswith("bias"):
        n = 0.05 * n
    else:
        n = n / np.sqrt(np.prod(shape[1:]))
    return n.astype(np.float32)


def state(shapes):
    return {key: weight(key, shape) for key, shape in shapes.items()}


def key_list(name):
    """{key: shape} of an official network, from a list of the official state dict."""
    shapes = {}
    for line in (FIXTURES / name).read_text().splitlines():
        key, shape = line.split("\t")
        shapes[key] = tuple(int(n) for n in re.findall(r"\d+", shape))
    return shapes


def array(name, *shape):
    return _normal(name, shape).astype(np.float32)


def expected(key):
    """A stored output of the official code, as NHWC."""
    with np.load(FIXTURES / "official_formula_weights.npz") as file:
        return file[key].transpose(0, 2, 3, 1)


def nhwc(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))

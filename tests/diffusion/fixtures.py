"""Numbers of the official code for this folder, as NHWC (tests/fixtures/README.md)."""

import functools
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / "fixtures"


@functools.cache
def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def nhwc(x):
    return np.ascontiguousarray(np.moveaxis(x, -3, -1))

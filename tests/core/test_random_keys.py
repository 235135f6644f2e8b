import zlib

import jax
import numpy as np
import pytest

from madad_jax.core import random_keys


def _words(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("name", ["evaluate", "denoiser", "autoencoder/init", ""])
def test_keys_made_on_the_host_are_those_of_jax(seed, name):
    """Whatever was drawn with a seed before is drawn again: resumed runs depend on it."""
    root = random_keys.root_key(seed)
    assert root.dtype == jax.random.key(seed).dtype
    assert _words(root) == _words(jax.random.key(seed))
    folded = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    assert _words(random_keys.stream(root, name)) == _words(folded)
    inside = jax.jit(lambda: random_keys.stream(random_keys.root_key(seed), name))()
    assert _words(inside) == _words(folded)
    closed_over = jax.jit(lambda: random_keys.stream(root, name))()
    assert _words(closed_over) == _words(folded)


def test_keys_of_another_kind_go_through_jax():
    key = jax.random.key(3, impl="rbg")
    found = random_keys.stream(key, "x")
    assert _words(found) == _words(jax.random.fold_in(key, zlib.crc32(b"x")))


def test_no_program_is_compiled_for_a_key(monkeypatch):
    def fold_in(key, data):
        raise AssertionError("a program was made")

    monkeypatch.setattr(jax.random, "fold_in", fold_in)
    monkeypatch.setattr(jax.random, "key", fold_in)
    random_keys.stream(random_keys.root_key(5), "evaluate")

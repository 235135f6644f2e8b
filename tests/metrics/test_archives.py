import io

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import archives

META = {"format": 3, "names": ["a", "ü"]}
ARRAYS = {"x": np.arange(40, dtype=np.float32), "y": np.zeros((0, 2), np.int64)}


def _read(content):
    with archives.open_bytes(content, "f.npz", "a good file") as (meta, arrays):
        return meta, {name: arrays[name] for name in ARRAYS}


def test_comes_back_as_it_was():
    meta, arrays = _read(archives.to_bytes(META, ARRAYS))
    assert meta == META
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], values)
        assert arrays[name].dtype == values.dtype


def test_a_flipped_byte_is_found_or_does_no_harm():
    content = archives.to_bytes(META, ARRAYS)
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            meta, arrays = _read(bytes(damaged))
        except errors.UserError as error:
            assert str(error).startswith("f.npz: not a good file: ")
            refused += 1
        else:
            assert meta == META
            assert all((arrays[name] == values).all() for name, values in ARRAYS.items())
    assert refused > len(content) // 3


def test_what_the_reader_finds_wrong_is_damage_and_its_own_message_is_kept():
    content = archives.to_bytes(META, ARRAYS)
    with (
        pytest.raises(errors.UserError, match=r"f\.npz: not a good file: .*z is not a file"),
        archives.open_bytes(content, "f.npz", "a good file") as (_, arrays),
    ):
        arrays["z"]
    with (
        pytest.raises(errors.UserError, match="another format"),
        archives.open_bytes(content, "f.npz", "a good file"),
    ):
        raise errors.UserError("another format")


@pytest.mark.parametrize("meta", [b"", b"[]", b"null", b"\xff", b"[" * 9999])
def test_facts_that_are_no_table_name_the_file(meta):
    content = io.BytesIO()
    np.savez(content, meta=np.frombuffer(meta, np.uint8))
    with (
        pytest.raises(errors.UserError, match=r"file\.npz") as caught,
        archives.open_bytes(content.getvalue(), "file.npz", "a table"),
    ):
        pass
    assert "\n" not in str(caught.value)

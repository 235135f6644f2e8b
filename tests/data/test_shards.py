"""Shards are whole or absent, and every fault names the file."""

import concurrent.futures
import pickle

import numpy as np
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.data.sources import shards


@pytest.fixture
def folder(tmp_path):
    """Three shards of 2, 3 and 4 records."""
    for i in range(3):
        name = shards.shard_name("train", i, 3)
        shards.write(tmp_path / name, [bytes([i, j]) * 500 for j in range(i + 2)])
    return epath.Path(tmp_path)


def _expected():
    return [bytes([i, j]) * 500 for i in range(3) for j in range(i + 2)]


def test_reads_from_many_threads_what_was_written(folder):
    reader = shards.Reader(shards.list_shards(folder, "train"))
    assert len(reader) == 9
    numbers = np.random.default_rng(0).integers(0, 9, 2000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(reader.__getitem__, numbers)) == [_expected()[i] for i in numbers]
    with pytest.raises(IndexError):
        reader[9]


def test_a_reader_goes_to_another_process(folder):
    reader = pickle.loads(pickle.dumps(shards.Reader(shards.list_shards(folder, "train"))))
    assert [reader[i] for i in range(9)] == _expected()


def test_a_missing_shard_is_named(folder):
    (folder / shards.shard_name("train", 1, 3)).unlink()
    with pytest.raises(errors.UserError, match=r"'train-00001-of-00003.array_record' is missing"):
        shards.list_shards(folder, "train")


def test_shards_of_two_sets_are_refused(folder):
    shards.write(folder / shards.shard_name("train", 0, 1), [b"x"])
    with pytest.raises(errors.UserError, match="mixed"):
        shards.list_shards(folder, "train")


def test_names_do_not_run_into_each_other(folder):
    shards.write(folder / shards.shard_name("train-T1", 0, 1), [b"x"])
    assert len(shards.list_shards(folder, "train")) == 3
    assert shards.list_shards(folder, "val") == []


@pytest.mark.parametrize("kept", [0, 100, 300])
def test_a_truncated_shard_is_named(folder, kept):
    path = folder / shards.shard_name("train", 2, 3)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(errors.UserError, match=r"train-00002-of-00003\.array_record"):
        shards.Reader(shards.list_shards(folder, "train"))


def test_no_flipped_bit_is_read_as_something_else(tmp_path):
    content = [np.random.default_rng(i).bytes(3000) for i in range(4)]
    path = epath.Path(tmp_path / "x.array_record")
    shards.write(path, content)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 301):
        damaged = bytearray(whole)
        damaged[position] ^= 8
        path.write_bytes(bytes(damaged))
        try:
            reader = shards.Reader([path])
            assert [reader[i] for i in range(4)] == content
        except errors.UserError as error:
            assert "x.array_record" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 20


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = epath.Path(tmp_path / "x.array_record")
    shards.write(path, [b"old"])

    def records():
        yield b"new"
        raise errors.UserError("'a.png' is no PNG")

    with pytest.raises(errors.UserError, match=r"a.png"):
        shards.write(path, records())
    assert shards.Reader([path])[0] == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.array_record"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match=r"file/x.array_record"):
        shards.write(tmp_path / "file" / "x.array_record", [b""])


def test_remote_folders_are_refused_by_key():
    with pytest.raises(errors.UserError, match=r"data.latents_dir: found 'gs://b/x'"):
        shards.require_local("gs://b/x", "data.latents_dir")

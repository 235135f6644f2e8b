import os

import pytest

from madad_jax.core import atomic_files, errors


def test_makes_the_folder_and_leaves_no_neighbour(tmp_path):
    path = tmp_path / "a" / "b.txt"
    atomic_files.write_text(path, "one")
    atomic_files.write_bytes(path, "zwölf".encode())
    assert path.read_text() == "zwölf"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_failed_write_keeps_the_old_file_and_names_the_path(tmp_path, monkeypatch):
    path = tmp_path / "b.txt"
    path.write_text("old")

    def full(self, content):
        with open(self, "wb") as handle:
            handle.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(atomic_files.epath.Path(path)), "write_bytes", full)
    with pytest.raises(errors.UserError, match=r"b\.txt' cannot be written: No space.*; free some"):
        atomic_files.write_bytes(path, b"new content", hint="free some")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["b.txt"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(errors.UserError, match=r"cannot be written: (Not a dir|File)"):
        atomic_files.write_text(tmp_path / "a" / "b.txt", "x")

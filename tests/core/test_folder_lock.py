"""One writer of a folder, whoever is killed, wherever the other one runs."""

import json
import os
import shutil
import signal
import threading
import time

import pytest

from madad_jax.core import errors, folder_lock
from tests import holder


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    with holder.held(tmp_path) as process:
        yield process


def write_lock(folder, **changes):
    holder = folder_lock._me()
    values = vars(holder) | changes
    (folder / ".lock").write_text(json.dumps(values))


def test_the_second_is_told_who_writes_and_since_when(tmp_path, other):
    before = sorted((p.name, p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir())
    started = time.monotonic()
    with pytest.raises(errors.UserError) as error, folder_lock.hold(tmp_path, "--workdir"):
        pass
    assert time.monotonic() - started < 2
    said = str(error.value)
    assert said.startswith(f"--workdir={tmp_path}: process {other.pid} on '") and "\n" not in said
    assert " UTC writes it; " in said and f"remove '{tmp_path / '.lock'}'" in said
    after = sorted((p.name, p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir())
    assert after == before


def test_a_killed_writer_is_replaced_at_once(tmp_path, other, caplog):
    other.send_signal(signal.SIGKILL)  # Not waited for: a zombie is gone too.
    time.sleep(0.2)
    started = time.monotonic()
    with folder_lock.hold(tmp_path, "--out"):
        assert time.monotonic() - started < 1.5
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert f"taken over from process {other.pid}" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_copy_of_a_folder_that_is_written_is_free(tmp_path, other):
    shutil.copytree(tmp_path, tmp_path / "copy")
    with folder_lock.hold(tmp_path / "copy", "--out"):
        pass
    assert other.poll() is None


def test_nothing_is_left_and_a_process_may_hold_it_twice(tmp_path):
    with folder_lock.hold(tmp_path / "new", "--out"):
        with folder_lock.hold(tmp_path / "new" / ".." / "new", "--out"):
            pass
        assert (tmp_path / "new" / ".lock").exists()
    assert not list(tmp_path.iterdir())


def test_a_number_that_another_process_has_now_is_not_the_writer(tmp_path):
    write_lock(tmp_path, start="1")  # This process, but begun at another time.
    with folder_lock.hold(tmp_path, "--out"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "null", '{"host": 3}'])
def test_a_lock_that_says_nothing_is_replaced(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with folder_lock.hold(tmp_path, "--out"):
        pass


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"place": "boot 2, container 7"}])
def test_a_writer_elsewhere_that_gives_signs_of_life_is_left_alone(tmp_path, changes):
    write_lock(tmp_path, **changes)
    over = threading.Event()

    def beat():  # Backwards: a clock that was set back makes it no less alive.
        now = time.time()
        while not over.wait(0.3):
            now -= 60
            os.utime(tmp_path / ".lock", (now, now))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(errors.UserError, match="writes it"), folder_lock.hold(tmp_path, "-o"):
            pass
    finally:
        over.set()
        thread.join()
    assert (tmp_path / ".lock").exists()


def test_a_writer_elsewhere_that_is_silent_is_replaced(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.5)
    write_lock(tmp_path, host="elsewhere")
    os.utime(tmp_path / ".lock", (2**33, 2**33))  # In the year 2242: only changes count.
    with folder_lock.hold(tmp_path, "--out"):
        pass
    assert "taken over from process" in caplog.text and "'elsewhere'" in caplog.text


def test_without_locks_of_the_file_system_the_content_decides(tmp_path, monkeypatch, other):
    monkeypatch.setattr(folder_lock, "_flock", lambda file: None)
    with pytest.raises(errors.UserError, match="writes it"), folder_lock.hold(tmp_path, "--out"):
        pass
    other.kill()
    other.wait()
    with folder_lock.hold(tmp_path, "--out"):
        pass


def test_waits_for_the_writer_and_can_be_stopped_while_it_waits(tmp_path, other, monkeypatch):
    calls = []

    def wait():
        calls.append(1)
        if len(calls) == 3:
            other.kill()

    with folder_lock.hold(tmp_path, "--out", wait=wait):
        assert len(calls) >= 3

    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_lock, "_flock", lambda file: None)
    write_lock(tmp_path, pid=os.getppid(), start=folder_lock._state(os.getppid())[1])
    with pytest.raises(KeyboardInterrupt), folder_lock.hold(tmp_path, "--out", wait=stop):
        pass


def test_one_of_many_that_start_at_once_gets_it(tmp_path):
    started = [holder.start(tmp_path, seconds=3) for _ in range(6)]
    said = [process.communicate()[0] for process in started]
    assert said.count("held\n") == 1


def test_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT", 0.05)
    with folder_lock.hold(tmp_path, "--out"):
        os.utime(tmp_path / ".lock", (1, 1))
        time.sleep(0.3)
        assert (tmp_path / ".lock").stat().st_mtime > 1000


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(errors.UserError, match=r"--out=.*Not a directory"),
        folder_lock.hold(tmp_path / "file" / "x", "--out"),
    ):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("words")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(errors.UserError), folder_lock.hold(tmp_path / "out", "--out"):
        pass
    assert (tmp_path / "precious").read_text() == "words"

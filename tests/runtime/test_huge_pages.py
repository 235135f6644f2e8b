"""The restart happens where it helps, once, and only to our own commands."""

import os
import sys
import types

import pytest

from madad_jax.runtime import huge_pages


@pytest.fixture
def mode(tmp_path):
    """The kernel's file, where it gives huge pages to who asks."""
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    return path


@pytest.fixture
def started(monkeypatch):
    """What was executed, on a machine where a restart helps."""
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    # Set and taken away, so that what `restart` sets is taken away too.
    monkeypatch.setenv(huge_pages.VARIABLE, "")
    monkeypatch.delenv(huge_pages.VARIABLE)
    command = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="madad_jax.main"))
    monkeypatch.setitem(sys.modules, "__main__", command)
    calls = []
    monkeypatch.setattr(os, "execv", lambda *a: calls.append((*a, dict(os.environ))))
    return calls


def test_the_same_command_once(started, mode):
    huge_pages.restart(mode)
    (program, words, environment) = started.pop()
    assert program == sys.executable and words == sys.orig_argv
    assert environment[huge_pages.VARIABLE] == "glibc.malloc.hugetlb=1"
    huge_pages.restart(mode)
    assert not started


@pytest.mark.parametrize("why", ["always", "never", "no file", "musl", "old", "theirs", "script"])
def test_nowhere_else(started, mode, monkeypatch, why):
    if why in ("always", "never"):
        mode.write_text("always madvise never".replace(why, f"[{why}]"))
    elif why == "no file":
        mode.unlink()
    elif why in ("musl", "old"):
        found = {"musl": ("", ""), "old": ("glibc", "2.31")}[why]
        monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: found)
    elif why == "theirs":
        spec = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="pytest.__main__"))
        monkeypatch.setitem(sys.modules, "__main__", spec)
    else:
        monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=None))
    huge_pages.restart(mode)
    assert not started

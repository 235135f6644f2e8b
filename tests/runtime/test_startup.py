import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from madad_jax.core import errors
from madad_jax.runtime import agreement, startup
from madad_jax.runtime import stop as stop_lib


def test_device_line_is_one_line_with_versions():
    line = startup.device_line()
    assert line.startswith("8 x cpu, 1 process(es); madad_jax ")
    assert f"jax {jax.__version__}," in line and "flax " in line and "missing" not in line
    assert "\n" not in line


def test_a_signal_asks_for_a_stop_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with stop_lib.GracefulStop() as stop:
        assert not stop.requested(1) and stop.exit_status == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested(2) and stop.requested(3)
        assert stop.signal == signal.SIGTERM and stop.exit_status == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_interrupt_ends_at_once():
    with stop_lib.GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested(1) and stop.exit_status == stop_lib.EXIT_SIGINT == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_an_interrupt_after_sigterm_is_not_the_second():
    with stop_lib.GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested(1)


def test_stopped_carries_its_status():
    assert stop_lib.Stopped(signal.SIGTERM, "x").exit_status == stop_lib.EXIT_SIGTERM == 143


def test_minutes_passed():
    now = time.monotonic()
    assert agreement.minutes_passed(now - 61, 1.0)
    assert not agreement.minutes_passed(now - 59, 1.0)
    assert not agreement.minutes_passed(now - 1e9, 0.0)


def test_bad_process_count_names_the_variable(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(errors.UserError, match="JAX_NUM_PROCESSES: found 'two'"):
        startup.start(cache_dir="")


def test_start_fills_the_cache_and_joins_as_asked(tmp_path):
    """In a process of its own: the cache and the coordinator are global to a process."""
    script = """
import sys, jax
from madad_jax.runtime import startup, stop as stop_lib
startup.start(distributed=True, coordinator_address=sys.argv[1], num_processes=1, process_id=0)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
assert jax.distributed.is_initialized()
jax.jit(lambda x: x @ x)(jax.numpy.ones((3, 3))).block_until_ready()
with stop_lib.GracefulStop() as stop:
    assert not stop.requested(1)
"""
    env = dict(os.environ, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"))
    port = 20000 + os.getpid() % 20000
    subprocess.run(
        [sys.executable, "-c", script, f"localhost:{port}"], env=env, check=True, timeout=120
    )
    assert any((tmp_path / "cache").iterdir())


def test_default_cache_is_the_users(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert startup.default_cache_dir() == "/some/cache/madad_jax/xla"


def test_a_stage_that_saves_nothing_ends_where_it_asks():
    stop_lib.check("outside")  # Nobody entered: as when a library is used from a notebook.
    with stop_lib.GracefulStop() as stop:
        stop_lib.check("evaluation: test")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(stop_lib.Stopped, match="evaluation: test: stopped") as stopped:
            stop_lib.check("evaluation: test")
        assert stopped.value.exit_status == stop.exit_status == 143
    stop_lib.check("outside")

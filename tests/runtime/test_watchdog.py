"""Signs of life against a store in memory, and who is blamed."""

import json
import logging
import subprocess
import sys
import time

import pytest

from madad_jax.core import errors
from madad_jax.runtime import agreement, process_log, watchdog


class Store:
    """JAX's key-value client, without its service."""

    def __init__(self):
        self.values, self.broken = {}, False

    def key_value_set(self, key, value, allow_overwrite=False):
        if self.broken:
            raise RuntimeError("UNAVAILABLE: no route")
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, key):
        if self.broken:
            raise RuntimeError("UNAVAILABLE: no route")
        return [(k, v) for k, v in self.values.items() if k.startswith(key)]


PERIOD = 5.0  # far longer than a test waits


def _others(store, number, *alive):
    for k in alive:
        store.key_value_set(f"madad_jax/beat/{k}", f"{number} denoiser: step {k}", True)


def test_a_process_without_signs_is_blamed(monkeypatch):
    clock = [100.0]  # ours: a busy machine must not make the others silent
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    store = Store()
    watch = watchdog.Watch(store, 0, 4, period=PERIOD)
    for number in range(10):
        _others(store, number, 1, 3)
        watch._read()
        clock[0] += PERIOD
    assert watch.silent() == [2]
    assert watch.blame() == "no sign of life from process 2"


def test_all_alive_says_where_each_is():
    store = Store()
    watch = watchdog.Watch(store, 0, 3, period=5.0)
    _others(store, 1, 0, 1, 2)
    watch._read()
    assert watch.blame().startswith("all processes live: 0 at 'denoiser: step 0', 1 at 'den")


def test_a_store_that_does_not_answer_is_process_0s_fault():
    store = Store()
    watch = watchdog.Watch(store, 1, 3, period=PERIOD)
    store.broken = True
    assert watch.blame() == "process 0, which coordinates, does not answer"


def test_one_that_ended_is_told_to_the_others_in_one_line():
    store = Store()
    watchdog.Watch(store, 1, 2, period=PERIOD).tell(2, "no such\n folder")
    other = watchdog.Watch(store, 0, 2, period=0.02)
    other._read()
    assert other._ended == {1: "2 no such folder"}
    started = time.monotonic()
    other.wait_for_others(60.0)  # nobody is left to wait for
    assert time.monotonic() - started < 30


def test_no_progress_ends_the_process_with_its_status_and_a_line():
    script = """
import time
from madad_jax.runtime import watchdog
from tests.runtime.test_watchdog import Store
watch = watchdog.Watch(Store(), 0, 2, period=0.02)
watchdog.progress("denoiser: step 7")
watch.begin(0.3)
time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == watchdog.EXIT_LOST == 75
    assert done.stderr.startswith("madad_jax: error: process 0 of 2 has waited 0 s in 'denoiser: s")
    assert "no sign of life from process 1" in done.stderr and done.stderr.count("\n") == 1


def test_alone_nothing_is_watched(monkeypatch):
    watchdog.begin(1.0)
    assert watchdog._watch is None and not watchdog.several() and watchdog.blame() == ""
    assert not watchdog.is_loss(RuntimeError("Gloo AllGather failed"))
    assert agreement.from_first(lambda: {"a": [1, None]}) == {"a": [1, None]}


def test_long_lists_are_cut():
    assert watchdog._listed(list(range(10))) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


@pytest.fixture
def logger():
    log = logging.getLogger("madad_jax")
    kept, root = list(log.handlers), list(logging.getLogger().handlers)
    log.propagate = False  # as the command sets it
    yield log
    log.handlers, logging.getLogger().handlers = kept, root
    log.propagate = True


def test_log_of_a_process_is_appended_to(tmp_path, logger):
    for start in range(2):
        process_log.attach(tmp_path, 3)
        logger.warning("start %d", start)
        logging.getLogger("orbax").warning("from below")
        logger.handlers, logging.getLogger().handlers = [], []
    lines = (tmp_path / "logs" / "process_3.log").read_text().splitlines()
    assert [line.partition("WARNING ")[2] for line in lines] == [
        *("start 0", "from below", "start 1", "from below")
    ]


def test_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "logs").write_text("")
    with pytest.raises(errors.UserError, match=r"logs/process_0\.log: cannot be written"):
        process_log.ProcessLog(tmp_path, 0)


def test_errors_stand_in_the_log_too_and_the_first_reason_is_the_only_one(tmp_path, logger, capfd):
    claim = watchdog.Claim()
    process_log.attach(tmp_path, 0)
    assert watchdog.say("no such file", claim=claim)
    assert not watchdog.say("JAX ended process 0", claim=claim)  # what followed from it
    assert capfd.readouterr().err == "madad_jax: error: no such file\n"
    assert "ERROR no such file" in (tmp_path / "logs" / "process_0.log").read_text()
    assert json.dumps(watchdog.EXIT_LOST) == "75"

"""Where the wall time goes, by a clock that the test moves."""

import json

import pytest

from madad_jax.runtime import wall_time


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def _spend(account, clock, part, seconds):
    with account.spend(part):
        clock.now += seconds


def _whole(account):
    """Seconds by part, without what is zero; the shares add up to 1."""
    shares = account.shares()
    wall = shares.pop("wall_seconds")
    shares.pop("cpu_seconds")
    assert sum(shares.values()) == pytest.approx(1.0)
    return {part: share * wall for part, share in shares.items() if share}


def test_every_second_counts_once_and_to_the_innermost(tmp_path, clock):
    account = wall_time.Account(tmp_path, elapsed=3.0, clock=clock)
    clock.now += 2.0
    with account.spend("steps"):
        clock.now += 10.0
        _spend(account, clock, "input", 4.0)
        _spend(account, clock, "checkpoints", 1.0)
        clock.now += 0.5
    expected = {"other": 5.0, "steps": 10.5, "input": 4.0, "checkpoints": 1.0}
    assert _whole(account) == pytest.approx(expected)


def test_cpu_seconds_add_up_over_starts(tmp_path, clock):
    """An account of the whole process counts what the CPU did before it; any other does not."""
    cpu = Clock()
    first = wall_time.Account(tmp_path, elapsed=1.0, clock=clock, cpu_clock=cpu)
    cpu.now += 5.0
    first.write()
    assert wall_time.cpu_seconds(tmp_path) == 105.0
    second = wall_time.Account(tmp_path, clock=clock, cpu_clock=cpu)
    cpu.now += 2.0
    assert second.shares()["cpu_seconds"] == 107.0
    second.write()
    assert wall_time.cpu_seconds(tmp_path) == 107.0
    assert wall_time.cpu_seconds(tmp_path / "none") is None
    # As an older version wrote it.
    record = json.loads((tmp_path / wall_time.FILE_NAME).read_text())
    record.pop("cpu_seconds")
    (tmp_path / wall_time.FILE_NAME).write_text(json.dumps(record))
    assert wall_time.cpu_seconds(tmp_path) is None
    third = wall_time.Account(tmp_path, clock=clock, cpu_clock=cpu)
    assert third.starts == 3 and third.cpu_seconds() == 0.0


def test_what_is_renamed_counts_to_the_new_name(tmp_path, clock):
    account = wall_time.Account(tmp_path, clock=clock)
    with account.spend("input") as doing:
        clock.now += 4.0
        doing.part = "steps"
    assert _whole(account) == {"steps": 4.0}


def test_compiling_is_taken_from_the_part_around_it(tmp_path, clock):
    account = wall_time.Account(tmp_path, clock=clock)
    with account.spend("evaluation"):
        clock.now += 10.0
        account.compiled(4.0)
    assert _whole(account) == pytest.approx({"evaluation": 6.0, "compiling": 4.0})


def test_tracing_inside_tracing_counts_once(tmp_path, clock):
    account = wall_time.Account(tmp_path, clock=clock)
    with account.spend("steps"):
        for _ in range(2):  # two programs inside a third
            clock.now += 3.0
            account.compiled(1.0)
        clock.now += 1.0
        account.compiled(7.0)
        clock.now += 5.0
    assert _whole(account) == pytest.approx({"steps": 5.0, "compiling": 7.0})


def _start(folder, clock, step, seconds):
    """A start of 1 s that goes on from `step`, saves 10 steps further and then works on."""
    account = wall_time.Account(folder, elapsed=1.0, clock=clock)
    account.begin("denoiser", step)
    _spend(account, clock, "steps", 10.0)
    account.saved("denoiser", step + 10)
    _spend(account, clock, "steps", seconds)
    account.write()  # the thread's last note; then the process is killed
    return account


def test_a_restart_costs_what_was_lost_and_the_start_again(tmp_path, clock):
    _start(tmp_path, clock, 0, 7.0)
    clock.now += 1000.0  # nobody lives
    account = _start(tmp_path, clock, 10, 0.0)
    assert account.starts == 2
    assert _whole(account) == pytest.approx({"other": 1.0, "steps": 20.0, "restarts": 8.0})


def test_a_save_that_was_not_finished_is_lost_too(tmp_path, clock):
    _start(tmp_path, clock, 0, 7.0)
    account = wall_time.Account(tmp_path, elapsed=1.0, clock=clock)
    account.begin("denoiser", 0)  # step 10 never was whole
    assert _whole(account) == pytest.approx({"other": 1.0, "restarts": 18.0})


def test_restarts_are_not_lost_twice(tmp_path, clock):
    for _ in range(3):
        _start(tmp_path, clock, 0, 5.0)
    account = wall_time.Account(tmp_path, elapsed=1.0, clock=clock)
    account.begin("denoiser", 10)
    # Two starts that lost all they did, one that lost its last 5 s, and this one's start.
    assert _whole(account) == pytest.approx({"other": 1.0, "steps": 10.0, "restarts": 38.0})


def test_a_stage_that_is_done_is_not_lost(tmp_path, clock):
    account = _start(tmp_path, clock, 0, 5.0)
    account.end("denoiser")
    account.begin("evaluate", 0)
    _spend(account, clock, "evaluation", 6.0)
    account.write()
    account = wall_time.Account(tmp_path, elapsed=1.0, clock=clock)
    account.begin("evaluate", 0)
    expected = {"other": 1.0, "steps": 15.0, "restarts": 7.0}
    assert _whole(account) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"starts": 1, "seconds": {"steps": "NaN"}, "marks": []}'],
)
def test_a_damaged_record_is_counted_anew(tmp_path, clock, caplog, text):
    (tmp_path / wall_time.FILE_NAME).write_text(text)
    account = wall_time.Account(tmp_path, clock=clock)
    assert account.starts == 1 and "counted anew" in caplog.text
    clock.now += 1.0
    account.write()
    record = json.loads((tmp_path / wall_time.FILE_NAME).read_text())
    assert record["seconds"]["other"] == 1.0


def test_no_folder_and_no_part_in_writing(tmp_path, clock):
    wall_time.Account(tmp_path / "none", clock=clock).write()
    assert not (tmp_path / "none").exists()
    wall_time.Account(tmp_path, writes=False, clock=clock).saved("denoiser", 1)
    assert not list(tmp_path.iterdir())


def test_outside_of_a_run_nothing_is_counted():
    with wall_time.spend("steps") as doing:
        doing.part = "input"
    wall_time.begin("denoiser", 0)


def test_the_run_around_is_counted_and_compiles(tmp_path):
    import jax

    with wall_time.account(tmp_path, writes=True) as account, wall_time.spend("steps"):
        jax.jit(lambda x: x * 3 + 1)(2.0)
        assert account.seconds()["compiling"] > 0
    assert (tmp_path / wall_time.FILE_NAME).exists()

"""The pipe: a rival that works, one that errs, one that dies; and the loops it takes."""

import sys

import numpy as np
import pytest
from etils import epath

from benchmarks.speed import ceilings, ours, results, rival
from benchmarks.speed import context as context_lib
from benchmarks.speed import maps as maps_lib
from benchmarks.speed.suites import evaluate
from madad_jax.core import errors

# Answers as rivals/serve.py does, without any library; every run takes two seconds, it says.
FAKE = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    answer = {
        "hello": {"torch": "1", "monai": "1", "diffusers": "1"},
        "make": {"denoiser_parameters": 7, "first_seconds": 3.0},
        "run": {"seconds": 2.0, "cpu_seconds": 4.0},
        "drop": {},
        "memory": {"peak_bytes": 2**30},
    }.get(request["do"])
    if request.get("way") == "compiled":
        answer = {"error": "no compiler"}
    if request["do"] == "garble":
        print("good morning", flush=True)
        continue
    if request["do"] == "die":
        sys.exit(3)
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def fake(tmp_path):
    program = tmp_path / "fake.py"
    program.write_text(FAKE)
    with rival.Rival(sys.executable, program) as made:
        yield made


def test_requests_and_answers(fake):
    assert fake.versions["torch"] == "1"
    sample = fake.run("any")
    assert (sample.seconds, sample.cpu_seconds) == (2.0, 4.0)


def test_an_error_is_raised_and_the_next_request_is_served(fake):
    with pytest.raises(rival.RivalError, match="no compiler"):
        fake.ask(do="make", way="compiled")
    with pytest.raises(rival.RivalError, match="answered good morning"):
        fake.ask(do="garble")
    assert fake.ask(do="memory")["peak_bytes"] == 2**30


def test_a_rival_that_died_says_so(fake):
    with pytest.raises(rival.RivalError, match=r"answered nothing|ended"):
        fake.ask(do="die")
    with pytest.raises(rival.RivalError):
        fake.ask(do="hello")


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/true"])
def test_no_such_rival_is_one_line(python):
    with pytest.raises(errors.UserError, match=r"benchmark.rival_python: .*" + python):
        rival.Rival(python)


def job():
    costs = ours.compile_report.Costs(
        "x", ours.compile_report.hlo_costs.Program(2e9, 1e6, (), 0, 3), 1, 1, 1
    )
    return ours.Job(lambda: None, costs, 4e9, 0.5, 4, {"denoiser": 8})


def test_a_pair_has_ratio_parameters_and_what_the_rival_cannot(fake, tmp_path):
    from configs import default

    config = default.get_config()
    context = context_lib.Context(config, epath.Path(tmp_path), networks=fake)
    context.__dict__["ceilings"] = ceilings.Ceilings(1e12, 1e10, 1e-6)
    row = context.pair("a row", job, {"job": "train"})
    assert set(row.rivals) == {"official", "sdpa"}
    official = row.rivals["official"]
    assert official["seconds"]["median"] == 2.0 and official["parameters"] == {"denoiser": 7}
    assert official["ratio"]["median"] == row.ours["seconds"]["median"] / 2.0
    assert row.notes == ["compiled: the rival cannot: no compiler"]
    assert row.program["gflop_a_slice"] == 1.0 and row.program["gflop_compiled"] == 2.0
    assert (
        row.program["floor_seconds"]["compute"] == 2e-3
        and row.program["floor_seconds"]["launch"] == 3e-6
    )
    table = results.markdown(
        [{"suite": "train", **vars(row), "facts": dict.fromkeys(FACTS, "x") | {"load_average": 1}}]
    )
    assert "denoiser 7" in table and "denoiser 8" in table and "no compiler" in table


def test_a_rival_that_fails_on_the_way_leaves_our_figures(fake, tmp_path, monkeypatch):
    from configs import default

    context = context_lib.Context(default.get_config(), epath.Path(tmp_path), networks=fake)
    context.__dict__["ceilings"] = ceilings.Ceilings(1e12, 1e10, 1e-6)

    def fail(key):
        raise rival.RivalError("out of memory")

    monkeypatch.setattr(fake, "run", fail)
    row = context.pair("a row", job, {"job": "train"})
    assert not row.rivals and row.ours["seconds"]["runs"] == 5
    assert "no rival: it failed on the way: out of memory" in row.notes


FACTS = ("cpu", "cores", "device", "versions", "rival", "command", "time")


def test_without_a_rival_our_figures_stand_alone(tmp_path):
    from configs import default

    context = context_lib.Context(
        default.get_config(), epath.Path(tmp_path), why_not="nobody is here"
    )
    context.__dict__["ceilings"] = ceilings.Ceilings(1e12, 1e10, 1e-6)
    row = context.pair("a row", job, {"job": "train"})
    assert not row.rivals and row.ours["seconds"]["runs"] == 5
    assert row.notes == ["no rival: nobody is here"]


@pytest.mark.parametrize("loop", ["builtin", "numpy"])
def test_the_loops_give_our_figures(tmp_path, loop):
    """Through the real program, in this environment: it needs numpy alone. Scores of 0 and 1,
    ties and a slice without lesion are among the maps."""
    count = 6
    source = maps_lib.Generator(32, seed=3, slices_a_subject=5)
    scores, truth = (a[:count] for a in source.batch(0)[:2])
    scores[1, :4], scores[2] = 1.0, np.round(scores[2], 1)
    assert not truth[0].any() and truth[1].any()
    np.savez(tmp_path / "maps.npz", maps=scores, truth=truth)
    with rival.Rival(sys.executable) as loops:
        loops.ask(
            do="make",
            key="k",
            job="metrics",
            file=str(tmp_path / "maps.npz"),
            count=count,
            loop=loop,
        )
        theirs = loops.ask(do="run", key="k")["result"]
        with pytest.raises(rival.RivalError, match="KeyError"):
            loops.ask(do="run", key="another")

    class Stored(maps_lib.Generator):
        def batch(self, start):
            return scores, truth, None, None

    mine = evaluate.four_figures(Stored(32, 0, 5), count)
    evaluate.check_equal(mine, theirs)
    with pytest.raises(ValueError, match="ap: ours"):
        evaluate.check_equal(mine, theirs | {"ap": theirs["ap"] + 1e-5})

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from benchmarks import against, against_jobs
from madad_jax.core import errors


def sample(seconds, cpu=1.0, peak=100):
    return against.Sample(seconds, cpu, peak)


def started(code, tmp_path):
    return against.measure([sys.executable, "-c", code], folder=tmp_path, env=os.environ)


def test_builds_take_turns_at_going_first():
    assert against.order(3) == ["old", "new", "new", "old", "old", "new"]


def test_warm_ups_do_not_count_and_phases_are_kept_apart():
    taken = []

    def take(side):
        taken.append(side)
        return {"first": sample(len(taken)), "second": sample(-len(taken))}

    found = against.interleave(take, repeats=2, warmup=1)
    assert taken == ["old", "new", "new", "old", "old", "new"]
    assert [s.seconds for s in found["first"]["old"]] == [4, 5]
    assert [s.seconds for s in found["first"]["new"]] == [3, 6]
    assert [s.seconds for s in found["second"]["new"]] == [-3, -6]


def test_ratios_are_new_over_old_by_round():
    samples = {
        "old": [sample(2.0, 4.0, 0), sample(4.0, 4.0, 0), sample(8.0, 4.0, 0)],
        "new": [sample(1.0, 2.0, 9), sample(4.0, 3.0, 9), sample(2.0, 1.0, 9)],
    }
    found = against.ratios(samples)
    assert found["seconds"] == {"median": 0.5, "low": 0.25, "high": 1.0, "runs": 3}
    assert found["cpu_seconds"] == {"median": 0.5, "low": 0.25, "high": 0.75, "runs": 3}
    assert "peak_bytes" not in found  # it is not known for the old build


def test_processor_time_and_memory_of_children_count(tmp_path):
    spin = "import time\nwhile time.process_time() < 0.4: pass\n"
    hold = "x = bytearray(200 << 20); import time; time.sleep(0.5)"
    alone = started(spin, tmp_path)
    code = f"import subprocess, sys\nfor c in ({spin!r}, {hold!r}):\n"
    both = started(f"{code} subprocess.run([sys.executable, '-c', c])", tmp_path)
    assert alone.cpu_seconds >= 0.4 <= both.cpu_seconds
    assert both.peak_bytes > 200 << 20 > alone.peak_bytes
    assert both.seconds > 0.9


def test_what_a_command_leaves_behind_is_counted_and_ended(tmp_path):
    spin = "import time\nwhile True: pass"
    code = f"""
import pathlib, subprocess, sys, time
left = subprocess.Popen([sys.executable, "-c", {spin!r}])
pathlib.Path("pid").write_text(str(left.pid))
time.sleep(1)
"""
    assert started(code, tmp_path).cpu_seconds > 0.1
    stat = pathlib.Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    end = time.time() + 10
    while stat.exists() and stat.read_text().split()[2] != "Z" and time.time() < end:
        time.sleep(0.05)
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


def test_a_command_that_fails_says_what_it_said(tmp_path):
    with pytest.raises(RuntimeError, match="status 3\nno scans"):
        started("print('no scans'); raise SystemExit(3)", tmp_path)


def test_unknown_jobs_and_commits_are_named(tmp_path):
    with pytest.raises(errors.UserError, match=r"found 'predcit', accepted: predict_warm, "):
        against_jobs.chosen("start,predcit")
    assert [job.name for job in against_jobs.chosen("start, demo")] == ["start", "demo"]
    with pytest.raises(errors.UserError, match=r"--commit: found 'nowhere'"):
        against.clone("nowhere", tmp_path / "clone")


@pytest.fixture
def builds(tmp_path):
    """Two trees with a package that says whether its cache was there, and makes it."""
    found = {}
    for side in ("old", "new"):
        folder = tmp_path / side
        (folder / "madad_jax").mkdir(parents=True)
        (folder / "madad_jax" / "__init__.py").touch()
        (folder / "madad_jax" / "main.py").write_text(
            "import os, pathlib, sys\n"
            "cache = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])\n"
            "print(cache.exists(), file=open(sys.argv[1], 'a'))\n"
            "cache.mkdir(parents=True, exist_ok=True)\n"
        )
        found[side] = against_jobs.Build(side, folder, sys.executable, tmp_path / f"cache-{side}")
    return found


@pytest.mark.parametrize("fresh", [True, False])
def test_a_job_runs_in_both_builds_each_with_its_cache(builds, tmp_path, fresh):
    def commands(build, inputs, out):
        assert inputs is None and not list(out.iterdir())
        return {"": [*build.program("main"), str(tmp_path / f"seen-{build.name}")]}

    job = against_jobs.Job("wait", "looks", commands, fresh=fresh)
    samples = against.run_job(job, builds, None, repeats=2)
    for side in ("old", "new"):
        seen = (tmp_path / f"seen-{side}").read_text().split()
        assert seen == (["False"] * 2 if fresh else ["False", "True", "True"])
        assert len(samples[""][side]) == 2
    found = against.row(job, "", samples[""])
    assert found["job"] == "wait" and {"seconds", "cpu_seconds"} <= set(found["ratios"])


def test_a_build_that_loads_another_package_is_refused(builds):
    (builds["old"].folder / "madad_jax" / "__init__.py").write_text("__file__ = '/x/y/z.py'")
    with pytest.raises(RuntimeError, match=r"old: loads /x/y/z.py"):
        against.environment(builds["old"])


def test_rows_replace_those_of_the_same_job_and_machine(tmp_path):
    facts = {"old": "a", "new": "b", "cpu": "c", "cores": 2, "avx512": False, "time": "t"}
    job = against_jobs.JOBS["start"]
    samples = {"old": [sample(2.0, 2.0, 1 << 30)], "new": [sample(1.0, 1.0, 1 << 30)]}
    entry = against.row(job, "second start", samples) | {"facts": facts}
    path = tmp_path / "against.json"
    against.store(path, [entry])
    against.store(path, [entry, entry | {"facts": facts | {"avx512": True}}])
    assert len(json.loads(path.read_text())["rows"]) == 2
    *_, plain, wide = (tmp_path / "against.md").read_text().splitlines()
    assert "start: second start" in plain and "**0.50** [0.50, 0.50]" in plain
    assert plain.endswith("c, 2 cores, no AVX-512 |") and wide.endswith("2 cores, AVX-512 |")


def test_a_suites_row_is_read(tmp_path):
    ours = {"seconds": {"median": 2.5}, "cpu_seconds": 3.5}
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "benchmark.json").write_text(json.dumps({"rows": [{"ours": ours}]}))
    assert against_jobs.read_suite(tmp_path) == {"seconds": 2.5, "cpu_seconds": 3.5}


def test_commands_know_where_programs_lay(tmp_path):
    """Of each job in this tree and in one of the old layout."""
    old = tmp_path / "old"
    for file in ("madad_jax/main.py", "madad_jax/predict.py", "madad_jax/benchmark/run.py"):
        (old / file).parent.mkdir(parents=True, exist_ok=True)
        (old / file).touch()
    build = against_jobs.Build("old", old, "python", tmp_path / "cache")
    assert build.program("predict") == ["python", "-m", "madad_jax.predict"]
    assert build.program("speed") == ["python", "-m", "madad_jax.main", "--mode=benchmark"]
    with pytest.raises(errors.UserError, match="old build: has no program 'prepare'"):
        build.program("prepare")
    new = against_jobs.Build("new", against.ROOT, "python", tmp_path / "cache")
    assert new.program("prepare") == ["python", "-m", "madad_jax.prepare"]
    assert new.program("speed") == ["python", "-m", "benchmarks.speed"]


@pytest.mark.slow
def test_the_command_measures_a_commit(tmp_path):
    out = tmp_path / "against.json"
    flags = ["--commit=HEAD", "--jobs=prepare", "--repeats=1", f"--out={out}"]
    subprocess.run([sys.executable, "-m", "benchmarks.against", *flags], check=True)
    (row,) = json.loads(out.read_text())["rows"]
    assert row["job"] == "prepare" and len(row["new"]) == 1 == len(row["old"])

"""A job with two builds of this repository side by side, whole processes in turn.

    python -m benchmarks.against --commit=c52ab47 --jobs=predict_warm,start --repeats=5

The old build is a clone of the commit in a temporary folder, the new one the tree that this file
stands in. Rounds alternate (old new, new old, ...), so that a machine that warms up or gets busy
falls on both. Each build has caches of its own, and jobs that are not about a first start run once
unseen. A ratio is new over old within a round: below 1 the new build needs less.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import against_jobs
from benchmarks.speed import machine, timing
from madad_jax.core import atomic_files, errors
from madad_jax.runtime import startup

OLD, NEW = "old", "new"
ROOT = pathlib.Path(__file__).parents[1]
RESULTS = "benchmarks/results/against.json"
_POLL = 0.1  # seconds between two looks at the memory of a process and its children
_TICKS = os.sysconf("SC_CLK_TCK")

Samples = dict[str, dict[str, list["Sample"]]]  # by phase, then by build
Take = Callable[[str], dict[str, "Sample"]]  # one round of a build: a sample by phase


@dataclasses.dataclass(frozen=True)
class Sample:
    """One run of a command: seconds on the wall, seconds of all its processes on all cores, and
    the largest resident memory of them together (pages that two share count twice)."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def order(repeats: int) -> list[str]:
    """The builds in the order in which they run: A B, B A, A B, ..."""
    return [side for k in range(repeats) for side in ((OLD, NEW) if k % 2 == 0 else (NEW, OLD))]


def interleave(take: Take, repeats: int, warmup: int) -> Samples:
    """`repeats` rounds over both builds after `warmup` that do not count."""
    found: Samples = {}
    for number, side in enumerate(order(warmup + repeats)):
        for phase, sample in take(side).items():
            if number >= 2 * warmup:
                found.setdefault(phase, {OLD: [], NEW: []})[side].append(sample)
    return found


def ratios(samples: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, float | int]]:
    """New over old by round, of each field of a sample: median, low, high and runs.

    A field that is 0 in the old build (memory where it is not known) is left out.
    """
    out = {}
    for field in dataclasses.fields(Sample):
        pairs = [
            [getattr(sample, field.name) for sample in pair]
            for pair in zip(samples[OLD], samples[NEW], strict=True)
        ]
        if all(old > 0 for old, _ in pairs):
            out[field.name] = timing.spread([new / old for old, new in pairs])
    return out


# Processes.


def measure(command: Sequence[str], *, folder: pathlib.Path, env: Mapping[str, str]) -> Sample:
    """Runs a command in `folder` to its end.

    Processes that it leaves behind are counted and ended: they are part of what it took.

    Raises:
      RuntimeError: another exit status than 0; with the last lines of its messages.
    """
    with tempfile.TemporaryFile() as told:
        start = time.perf_counter()
        # A session of its own names the process's children, whoever their parent becomes.
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=told, stderr=told, start_new_session=True
        )
        peak = 0
        try:
            while True:
                # The kernel's mark of the largest process sees what falls between two looks.
                peak = max(peak, _session_bytes(process.pid), machine.peak_bytes(process.pid))
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                time.sleep(_POLL)
        except BaseException:
            _end_session(process.pid)
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        left = _end_session(process.pid)
        if process.returncode:
            told.seek(0)
            text = told.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)}: status {process.returncode}\n{text}")
    cpu = usage.ru_utime + usage.ru_stime + left
    # Not `ru_maxrss`: a child begins with its parent's.
    return Sample(seconds, cpu, peak)


def _session(leader: int) -> dict[int, list[str]]:
    """{pid: fields of /proc/PID/stat from the state on} of a session."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended since
            continue
        if int(fields[3]) == leader:
            found[int(path.parent.name)] = fields
    return found


def _session_bytes(leader: int) -> int:
    return sum(int(f[21]) for f in _session(leader).values()) * resource.getpagesize()


def _end_session(leader: int) -> float:
    """Ends what a session still runs; its CPU seconds."""
    left = {pid: f for pid, f in _session(leader).items() if f[0] != "Z"}
    for pid in left:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    return sum(int(f[11]) + int(f[12]) for f in left.values()) / _TICKS


# Builds.


def clone(commit: str, folder: pathlib.Path) -> str:
    """Clones this repository at a commit into `folder`; the full name of the commit.

    Raises:
      UserError: no such commit here.
    """
    asked = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode:
        raise errors.UserError(f"--commit: found {commit!r}, accepted: a commit of {ROOT}")
    name = found.stdout.strip()
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), folder], check=True)
    subprocess.run(["git", "-C", folder, "checkout", "--quiet", "--detach", name], check=True)
    return name


def environment(build: against_jobs.Build) -> dict[str, str]:
    """This process's environment, with the build's own code and caches.

    Raises:
      RuntimeError: the build's Python does not load the build's code.
    """
    kept = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    kept |= {
        "PYTHONPATH": str(build.folder),
        "XDG_CACHE_HOME": str(build.cache),
        startup.CACHE_VARIABLE: str(build.cache / "xla"),
    }
    asked = [build.python, "-c", "import madad_jax; print(madad_jax.__file__)"]
    loaded = subprocess.run(
        asked, cwd=build.folder, env=kept, capture_output=True, text=True, check=True
    ).stdout.strip()
    # An installed package of the same name would be measured against itself.
    if pathlib.Path(loaded).resolve().parents[1] != build.folder.resolve():
        raise RuntimeError(f"{build.name}: loads {loaded}, not the code in {build.folder}")
    return kept


def run_job(
    job: against_jobs.Job,
    builds: Mapping[str, against_jobs.Build],
    inputs: against_jobs.Inputs,
    repeats: int,
) -> Samples:
    """All rounds of one job."""
    environments = {side: environment(build) for side, build in builds.items()}

    def take(side: str) -> dict[str, Sample]:
        build = builds[side]
        with tempfile.TemporaryDirectory(prefix="against-") as place:
            out = pathlib.Path(place)
            # First, for inputs that are made now fill a cache.
            commands = job.commands(build, inputs, out)
            if job.fresh:
                shutil.rmtree(build.cache, ignore_errors=True)
            samples = {}
            for phase, command in commands.items():
                whole = measure(command, folder=build.folder, env=environments[side])
                inner = job.read(out) if job.read else None
                samples[phase] = dataclasses.replace(whole, **(inner or {}))
                print(f"{job.name}, {phase}, {side}: {samples[phase]}", flush=True)
        return samples

    # What is about a first start has nothing to warm up.
    return interleave(take, repeats, warmup=0 if job.fresh else 1)


# Results.


def row(job: against_jobs.Job, phase: str, samples: Mapping[str, Sequence[Sample]]) -> dict:
    """One entry of the results: what, how long in both builds, and the ratios."""
    return {
        "job": f"{job.name}: {phase}" if phase else job.name,
        "what": job.what,
        OLD: [dataclasses.asdict(s) for s in samples[OLD]],
        NEW: [dataclasses.asdict(s) for s in samples[NEW]],
        "ratios": ratios(samples),
    }


def facts(commit: str) -> dict[str, Any]:
    """Where, when and what: to be stored with every row."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    now = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "old": commit[:12],
        "new": now,
        "cpu": machine.cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "avx512": machine.has_avx512(),
        "load_average": round(os.getloadavg()[0], 2),
        "time": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def store(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds rows to a JSON file and draws the Markdown table beside it.

    A row takes the place of one of the same job, old commit, processor, cores and AVX-512.
    """

    def key(entry: Mapping[str, Any]) -> list[Any]:
        return [entry["job"], *(entry["facts"][k] for k in ("old", "cpu", "cores", "avx512"))]

    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    mine = [key(entry) for entry in rows]
    kept = [entry for entry in kept if key(entry) not in mine] + list(rows)
    atomic_files.write_text(path, json.dumps({"rows": kept}, indent=1) + "\n")
    atomic_files.write_text(path.with_suffix(".md"), markdown(kept))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a line a row: seconds, CPU seconds and memory of both builds, and ratios."""
    lines = [
        "# Two builds side by side",
        "",
        "Drawn by `python -m benchmarks.against`. Ratios are new over old by round: median "
        "[lowest, highest]. Old and new: medians of seconds on the wall, CPU seconds, GiB.",
        "",
        "| job | old | new | wall | CPU | memory | builds | machine |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for entry in rows:
        f = entry["facts"]
        said = [_ratio(entry["ratios"].get(field.name)) for field in dataclasses.fields(Sample)]
        place = f"{f['cpu']}, {f['cores']} cores, {'' if f['avx512'] else 'no '}AVX-512"
        cells = [f"{entry['job']} ({entry['what']})", _medians(entry[OLD]), _medians(entry[NEW])]
        cells += [*said, f"{f['old']} and {f['new']}, {f['time']}", place]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _ratio(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"**{spread['median']:.2f}** [{spread['low']:.2f}, {spread['high']:.2f}]"


def _medians(samples: Sequence[Mapping[str, float]]) -> str:
    middle = {k: timing.spread([s[k] for s in samples])["median"] for k in samples[0]}
    return (
        f"{middle['seconds']:.1f}, {middle['cpu_seconds']:.1f}, {middle['peak_bytes'] / 2**30:.2f}"
    )


def _flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--commit", required=True, help="of the old build")
    parser.add_argument("--jobs", default="predict_warm", help=", ".join(against_jobs.JOBS))
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    parser.add_argument("--scan", default="", help="NIfTI file, a whole head; the example's")
    parser.add_argument("--checkpoint", default="", help="a run that both builds read; a tiny one")
    parser.add_argument("--old_python", default=sys.executable, help="Python of the old build")
    parser.add_argument("--out", default=RESULTS, help="JSON; a table is drawn beside it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the jobs of the flags, prints their ratios and stores their rows."""
    flags = _flags(arguments)
    jobs = against_jobs.chosen(flags.jobs)
    if flags.repeats < 1:
        raise errors.UserError(f"--repeats: found {flags.repeats}, accepted: 1 or more")
    with tempfile.TemporaryDirectory(prefix="against-builds-") as place:
        folder = pathlib.Path(place)
        commit = clone(flags.commit, folder / OLD)
        pythons = {OLD: (flags.old_python, folder / OLD), NEW: (sys.executable, ROOT)}
        builds = {
            side: against_jobs.Build(side, where, python, folder / f"cache-{side}")
            for side, (python, where) in pythons.items()
        }
        for build in builds.values():
            # A clone has no bytecode, which its first start would write.
            compiling = [build.python, "-m", "compileall", "-q", "madad_jax", "configs"]
            subprocess.run(compiling, cwd=build.folder, check=True)
        inputs = against_jobs.Inputs(
            folder / "inputs",
            scan=flags.scan,
            checkpoint=flags.checkpoint,
            trainer=builds[OLD],
            start=lambda build, command: measure(
                command, folder=build.folder, env=environment(build)
            ),
        )
        known = facts(commit)  # the load before we add to it
        for job in jobs:
            found = run_job(job, builds, inputs, flags.repeats)
            rows = [row(job, phase, samples) | {"facts": known} for phase, samples in found.items()]
            # Row by row: a stopped benchmark loses the job it was at.
            store(pathlib.Path(flags.out), rows)
            for entry in rows:
                said = {k: _ratio(v) for k, v in entry["ratios"].items()}
                print(f"{entry['job']}, new over old: {said}", flush=True)


def _stop(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    # As ctrl-C: the process that is measured has a session of its own and would run on.
    signal.signal(signal.SIGTERM, _stop)
    try:
        main()
    except errors.UserError as error:
        sys.exit(f"error: {error}")

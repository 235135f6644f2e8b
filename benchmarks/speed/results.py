"""Rows of a benchmark, as JSON and as Markdown tables.

`benchmark.json` holds every row that was ever measured in the folder, keyed by suite and name; a
row that is measured again takes the place of the old one, and carries machine, versions, command,
load and time of its own measurement. `benchmark.md` is drawn from it.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from benchmarks.speed import ceilings, machine, timing
from benchmarks.speed import ours as ours_lib
from madad_jax.core import atomic_files, errors, units

JSON, TABLE = "benchmark.json", "benchmark.md"


@dataclasses.dataclass
class Row:
    """One line of a suite.

    Attributes:
      name: of the row, without the suite.
      ours: `timing.summary` of our runs, with `first_seconds` (compiling and one run) where a
        program is compiled; {} where nothing is timed against anything.
      rivals: {way: summary, with `ratio` (ours over theirs), parameters, first_seconds}.
      program: costs of our compiled program (`costs`).
      figures: {what: value with its unit}, of rows that are no pair of times.
      notes: what a reader must know.
    """

    name: str
    ours: dict[str, Any] = dataclasses.field(default_factory=dict)
    rivals: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    program: dict[str, Any] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def costs(job: ours_lib.Job, seconds: float, roofs: ceilings.Ceilings) -> dict[str, Any]:
    """What a program costs and how near it comes to the ceilings `roofs` in `seconds` a run."""
    program = job.costs.program
    floors = job_floors(job, roofs)
    return {
        "gflop": job.flops / 1e9,
        "gflop_a_slice": job.flops / 1e9 / job.samples,
        "gflop_compiled": program.flops / 1e9,
        "gbytes": program.bytes / 1e9,
        "kernels": program.kernels,
        "gflops_per_second": job.flops / 1e9 / seconds,
        "share_of_matmul": job.flops / seconds / roofs.compute,
        "samples_per_second": job.samples / seconds,
        "samples": job.samples,
        "compile_seconds": job.compile_seconds,
        "program_bytes": job.costs.memory,
        "process_peak_bytes": machine.peak_bytes(),
        "device_peak_bytes": machine.device_peak_bytes(),
        "parameters": job.parameters,
        "floor_seconds": floors,
        "bound": ceilings.bound(floors, seconds),
        "ceilings": dataclasses.asdict(roofs),
    }


def job_floors(job: ours_lib.Job, roofs: ceilings.Ceilings) -> dict[str, float]:
    """Roofs over what the compiled program does.

    Its text counts both sides of a condition, and on an accelerator knows no sizes of library
    calls; it does less than is written where convolutions take short cuts. So: the smaller count.
    """
    program = job.costs.program
    done = min(program.flops, job.flops) or job.flops
    return roofs.floors(dataclasses.replace(program, flops=done))


def load(folder: epath.Path) -> list[dict[str, Any]]:
    """All stored rows; none where nothing was measured.

    Raises:
      UserError: the file is no such list.
    """
    path = folder / JSON
    if not path.exists():
        return []
    try:
        rows = json.loads(atomic_files.read_bytes(path))["rows"]
        return [row for row in rows if row["suite"] and row["name"]]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.UserError(f"{path}: no benchmark results; move the file away") from error


def store(folder: epath.Path, suite: str, row: Row, facts: dict[str, Any]) -> None:
    """Adds a row, or replaces the one of the same name, and draws the table again."""
    made = {"suite": suite, **dataclasses.asdict(row), "facts": facts}
    rows = [r for r in load(folder) if (r["suite"], r["name"]) != (suite, row.name)]
    rows.append(made)
    atomic_files.write_text(folder / JSON, json.dumps({"rows": rows}, indent=1) + "\n")
    atomic_files.write_text(folder / TABLE, markdown(rows))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The tables of all suites, in the order in which they were first measured."""
    parts = ["# Benchmark\n"]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        chosen = [row for row in rows if row["suite"] == suite]
        parts.append(f"## {suite}\n")
        parts += [draw(chosen) for draw in (_times, _programs, _figures, _notes)]
    parts.append(_machines(rows))
    return "\n".join(part for part in parts if part)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))


def one(value: float) -> str:
    """One time with a unit that fits."""
    text = seconds(timing.spread([value]))
    return f"{text.split(' [')[0]} {text.rsplit(' ', 1)[1]}"


def seconds(spread: dict[str, Any]) -> str:
    """Median [fastest, slowest] with a unit that fits."""
    unit, scale = ("s", 1.0) if spread["median"] >= 1 else ("ms", 1e3)
    if spread["median"] < 1e-3:
        unit, scale = "us", 1e6
    low, middle, high = (f"{spread[k] * scale:.3g}" for k in ("low", "median", "high"))
    return f"{_plain(middle)} [{_plain(low)}, {_plain(high)}] {unit}"


def _plain(text: str) -> str:
    """No exponents in a table for people."""
    return f"{float(text):.0f}" if "e" in text else text


def _times(rows: Sequence[dict[str, Any]]) -> str:
    head = ("row", "who", "a run", "CPU s", "ours / theirs", "first call s", "parameters")
    lines = []
    for row in (r for r in rows if r["ours"]):
        own = row["program"]
        first = f"{row['ours']['first_seconds']:.1f}" if "first_seconds" in row["ours"] else ""
        lines.append((row["name"], "**ours**", *_time(row["ours"]), "", first, _count(own)))
        for way, rival in row["rivals"].items():
            ratio = rival["ratio"]
            said = f"**{ratio['median']:.3g}** [{ratio['low']:.3g}, {ratio['high']:.3g}]"
            first = f"{rival['first_seconds']:.1f}"
            lines.append(("", way, *_time(rival), said, first, _count(rival)))
    return _table(head, lines)


def _time(summary: dict[str, Any]) -> tuple[str, str]:
    runs = summary["seconds"]["runs"]
    return f"{seconds(summary['seconds'])}, {runs} runs", f"{summary['cpu_seconds']:.3g}"


def _count(entry: dict[str, Any]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in entry.get("parameters", {}).items())


def _programs(rows: Sequence[dict[str, Any]]) -> str:
    head = (
        "our program",
        "GFLOP",
        "a slice",
        "compiled",
        "GB moved",
        "GFLOP/s",
        "of matmul",
        "slices/s",
    )
    head += ("program memory", "process peak", "floor", "bound by")
    lines = []
    for row in (r for r in rows if r["program"]):
        p = row["program"]
        floor = p["floor_seconds"][p["bound"]]
        peak = p["device_peak_bytes"] or p["process_peak_bytes"]
        numbers = (p["gflop"], p["gflop_a_slice"], p["gflop_compiled"], p["gbytes"])
        numbers += (p["gflops_per_second"],)
        lines.append(
            (
                row["name"],
                *(f"{n:.3g}" if n < 1000 else f"{n:.0f}" for n in numbers),
                f"{100 * p['share_of_matmul']:.0f} %",
                f"{p['samples_per_second']:.3g}",
                units.human(p["program_bytes"]),
                units.human(peak),
                one(floor),
                p["bound"],
            )
        )
    return _table(head, lines)


def _figures(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        (row["name"] if not i else "", what, str(value))
        for row in rows
        for i, (what, value) in enumerate(row["figures"].items())
    ]
    return _table(("row", "figure", "value"), lines)


def _notes(rows: Sequence[dict[str, Any]]) -> str:
    said: dict[str, list[str]] = {}
    for row in rows:
        for note in row["notes"]:
            said.setdefault(note, []).append(row["name"])
    return "".join(f"- {note} ({'; '.join(names)})\n" for note, names in said.items())


def _machines(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each machine, versions and command, with the rows that it holds for."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        f = row["facts"]
        key = (f["cpu"], str(f["cores"]), f["device"], f["versions"], f["rival"], f["command"])
        groups.setdefault(key, []).append(row)
    lines = ["## Machine, versions, commands\n"]
    for (cpu, cores, device, versions, rival, command), part in groups.items():
        loads = [row["facts"]["load_average"] for row in part]
        names = "; ".join(f"{row['suite']}: {row['name']}" for row in part)
        lines.append(
            f"- `{command}`\n  {names}. {cpu}, {cores} cores, {device}; {versions}; rival: "
            f"{rival}; load average {min(loads)} to {max(loads)}; until {part[-1]['facts']['time']}"
        )
    roofs = {
        json.dumps(row["program"]["ceilings"], sort_keys=True): row
        for row in rows
        if row["program"]
    }
    for row in roofs.values():
        c = row["program"]["ceilings"]
        lines.append(
            f"- Ceilings measured for {row['suite']}: {row['name']}: matrix product "
            f"{c['compute'] / 1e9:.0f} GFLOP/s, copy {c['memory'] / 1e9:.1f} GB/s, "
            f"{c['launch'] * 1e6:.1f} us a kernel"
        )
    return "\n".join(lines) + "\n"

"""Runs the parts one after the other, each within its time, and prints the table whatever happens.

    python -m benchmarks.gpu --out=DIR [--dry] [--parts=steps,maps] [--seconds=450]

Knows nothing of JAX: a part that crashes, hangs or cannot be imported costs its own rows alone.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

# In the order of their worth: (part, seconds at most).
PARTS = {"steps": 215, "maps": 90, "agreement": 75, "sibling": 200}
_SPARE = 6.0  # seconds for the table


def main() -> int:
    """Exit status 0: a table was printed. What failed stands in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--dry", action="store_true", help="tiny sizes, any device")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=450.0, help="of all parts")
    options = parser.parse_args()
    chosen = options.parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"--parts: found {sorted(unknown)[0]!r}, accepted: {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.seconds - _SPARE
    ends = {}
    for part in chosen:
        limit = min(PARTS[part], end - time.monotonic())
        ends[part] = "no time left" if limit < 5 else run(part, options, limit)
    text = table(read_rows(options.out), ends, options.dry)
    (options.out / "table.md").write_text(text)
    print(text, flush=True)
    return 0


def run(part: str, options: argparse.Namespace, limit: float) -> str:
    """How a part ended; its own output goes to a file."""
    words = [sys.executable, "-m", "benchmarks.gpu.part", part, f"--out={options.out}"]
    words += [f"--seconds={limit:.0f}"] + ["--dry"] * options.dry
    began = time.monotonic()
    with (options.out / f"{part}.log").open("w") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(limit)
            said = "done" if status == 0 else f"ended with status {status}"
        except subprocess.TimeoutExpired:
            said = f"stopped after its {limit:.0f} s"
        finally:
            # Its rival, and whoever else it started, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"{said}, {time.monotonic() - began:.0f} s"


def read_rows(out: pathlib.Path) -> list[dict]:
    """Rows of all parts, as they were measured; a torn last line is left out."""
    rows = []
    for path in sorted(out.glob("rows-*.jsonl"), key=lambda p: p.stat().st_mtime):
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def table(rows: list[dict], ends: dict[str, str], dry: bool) -> str:
    """Markdown: a line a row, then how the parts ended."""
    lines = ["# GPU", ""]
    if dry:
        lines += ["A rehearsal at tiny sizes: its figures mean nothing.", ""]
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [row for row in rows if row["part"] == part]
        heads = list(dict.fromkeys(name for row in mine for name in row["figures"]))
        lines += [f"## {part}", "", f"| row | {' | '.join(heads)} | note |"]
        lines += ["| --- |" + " ---: |" * len(heads) + " --- |"]
        for row in mine:
            cells = [str(row["figures"].get(head, "")) for head in heads]
            lines.append(f"| {row['name']} | {' | '.join(cells)} | {row.get('note', '')} |")
        lines.append("")
    lines += [f"- {part}: {said}" for part, said in ends.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

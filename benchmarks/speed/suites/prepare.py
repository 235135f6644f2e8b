"""Suite `prepare`: NIfTI scans to slices with registration, by one process and by several.

The digest is over every byte that was written: it must not depend on the number of processes.
"""

import functools
import pathlib
import tempfile

from benchmarks.speed import context as context_lib
from benchmarks.speed import results, scans
from madad_jax.core import units


def rows(context: context_lib.Context) -> context_lib.Rows:
    """One row a protocol."""
    o = context.options
    return {
        f"protocol {p}, {o.scans} scans of 182 x 218 x 182": functools.partial(
            _measure, context, f"protocol {p}, {o.scans} scans of 182 x 218 x 182", p
        )
        for p in o.protocols
    }


def _measure(context: context_lib.Context, name: str, protocol: str) -> results.Row:
    o, row = context.options, results.Row(name)
    digests = set()
    with tempfile.TemporaryDirectory(prefix="preparation-") as place:
        folder = pathlib.Path(place) / "in"
        folder.mkdir()
        scans.write_scans(folder, o.scans)
        (folder / "table.yaml").write_text(scans.TABLE)
        for workers in o.workers:
            out = pathlib.Path(place) / f"out-{workers}"
            seconds, peak, digest = scans.prepare(folder, out, workers, protocol)
            digests.add(digest)
            each = f"{workers} process{'es' * (workers > 1)}"
            row.figures[f"{each}: a scan"] = results.one(seconds / o.scans)
            row.figures[f"{each}: scans a minute"] = f"{60 * o.scans / seconds:.1f}"
            row.figures[f"{each}: peak memory of one"] = units.human(peak)
            row.figures[f"{each}: digest"] = digest
    if len(digests) > 1:
        raise RuntimeError(f"{name}: the output depends on the number of processes")
    row.notes.append("no rival: no other package goes from scans to these slices")
    return row

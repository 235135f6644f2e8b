"""A whole table: every cell trained and evaluated as a run of its own, once per seed.

Each cell lives in `<workdir>/<cell>/seed<k>` and continues or skips as any run does; variants of
inference score the weights of the cell that they name. Cells that would train the same autoencoder
share one (`<workdir>/autoencoders`). The table is written after every cell, so that a long job
shows what it has: `<name>.md`, `.csv`, `.tex`.
"""

import json
import logging
import os
from typing import Any

import jax
from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import cells
from madad_jax.checkpoints import reader
from madad_jax.core import atomic_files, errors, json_digest, json_file, signals
from madad_jax.evaluation import paper_tables, report
from madad_jax.experiment import healthy_only, preflight, report_stage, stages
from madad_jax.runtime import agreement, wall_time
from madad_jax.runtime import stop as stop_lib

_LOG = logging.getLogger(__name__)

_DONE = "cell.json"
MODES = ("run", "report")


def execute(
    config: config_dict.ConfigDict, workdir: str, mode: str, stop: stop_lib.GracefulStop
) -> None:
    """Runs what is not done (`mode` run) and writes the table (also `report`).

    Raises UserError for missing data, an option that does not fit, or another mode.
    """
    table, root = cells.assemble_table(config, workdir), epath.Path(workdir)
    if mode not in MODES:
        raise errors.UserError(
            f"--mode={mode}: {table.name} is a table; accepted: {', '.join(MODES)}"
        )
    if mode == "run":
        _check(table)
        for i, cell in enumerate(table.cells, start=1):
            where = f"{table.name} {i}/{len(table.cells)}: {cell.row}, {cell.column}"
            _LOG.info("%s, seed %d", where, cell.seed)
            stop_lib.check(where)
            _run(cell, table, stop)
            _write(table, root)
    _write(table, root)


def _check(table: cells.Table) -> None:
    """Every cell's options and data before the first is trained."""
    seen = set()
    for cell in table.cells:
        if cell.missing_data is not None:
            raise errors.UserError(
                f"data_root: no folder {cell.missing_data!r}. {table.needs}, or set "
                "--config.data_root"
            )
        # Seeds change no shape: each kind of cell is traced once.
        text = cell.digest(seed=False)
        if text in seen or cell.seed != table.seeds[0]:
            continue
        seen.add(text)
        try:
            parts = cell.parts()
            preflight.check_programs(parts)
            # A table of figures against lesions has no cell without them.
            if healthy_only.is_one(parts):
                raise errors.UserError(healthy_only.explain(parts))
        except errors.UserError as error:
            raise errors.UserError(f"{cell.row}, {cell.column}: {error}") from error


def _run(cell: cells.Cell, table: cells.Table, stop: stop_lib.GracefulStop) -> None:
    digest = cell.digest()
    if _is_done(cell, digest):
        _LOG.info("%s: complete", cell.folder)
        return
    same = _same_figures(cell, table)
    if same is not None:  # another signal of an evaluation that is there
        _store(cell, _rows(same), digest)
        return
    if cell.shared_autoencoder is not None:
        folder = os.fspath(cell.shared_autoencoder)
        # Of another table too, and then its runs may be at work in it.
        with agreement.lock(folder, "--workdir"):
            stages.execute(cell.autoencoder_config(), folder, "train_autoencoder", stop)
    mode = "evaluate" if cell.trained else "run"
    with agreement.lock(os.fspath(cell.folder), "--workdir"):
        stages.execute(cell.config, os.fspath(cell.folder), mode, stop)
    _store(cell, None, digest)


def _is_done(cell: cells.Cell, digest: str) -> bool:
    """Whether the cell was scored by this config, with the weights that are there today, and its
    rows are all there.

    Cells of older versions say nothing of their weights, nor how many rows they have.
    """
    marker, rows = cell.folder / _DONE, _rows(cell)
    if not marker.exists() or not rows:
        return False
    done = json_file.read_object(marker)
    if done.get("digest") != digest or done.get("rows", len(rows)) != len(rows):
        return False
    return done.get("weights", "") in ("", _weights(cell))


def _rows(cell: cells.Cell) -> list[dict[str, Any]]:
    return report.read_results(cell.folder / "results.jsonl")


def _weights(cell: cells.Cell) -> str:
    """Digest of the weights that the cell scores: its denoiser's and its autoencoder's; "" where
    some are not there."""
    trained, autoencoder = cell.scored_runs()
    folders = [(trained / "denoiser" / "checkpoints", "")]
    if autoencoder is not None:
        folders.append((autoencoder / "autoencoder" / "checkpoints", "autoencoder"))
    try:
        found = [list(reader.weights_digests(*folder).values())[:1] for folder in folders]
    except errors.UserError:
        return ""
    return json_digest.json_digest(found)


def _same_figures(cell: cells.Cell, table: cells.Table) -> cells.Cell | None:
    """A finished cell that has scored the same weights in the same way."""
    for other in table.cells:
        if other.key == cell.key or other.seed != cell.seed:
            continue
        trained_alike = cell.trained in (other.key, other.trained) and cell.trained
        digest = other.digest()
        if trained_alike and digest == cell.digest() and _is_done(other, digest):
            return other
    return None


def _store(cell: cells.Cell, rows: list[dict[str, Any]] | None, digest: str) -> None:
    if jax.process_index():
        return
    if rows:
        report.append_results(cell.folder / "results.jsonl", rows)
    done = {"digest": digest, "weights": _weights(cell), "rows": len(_rows(cell))}
    atomic_files.write_text(cell.folder / _DONE, json.dumps(done) + "\n")


# The table.


def _results(cell: cells.Cell) -> list[paper_tables.Result]:
    """The cell's own row under the table's name, and the baselines beside it."""
    if not (cell.folder / _DONE).exists():
        return []
    rows, minutes = _rows(cell), _cpu_minutes(cell)
    suffix = signals.SIGNALS[cell.signal]
    others = [s for s in signals.SIGNALS.values() if s]
    out = []
    for row in rows:
        named = next((t for t in others if row["method"].endswith(t)), "")
        if row["learns"] and named != suffix:
            continue
        name = cell.row if row["learns"] else row["method"]
        row = row | {"cpu_minutes": minutes if row["learns"] else None}
        if row.get("id") == "intensity":
            # Which direction of brightness won differs by column; the row is one.
            name = "intensity (best of 3, oracle)"
        out.append(paper_tables.Result(name, cell.column, cell.seed, row))
    return out


def _cpu_minutes(cell: cells.Cell) -> float | None:
    """Of training and scoring, a shared autoencoder's among them; None where a run says nothing."""
    trained, autoencoder = cell.scored_runs()
    folders = {cell.folder, trained} | ({autoencoder} if autoencoder is not None else set())
    spent = [wall_time.cpu_seconds(folder) for folder in folders]
    return None if None in spent else sum(spent) / 60.0


def _write(table: cells.Table, root: epath.Path) -> None:
    if jax.process_index():
        return
    results, seen = [], set()
    for cell in table.cells:
        for found in _results(cell):
            place = (found.row, found.column, found.seed)
            if place not in seen:  # baselines come with every cell
                seen.add(place)
                results.append(found)
    columns = [paper_tables.Column(*c) for c in table.columns]
    made = paper_tables.entries(results, list(table.rows), columns, table.number)
    atomic_files.write_text(root / f"{table.name}.md", _markdown(table, made, results))
    atomic_files.write_text(root / f"{table.name}.csv", paper_tables.csv_text(made))
    caption = f"{table.title}. {_legend(table)}"
    atomic_files.write_text(root / f"{table.name}.tex", paper_tables.latex(made, caption))
    _LOG.info("table: %s", root / f"{table.name}.md")


def _legend(table: cells.Table) -> str:
    seeds = len(table.seeds)
    over = f"mean ± half of Student's 95 % interval over {seeds} seeds"
    if seeds == 1:
        over = "one seed, which has no interval"
    beside = " (published, ours minus published)" if table.number else ""
    return f"Percent: {over}{beside}. {table.thresholds}"


def _markdown(table: cells.Table, made: list[paper_tables.Entry], results: list) -> str:
    synthetic = any(r.result.get("synthetic") for r in results)
    number = f"Table {table.number}: " if table.number else ""
    out = [f"# {number}{table.title}", ""]
    if synthetic:
        out += ["> [!WARNING]", f"> **Synthetic data.** {report_stage.SYNTHETIC}", ""]
    if synthetic and number:
        out += ["The published figures are of patients: the difference to them means nothing.", ""]
    out += [_legend(table), "", paper_tables.markdown(made)]
    missing = [row for row in table.rows if not any(r.row == row for r in results)]
    if missing:
        out += [f"Not run here: {', '.join(missing)}.", ""]
    judged = {c[0] for c in table.columns[: table.judged]}
    for sentence in paper_tables.verdicts([e for e in made if e.column in judged]):
        out += [sentence, ""]
    over_subjects = paper_tables.subjects_markdown(made)
    if over_subjects:
        out += [
            "## Over subjects",
            "",
            f"The run of seed {min(r.seed for r in results)} with its 95 % bootstrap interval over "
            "subjects: what other patients would change, not another training.",
            "",
            over_subjects,
        ]
    costs = paper_tables.costs_markdown(results, table.rows)
    if costs:
        out += [
            "## Cost",
            "",
            "CPU minutes of training and scoring, mean over seeds; an autoencoder that rows share "
            "is trained once and counts in each. Parameters of all networks that a row reads.",
            "",
            costs,
        ]
    if table.note:
        out += [table.note, ""]
    return "\n".join(out).rstrip() + "\n"


def print_table(config: config_dict.ConfigDict, workdir: str) -> None:
    """The table's Markdown on standard output."""
    if not jax.process_index():
        name = cells.assemble_table(config, workdir).name
        print((epath.Path(workdir) / f"{name}.md").read_text())

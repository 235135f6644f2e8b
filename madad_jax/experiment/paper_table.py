"""A whole table: every cell trained and evaluated as a run of its own, once per seed.

Each cell lives in `<workdir>/<cell>/seed<k>` and continues or skips as any run does; variants of
inference score the weights of the cell that they name. Cells that would train the same autoencoder
share one (`<workdir>/autoencoders`). The table is written after every cell, so that a long job
shows what it has: `<name>.md`, `.csv`, `.tex`.
"""

import ast
import contextlib
import copy
import dataclasses
import hashlib
import json
import logging
import os
from typing import Any

import jax
from etils import epath

from madad_jax.assembly import methods
from madad_jax.core import atomic_files, errors, signals
from madad_jax.evaluation import paper_tables, report
from madad_jax.experiment import preflight, stages
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.runtime import stop as stop_lib

_LOG = logging.getLogger(__name__)

_DONE = "cell.json"
_AUTOENCODERS = "autoencoders"
MODES = ("run", "report")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of the table: `trained` is the key of the cell whose weights it scores, or ""."""

    key: str
    row: str
    column: str
    signal: str
    trained: str
    config: Any
    folder: epath.Path


def execute(config: Any, workdir: str, mode: str, stop: stop_lib.GracefulStop) -> None:
    """Runs what is not done (`mode` run) and writes the table (also `report`).

    Raises UserError for missing data, an option that does not fit, or another mode.
    """
    if mode not in MODES:
        raise errors.UserError(
            f"--mode={mode}: {config.name} is a table; accepted: {', '.join(MODES)}"
        )
    if not config.cells:
        raise errors.UserError(f"{config.name}: found no cell; choose other rows or columns")
    root = epath.Path(workdir)
    todo = [cell for seed in config.seeds for cell in _cells(config, root, seed)]
    _share_autoencoders(todo, root)
    if mode == "run":
        _check(config, todo)
        for i, cell in enumerate(todo, start=1):
            where = f"{config.name} {i}/{len(todo)}: {cell.row}, {cell.column}"
            _LOG.info("%s, seed %d", where, cell.config.seed)
            _run(cell, todo, root, stop)
            _write(config, todo, root)
    _write(config, todo, root)


def _cells(config: Any, root: epath.Path, seed: int) -> list[Cell]:
    out = []
    for key, section in config.cells.items():
        c = copy.deepcopy(section.config)
        c.seed = seed
        if config.data_root:
            c.data.root = config.data_root
        _override(c, config.override)
        if section.trained:
            c.eval.run = os.fspath(root / section.trained / f"seed{seed}")
        folder = root / key / f"seed{seed}"
        part = (section.row, section.column, section.signal, section.trained)
        out.append(Cell(key, *part, c, folder))
    # A ConfigDict is in the order of its keys; weights come before what scores them.
    return sorted(out, key=lambda cell: bool(cell.trained))


def _override(c: Any, text: str) -> None:
    """`key=value` words onto a config; values are Python literals or words."""
    for word in text.split():
        key, found, value = word.partition("=")
        with contextlib.suppress(ValueError, SyntaxError):  # else it is a word
            value = ast.literal_eval(value)
        try:
            if not found:
                raise ValueError("accepted: key=value")
            with c.unlocked():
                section, leaf = c, key.split(".")
                for name in leaf[:-1]:
                    section = section[name]
                if leaf[-1] not in section:
                    raise ValueError(f"no key {leaf[-1]!r}")
                section[leaf[-1]] = value
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            reason = " ".join(str(error.args[0] if error.args else error).split())
            raise errors.UserError(f"override: found {word!r}: {reason}") from error


def _check(config: Any, todo: list[Cell]) -> None:
    """Every cell's options and data before the first is trained."""
    seen = set()
    for cell in todo:
        data = cell.config.data
        if data.source != "cohort" and not (data.root and epath.Path(data.root).is_dir()):
            raise errors.UserError(
                f"data_root: no folder {data.root!r}. {config.needs}, or set --config.data_root"
            )
        text = _digest(cell, seed=False)
        if text in seen or cell.config.seed != config.seeds[0]:
            continue
        seen.add(text)
        try:
            preflight.check(cell.config)
        except errors.UserError as error:
            raise errors.UserError(f"{cell.row}, {cell.column}: {error}") from error


def _digest(cell: Cell, *, seed: bool = True) -> str:
    """Of everything that decides a cell's figures; where files lie does not."""
    plain = json.loads(cell.config.to_json())
    for key in ("root", "cache_dir", "latents_dir", "num_threads"):
        plain["data"].pop(key)
    plain["eval"].pop("run")
    plain["autoencoder"].pop("checkpoint")
    if not seed:
        plain.pop("seed")
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _run(cell: Cell, todo: list[Cell], root: epath.Path, stop: stop_lib.GracefulStop) -> None:
    marker = cell.folder / _DONE
    digest = _digest(cell)
    if marker.exists() and json.loads(marker.read_text())["digest"] == digest:
        _LOG.info("%s: complete", cell.folder)
        return
    same = _same_figures(cell, todo)
    if same is not None:  # another signal of an evaluation that is there
        rows = report.read_results(same.folder / "results.jsonl")
        _store(cell, rows, digest)
        return
    _train_autoencoder(cell, root, stop)
    mode = "evaluate" if cell.trained else "run"
    stages.execute(cell.config, os.fspath(cell.folder), mode, stop)
    _store(cell, None, digest)


def _same_figures(cell: Cell, todo: list[Cell]) -> Cell | None:
    """A finished cell that has scored the same weights in the same way."""
    for other in todo:
        if other.key == cell.key or other.config.seed != cell.config.seed:
            continue
        marker = other.folder / _DONE
        trained_alike = cell.trained in (other.key, other.trained) and cell.trained
        if trained_alike and _digest(other) == _digest(cell) and marker.exists():
            return other
    return None


def _store(cell: Cell, rows: list[dict[str, Any]] | None, digest: str) -> None:
    if jax.process_index():
        return
    for row in rows or ():
        report.append_result(cell.folder / "results.jsonl", row)
    atomic_files.write_text(cell.folder / _DONE, json.dumps({"digest": digest}) + "\n")


def _share_autoencoders(todo: list[Cell], root: epath.Path) -> None:
    """Names one folder for all cells that would train the same autoencoder.

    Also where only one would: another call may add the others.
    """
    for cell in todo:
        if methods.uses_latents(cell.config) and not cell.config.autoencoder.checkpoint:
            keys = workdir_lib.flat(cell.config, workdir_lib.AUTOENCODER_KEYS)
            digest = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()
            cell.config.autoencoder.checkpoint = os.fspath(root / _AUTOENCODERS / digest[:16])


def _train_autoencoder(cell: Cell, root: epath.Path, stop: stop_lib.GracefulStop) -> None:
    folder = epath.Path(cell.config.autoencoder.checkpoint or ".")
    if folder.parent == root / _AUTOENCODERS:
        alone = copy.deepcopy(cell.config)
        alone.autoencoder.checkpoint = ""
        alone.eval.run = ""
        stages.execute(alone, os.fspath(folder), "train_autoencoder", stop)


# The table.


def _results(cell: Cell) -> list[paper_tables.Result]:
    """The cell's own row under the table's name, and the rows that learn nothing beside it."""
    if not (cell.folder / _DONE).exists():
        return []
    rows = report.read_results(cell.folder / "results.jsonl")
    suffix = signals.SIGNALS[cell.signal]
    others = [s for s in signals.SIGNALS.values() if s]
    out = []
    for row in rows:
        named = next((t for t in others if row["method"].endswith(t)), "")
        if row["learns"] and named != suffix:
            continue
        name = cell.row if row["learns"] else row["method"]
        if row.get("id") == "intensity":
            # Which direction of brightness won differs by column; the row is one.
            name = "intensity (best of 3, oracle)"
        out.append(paper_tables.Result(name, cell.column, cell.config.seed, row))
    return out


def _write(config: Any, todo: list[Cell], root: epath.Path) -> None:
    if jax.process_index():
        return
    results, seen = [], set()
    for cell in todo:
        for found in _results(cell):
            place = (found.row, found.column, found.seed)
            if place not in seen:  # rows that learn nothing come with every cell
                seen.add(place)
                results.append(found)
    columns = [paper_tables.Column(*c) for c in config.table.columns]
    made = paper_tables.entries(results, list(config.table.rows), columns, config.table.number)
    atomic_files.write_text(root / f"{config.name}.md", _markdown(config, made, results))
    atomic_files.write_text(root / f"{config.name}.csv", paper_tables.csv_text(made))
    caption = f"{config.table.title}. {_legend(config)}"
    atomic_files.write_text(root / f"{config.name}.tex", paper_tables.latex(made, caption))
    _LOG.info("table: %s", root / f"{config.name}.md")


def _legend(config: Any) -> str:
    seeds = len(config.seeds)
    over = f"mean ± half of Student's 95 % interval over {seeds} seeds"
    if seeds == 1:
        over = "one seed, which has no interval"
    beside = " (published, ours minus published)" if config.table.number else ""
    return f"Percent: {over}{beside}. {config.table.thresholds}"


def _markdown(config: Any, made: list[paper_tables.Entry], results: list) -> str:
    synthetic = any(r.result.get("synthetic") for r in results)
    number = f"Table {config.table.number}: " if config.table.number else ""
    out = [f"# {number}{config.table.title}", ""]
    if synthetic:
        out += ["> [!WARNING]", f"> **Synthetic data.** {stages.SYNTHETIC}", ""]
    if synthetic and number:
        out += ["The published figures are of patients: the difference to them means nothing.", ""]
    out += [_legend(config), "", paper_tables.markdown(made)]
    missing = [row for row in config.table.rows if not any(r.row == row for r in results)]
    if missing:
        out += [f"Not run here: {', '.join(missing)}.", ""]
    judged = {c[0] for c in config.table.columns[: config.table.judged]}
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
    if config.note:
        out += [config.note, ""]
    return "\n".join(out).rstrip() + "\n"


def print_table(config: Any, workdir: str) -> None:
    """The table's Markdown on standard output."""
    if not jax.process_index():
        print((epath.Path(workdir) / f"{config.name}.md").read_text())

"""A table config to its cells: every cell is a run of its own, once per seed."""

import ast
import contextlib
import copy
import dataclasses
import hashlib
import json
import os
from typing import Any

from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import config_record, methods
from madad_jax.assembly import parts as parts_lib
from madad_jax.core import errors, json_digest

_AUTOENCODERS = "autoencoders"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of the table.

    Attributes:
      key: of the cell in the config.
      row, column: what it fills.
      signal: whose figures it takes.
      trained: key of the cell whose weights it scores; "": its own.
      seed: of the run.
      config: of the run.
      folder: of the run.
      shared_autoencoder: folder of the autoencoder that cells share; None: the cell needs none,
        or names one of another run.
      missing_data: the folder of slices that is not there; None where all is there.
    """

    key: str
    row: str
    column: str
    signal: str
    trained: str
    seed: int
    config: config_dict.ConfigDict
    folder: epath.Path
    shared_autoencoder: epath.Path | None
    missing_data: str | None

    def parts(self) -> parts_lib.Parts:
        """The run's parts. Raises UserError for a value that cannot be."""
        return parts_lib.assemble(self.config)

    def scored_runs(self) -> tuple[epath.Path, epath.Path | None]:
        """(folder whose denoiser is scored, folder of its autoencoder; None where it has none)."""
        autoencoder = self.config.autoencoder.checkpoint
        trained = epath.Path(self.config.eval.run or self.folder)
        return trained, epath.Path(autoencoder) if autoencoder else None

    def autoencoder_config(self) -> Any:
        """The config that trains the shared autoencoder in its own folder."""
        alone = copy.deepcopy(self.config)
        alone.autoencoder.checkpoint = ""
        alone.eval.run = ""
        return alone

    def digest(self, *, seed: bool = True) -> str:
        """Of everything that decides the cell's figures; where files lie does not."""
        plain = config_record.plain_execution(config_record.plain(self.config))
        # Where things lie and how fast they are read changes no figure.
        for key in ("root", "cache_dir", "latents_dir", "num_threads"):
            plain["data"].pop(key)
        plain["eval"].pop("run")
        plain["log"].pop("track", None)
        plain["autoencoder"].pop("checkpoint")
        if not seed:
            plain.pop("seed")
        return json_digest.json_digest(plain)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table and what it is made of.

    Attributes:
      name: of its files.
      number: of the paper's table; "" for one of our own.
      title, thresholds, note, needs: sentences.
      columns: arguments of `paper_tables.Column`.
      rows: learned rows in order.
      judged: so many of the first columns are put into words.
      seeds: of every cell.
      cells: of all seeds; those that train come before those that score their weights.
    """

    name: str
    number: str
    title: str
    thresholds: str
    note: str
    needs: str
    columns: tuple[tuple[str, ...], ...]
    rows: tuple[str, ...]
    judged: int
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]


def is_table(config: config_dict.ConfigDict) -> bool:
    """Whether a config is a table of runs and not a run."""
    return "cells" in config


def assemble_table(config: config_dict.ConfigDict, folder: epath.PathLike) -> Table:
    """Reads a table config.

    Args:
      config: as configs/parts/table_cells.py makes it.
      folder: of the table; every cell has a folder in it.

    Raises:
      UserError: no cell, or an `override` that does not fit.
    """
    if not config.cells:
        raise errors.UserError(f"{config.name}: found no cell; choose other rows or columns")
    root, t = epath.Path(folder), config.table
    return Table(
        name=config.name,
        number=t.number,
        title=t.title,
        thresholds=t.thresholds,
        note=config.note,
        needs=config.needs,
        columns=tuple(tuple(column) for column in t.columns),
        rows=tuple(t.rows),
        judged=t.judged,
        seeds=tuple(config.seeds),
        cells=tuple(cell for seed in config.seeds for cell in _cells(config, root, seed)),
    )


def _cells(config: config_dict.ConfigDict, root: epath.Path, seed: int) -> list[Cell]:
    """The cells of one seed."""
    cells = []
    for key, section in config.cells.items():
        c = copy.deepcopy(section.config)
        c.seed = seed
        if config.data_root:
            c.data.root = config.data_root
        _override(c, config.override)
        if section.trained:
            c.eval.run = os.fspath(root / section.trained / f"seed{seed}")
        shared = _share_autoencoder(c, root)
        absent = not (c.data.root and epath.Path(c.data.root).is_dir())
        cells.append(
            Cell(
                key=key,
                row=section.row,
                column=section.column,
                signal=section.signal,
                trained=section.trained,
                seed=seed,
                config=c,
                folder=root / key / f"seed{seed}",
                shared_autoencoder=shared,
                missing_data=c.data.root if c.data.source != "cohort" and absent else None,
            )
        )
    # A ConfigDict is in the order of its keys; weights come before what scores them.
    return sorted(cells, key=lambda cell: bool(cell.trained))


def _share_autoencoder(c: Any, root: epath.Path) -> epath.Path | None:
    """Names one folder for all cells that would train the same autoencoder.

    Also where only one would: another call may add the others.
    """
    if not methods.stands_on_latents(c) or c.autoencoder.checkpoint:
        return None
    record = config_record.plain(c)
    folder = _autoencoder_folder(root, record)
    if not folder.exists():  # how it is computed makes no other one
        folder = _autoencoder_folder(root, config_record.plain_execution(record))
    c.autoencoder.checkpoint = os.fspath(folder)
    return folder


def _autoencoder_folder(root: epath.Path, record: dict[str, Any]) -> epath.Path:
    keys = config_record.flatten(record, config_record.AUTOENCODER_KEYS)
    # Not `json_digest`, whose text differs: folders of tables that were begun keep their names.
    digest = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()
    return root / _AUTOENCODERS / digest[:16]


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

"""What the table configs share: cells, seeds, roots, and how an argument picks some of them.

A table is a list of cells. Each is a whole config of its own with the row and column it fills,
the signal that is scored, and, for variants of inference alone, the cell whose weights are scored.
`python -m madad_jax.main --config=configs/paper/table2.py` trains and evaluates every cell once
per seed in `<workdir>/<cell>/seed<k>`, skips what is done, and writes `<table>.md`, `.csv`, `.tex`.
"""

from ml_collections import config_dict

from configs.baselines import ae, anoddpm, autoddpm, dae, ddpm, itermask2, pddpm, thor
from configs.parts import presets

ORACLES = "All thresholds are oracles."
# Rows of the paper's tables and the files that make them; others stand with published figures only.
BASELINES = {
    "AE": ae,
    "DDPM": ddpm,
    "AnoDDPM": anoddpm,
    "AutoDDPM": autoddpm,
    "pDDPM": pddpm,
    "THOR": thor,
    "DAE": dae,
    "IterMask2": itermask2,
}


def table(
    number,
    title,
    *,
    columns,
    rows,
    data_root,
    needs,
    demo=False,
    name="",
    thresholds=ORACLES,
    judged=0,
):
    """An empty table config.

    Args:
      number: of the paper's table, for the published figures; 0: a table of our own, which has
        a `name`.
      title: its heading.
      columns: (heading, cell column, figure, published column or "") each, and "low" behind it
        where less is better.
      rows: learned rows in order, also those that no cell fills.
      data_root: where the slices lie; "" for the embedded cohort.
      needs: one sentence: what has to lie there and how it is made.
      thresholds: one sentence: how those of the figures were chosen.
      judged: so many of the first columns are put into words; 0: all.
    """
    c = config_dict.ConfigDict()
    c.name = (name or f"table{number}") + ("-demo" if demo else "")
    c.note = ""  # a sentence for the table
    c.matmul_precision = "default"  # default | high | highest
    c.data_root = data_root  # of every cell; empty: the cells' own
    c.needs = needs
    c.seeds = (0,) if demo else (0, 1, 2)
    # Changes to every cell, as "train.steps=100 data.num_threads=4".
    c.override = ""
    c.table = config_dict.create(
        number=str(number or ""),
        title=title,
        thresholds=thresholds,
        judged=judged or len(columns),
        columns=tuple(columns),
        rows=tuple(rows),
    )
    c.cells = config_dict.ConfigDict()
    return c


def add(c, row, column, config, *, signal="map", trained=""):
    """Adds the cell that fills `row` and `column`; its key is made of both."""
    key = "".join(ch if ch.isalnum() else "_" for ch in f"{row}-{column}").lower()
    c.cells[key] = config_dict.create(
        row=row, column=column, signal=signal, trained=trained, config=config
    )
    return key


def baseline(row, argument):
    """The config of a published baseline, or None where there is none."""
    return BASELINES[row].get_config(argument) if row in BASELINES else None


def parse(argument, rows, columns):
    """(preset, demo, rows, columns) of an argument like `madad,FLAIR` or `official` or `demo`.

    Raises ValueError for a word that is none of these.
    """
    preset, demo, chosen_rows, chosen_columns = "paper", False, [], []
    names = {_plain(r): r for r in rows}
    for word in filter(None, argument.split(",")):
        if word in presets.PRESETS:
            preset = word
        elif word == "demo":
            demo = True
        elif word in columns:
            chosen_columns.append(word)
        elif _plain(word) in names:
            chosen_rows.append(names[_plain(word)])
        else:
            accepted = ", ".join((*presets.PRESETS, "demo", *columns, *names))
            raise ValueError(f"argument: found {word!r}, accepted: {accepted}")
    return preset, demo, chosen_rows or list(rows), chosen_columns or list(columns)


def small_columns(demo, columns):
    """One modality for a demo that names none: each is a cohort to draw and a detector to train."""
    return ["T1"] if demo and len(columns) > 2 else [c for c in columns if not demo or c != "T1CE"]


def _plain(row):
    return "".join(ch for ch in row.lower() if ch.isalnum())

"""A table from its config: cells that run, skip, share weights, and are written."""

import copy
import csv
import json

import pytest
from ml_collections import config_dict

from configs.parts import table_cells
from madad_jax.assembly import cells
from madad_jax.core import errors
from madad_jax.evaluation import report
from madad_jax.experiment import paper_table
from madad_jax.runtime import stop as stop_lib
from tests import holder
from tests.e2e import tiny_config

COLUMNS = (("T1", "T1", "max_dice", ""), ("T1, pooled", "T1", "pooled_max_dice", "T1"))


@pytest.fixture(scope="module")
def table(png_root):
    """Two signals and a variant of one training, two seeds; beside a row that nothing makes."""
    rows = ("image difference", "latent difference", "5 steps", "IterMask2")
    c = table_cells.table(
        3, "tiny", columns=COLUMNS, rows=rows, data_root=str(png_root), needs="Put"
    )
    c.seeds = (0, 1)
    c.override = "train.steps=4 autoencoder.train.steps=4 checkpoint.every_steps=100"
    first = table_cells.add(c, rows[0], "T1", tiny_config.get_config())
    table_cells.add(c, rows[1], "T1", tiny_config.get_config(), signal="latent_map", trained=first)
    variant = tiny_config.get_config()
    variant.methods.madad.inference.sampler.steps = 5
    table_cells.add(c, rows[2], "T1", variant, trained=first)
    return c


def _execute(config, workdir, mode="run"):
    with stop_lib.GracefulStop() as stop:
        paper_table.execute(config, str(workdir), mode, stop)


@pytest.mark.slow
def test_cells_run_once_and_the_table_holds_them(table, tmp_path):
    _execute(table, tmp_path)
    text = (tmp_path / "table3.md").read_text()
    assert text.index("| mean image |") < text.index("| image difference |")
    assert "Not run here: IterMask2." in text and "over 2 seeds" in text
    with (tmp_path / "table3.csv").open() as file:
        lines = {(r["row"], r["column"]): r for r in csv.DictReader(file)}
    ours = lines["image difference", "T1, pooled"]
    assert (
        ours["seeds"] == "2" and ours["published"] == "0.634" and ours["preset"] == "paper, changed"
    )
    values = [float(v.split(":")[1]) for v in ours["by_seed"].split()]
    assert float(ours["mean"]) == pytest.approx(sum(values) / 2)
    assert float(ours["difference"]) == pytest.approx(float(ours["mean"]) - 0.634)
    assert ours["by_seed"] != lines["latent difference", "T1, pooled"]["by_seed"]
    # One training a seed, shared; the variant was evaluated and holds no weights.
    assert len(list((tmp_path / "autoencoders").iterdir())) == 2
    assert (tmp_path / "image_difference_t1" / "seed1" / "denoiser").is_dir()
    assert not (tmp_path / "5_steps_t1" / "seed1" / "denoiser").exists()
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.jsonl")}
    _execute(table, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.jsonl")} == times
    assert (tmp_path / "table3.md").read_text() == text


def test_a_cell_whose_rows_are_gone_is_scored_again(table, tmp_path):
    cell = cells.assemble_table(copy.deepcopy(table), str(tmp_path)).cells[0]
    results = cell.folder / "results.jsonl"
    report.append_results(results, [{"method": "a"}, {"method": "b"}])
    paper_table._store(cell, None, cell.digest())
    assert paper_table._is_done(cell, cell.digest())
    results.write_bytes(results.read_bytes()[:-5])  # a line breaks off
    assert not paper_table._is_done(cell, cell.digest())
    marker = cell.folder / paper_table._DONE
    marker.write_text(json.dumps({"digest": cell.digest()}))  # of an older version
    assert paper_table._is_done(cell, cell.digest())
    results.unlink()
    assert not paper_table._is_done(cell, cell.digest())


def test_an_autoencoder_that_another_table_trains_is_left_alone(table, tmp_path):
    folder = cells.assemble_table(copy.deepcopy(table), str(tmp_path)).cells[0].shared_autoencoder
    with (
        holder.held(folder) as first,
        pytest.raises(errors.UserError, match=f"process {first.pid} on "),
    ):
        _execute(copy.deepcopy(table), tmp_path)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_missing_data_is_one_line_before_anything_runs(table, tmp_path):
    c = copy.deepcopy(table)
    c.data_root = str(tmp_path / "nowhere")
    with pytest.raises(errors.UserError, match=r"data_root: no folder .*nowhere'\. Put, or set"):
        _execute(c, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "reason"),
    [("train.step=3", "no key 'step'"), ("train.steps", "key=value"), ("train.steps=x", "int")],
)
def test_overrides_are_checked(table, tmp_path, word, reason):
    c = copy.deepcopy(table)
    c.override = word
    with pytest.raises(errors.UserError, match=f"override: found '{word}': .*{reason}"):
        _execute(c, tmp_path / "out")


def test_only_whole_jobs(table, tmp_path):
    with pytest.raises(errors.UserError, match=r"--mode=train: table3 is a table"):
        _execute(table, tmp_path / "out", "train")
    empty = copy.deepcopy(table)
    empty.cells = config_dict.ConfigDict()
    with pytest.raises(errors.UserError, match="found no cell"):
        _execute(empty, tmp_path / "out")


def test_report_of_nothing_tells_what_is_missing(table, tmp_path):
    _execute(table, tmp_path, "report")
    assert (
        "Not run here: image difference, latent difference" in (tmp_path / "table3.md").read_text()
    )

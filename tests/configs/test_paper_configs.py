import importlib
import itertools

import pytest

from configs.paper import all_methods
from configs.parts import presets, table_cells
from madad_jax.assembly import methods
from madad_jax.evaluation import paper_tables
from tests.configs import test_configs

TABLES = ("table1", "table2", "table3", "table4")
OF_ALL = [("all_methods", ""), ("all_methods", "demo")]


def load(name, argument=""):
    return importlib.import_module(f"configs.paper.{name}").get_config(argument)


@pytest.mark.parametrize(
    ("name", "argument"),
    [*itertools.product(TABLES, ["", "demo", "official"]), *OF_ALL],
)
def test_cells_are_whole_configs_in_places_of_the_table(name, argument):
    config = load(name, argument)
    config.lock()
    assert len(config.cells) > 0
    known = test_configs.shared_keys(test_configs.default.get_config())
    columns = {c[1] for c in config.table.columns}
    for cell in config.cells.values():
        assert test_configs.shared_keys(cell.config) == known
        assert cell.row in config.table.rows and cell.column in columns
        assert cell.config.preset in (*presets.PRESETS, "published", "small")
        assert cell.trained in ("", *config.cells)
        if cell.trained:
            assert config.cells[cell.trained].column == cell.column
        assert (cell.config.data.source == "cohort") == (argument == "demo")


@pytest.mark.parametrize("name", TABLES)
def test_published_figures_have_their_place(name):
    """Every published row and column of the table stands in the config."""
    config = load(name)
    published = paper_tables.read_published(config.table.number)
    assert {row for row, _ in published} == set(config.table.rows)
    assert {column for _, column in published} <= {c[3] or c[0] for c in config.table.columns}


def test_argument_picks_rows_columns_and_preset():
    config = load("table2", "madad,FLAIR,official")
    assert list(config.cells) == ["mad_ad_flair"]
    assert config.cells.mad_ad_flair.config.preset == "official"
    assert [c[1] for c in config.table.columns] == ["FLAIR", "FLAIR"]
    with pytest.raises(ValueError, match=r"found .FLAIRE., accepted: .*FLAIR"):
        load("table2", "FLAIRE")


def test_variants_of_inference_share_one_training():
    config = load("table4", "T2")
    trained = [c.trained for c in config.cells.values()]
    assert trained.count("") == 1 and len(trained) == 6
    gammas = {c.row: c.config.methods.madad.inference.score.gamma for c in config.cells.values()}
    assert (gammas["gamma 0.4"], gammas["no clipping"], gammas["2 steps"]) == (0.4, 0.0, 0.2)
    steps = {c.row: c.config.methods.madad.inference.sampler.steps for c in config.cells.values()}
    assert (steps["2 steps"], steps["gamma 0.4"]) == (2, 10)


def test_baselines_are_their_rows_methods():
    for row, module in table_cells.BASELINES.items():
        config = table_cells.baseline(row, "demo:T1")
        assert config.method == module.__name__.rpartition(".")[2]
    assert table_cells.baseline("Cycl. UNet", "demo:T1") is None


def test_the_row_of_combined_signals_shows_them():
    signals = {c.row: c.signal for c in load("all_methods").cells.values()}
    assert signals.pop(all_methods.COMBINED) == "combined_map"
    assert set(signals.values()) == {"map"}


def test_noise_alone_shows_no_head_an_anomaly():
    for argument in ("", "demo"):
        config = load("all_methods", argument)
        (cell,) = [c for c in config.cells.values() if c.row == all_methods.NOISE_ALONE]
        assert cell.config.synthesis.share == 0.0 and not cell.config.atlas.groups
        assert not cell.config.methods.madad.pixel_head.network.widths


def test_all_methods_have_one_budget():
    config = load("all_methods")
    assert {c.config.method for c in config.cells.values()} == set(methods.METHODS)
    for key in ("data.image_size", "train.steps", "train.batch_size", "train.ema_decay"):
        assert len({test_configs.flat(c.config)[key] for c in config.cells.values()}) == 1, key
    on_latents = [c.config for c in config.cells.values() if c.row not in all_methods.ON_PIXELS]
    assert len({c.autoencoder.to_json() for c in on_latents}) == 1
    assert len({c.denoiser.hidden_size * c.denoiser.depth for c in on_latents}) == 1
    cells_of = {c.row: c for c in config.cells.values()}
    combined = cells_of[all_methods.COMBINED]
    assert config.cells[combined.trained].row == all_methods.MADAD
    assert combined.config.ensemble.combine == "geometric"
    assert cells_of[all_methods.NOISE_ALONE].config.synthesis.share == 0
    with pytest.raises(ValueError, match="found 'official'; this table is made of one preset"):
        load("all_methods", "official")

import csv
import io

import pytest
from scipy import stats

from madad_jax.evaluation import paper_tables
from madad_jax.evaluation.paper_tables import Column, Result

COLUMNS = [
    Column("FLAIR", "FLAIR", "max_dice"),
    Column("T1", "T1", "max_dice"),
    Column("Avg", paper_tables.AVERAGE, "max_dice"),
]


def _row(value, learns=True, **more):
    return {"max_dice": value, "learns": learns, "preset": "paper", "by_size": {}, **more}


def _results():
    out = []
    for seed, (flair, t1) in enumerate([(0.70, 0.60), (0.80, 0.62), (0.75, 0.64)]):
        out += [Result("MAD-AD", "FLAIR", seed, _row(flair, intervals={"max_dice": [0.6, 0.9]}))]
        out += [Result("MAD-AD", "T1", seed, _row(t1))]
        out += [Result("mean image", "FLAIR", seed, _row(0.78, learns=False))]
        out += [Result("mean image", "T1", seed, _row(0.30, learns=False))]
    return out


def test_mean_over_seeds_its_interval_and_the_difference():
    found = paper_tables.entries(_results(), ["DAE", "MAD-AD"], COLUMNS, "2")
    assert [e.row for e in found[::3]] == ["mean image", "DAE", "MAD-AD"]
    flair = found[6]
    assert flair.mean == pytest.approx(0.75) and flair.published == pytest.approx(0.762)
    assert flair.difference == pytest.approx(-0.012)
    expected = stats.t.interval(0.95, 2, loc=0.75, scale=0.05 / 3**0.5)
    assert (flair.low, flair.high) == pytest.approx(expected)
    assert flair.subjects == [0.6, 0.9]
    # What learns nothing and is the same for every seed has no spread to state.
    assert found[0].mean == pytest.approx(0.78)
    assert found[0].low is None and found[0].high is None
    average = found[8]
    assert average.values == pytest.approx({0: 0.65, 1: 0.71, 2: 0.695})
    assert found[3].mean is None and found[3].published == pytest.approx(0.797)


def test_figures_of_whole_scans_are_found_by_name():
    at = [{"asked": 1.0, "sensitivity": 0.3}, {"asked": 2.0, "sensitivity": 0.4}]
    row = _row(0.5, volumes={"dice_healthy": 0.6, "at_false_positives": at})
    assert paper_tables.figure(row, "volumes.dice_healthy") == 0.6
    assert paper_tables.figure(row, "volumes.at.2.sensitivity") == 0.4
    assert paper_tables.figure(row, "volumes.at.8.sensitivity") is None
    assert paper_tables.figure(_row(0.5), "volumes.at.2.sensitivity") is None


def test_costs_stand_beside_learned_rows_alone():
    results = [
        Result("MAD-AD", "T1", seed, _row(0.5, parameters=1_234_000, cpu_minutes=minutes))
        for seed, minutes in enumerate([2.0, 3.0])
    ]
    results += [Result("mean image", "T1", 0, _row(0.5, learns=False, parameters=1_234_000))]
    text = paper_tables.costs_markdown(results, ["DAE", "MAD-AD", "mean image"])
    assert text.splitlines()[2:] == ["| MAD-AD | 1.23 M | 2.5 |"]
    # Rows of older versions say nothing of it.
    assert paper_tables.costs_markdown(_results(), ["MAD-AD"]) == ""


def test_average_needs_every_column_of_the_seed():
    results = [r for r in _results() if not (r.column == "T1" and r.seed == 1)]
    average = paper_tables.entries(results, ["MAD-AD"], COLUMNS, "2")[-1]
    assert sorted(average.values) == [0, 2]


def test_weighted_average_is_that_of_thor():
    sizes = {
        "tiny": {"max_dice": 0.9, "n_slices": 50},
        "small": {"max_dice": 0.155, "n_slices": 471},
        "medium": {"max_dice": 0.501, "n_slices": 381},
        "large": {"max_dice": 0.641, "n_slices": 147},
    }
    found = paper_tables.figure({"by_size": sizes}, "weighted.max_dice")
    assert found == pytest.approx(0.358, abs=5e-4)
    assert paper_tables.figure({"by_size": sizes}, "by_size.large.max_dice") == 0.641
    assert paper_tables.figure({"by_size": {}}, "by_size.large.max_dice") is None
    assert paper_tables.figure({"by_size": {}}, "weighted.max_dice") is None


def test_one_seed_has_no_interval():
    assert paper_tables.seed_interval([0.5]) == (0.5, None, None)
    assert paper_tables.seed_interval([]) == (None, None, None)


def test_words_and_files():
    found = paper_tables.entries(_results(), ["DAE", "MAD-AD"], COLUMNS, "2")
    sentences = paper_tables.verdicts(found)
    assert sentences == [
        "**MAD-AD does not beat what learns nothing** in FLAIR 75.0 against 78.0 of mean image."
    ]
    text = paper_tables.markdown(found)
    assert text.index("| mean image |") < text.index("| DAE |") < text.index("| MAD-AD |")
    assert "| DAE | — (79.7) | — (29.5) | — (53.9) | — |" in text
    assert "| 75.0 ± 12.4 (76.2, -1.2) | 62.0 ± 5.0 (63.4, -1.4) |" in text
    lines = list(csv.DictReader(io.StringIO(paper_tables.csv_text(found))))
    assert lines[6]["by_seed"] == "0:0.7 1:0.8 2:0.75" and lines[6]["preset"] == "paper"
    assert lines[6]["source"] == "MAD-AD table 2"
    assert r"75.0 $\pm$ 12.4" in paper_tables.latex(found, "T")
    assert "70.0 [60.0, 90.0]" in paper_tables.subjects_markdown(found)


def test_less_is_better_where_the_column_says_so():
    results = [
        Result("ours", "T1", 0, _row(0.02)),
        Result("mean image", "T1", 0, _row(0.05, learns=False)),
        Result("intensity", "T1", 0, _row(0.03, learns=False)),
    ]
    column = Column("alarms", "T1", "max_dice", "", "low")
    found = paper_tables.entries(results, ["ours"], [column], "")
    assert paper_tables.verdicts(found) == [
        "ours is better than every row that learns nothing: alarms 2.0 against 3.0 of intensity."
    ]
    assert "| ours | 2.0 |" in paper_tables.markdown(found)

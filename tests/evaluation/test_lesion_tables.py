"""Lesions at a number of false positives a scan: evaluator, report, CSV files, `compare`."""

import csv
import json

import pytest
from etils import epath

from madad_jax.evaluation import lesion_tables, paired, report, runner, set_files
from madad_jax.metrics import lesion_sums, scan_stacks
from tests.evaluation.test_runner import SIDE, Scorer, Source, batches_of

ASKED = (0.25, 1.0, 6.0, 1e5)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """(rows, the run's folder): five scans with a lesion and two without, all rows."""
    options = runner.Options(
        image_size=SIDE,
        sigma=0.0,
        false_positive_rate=0.05,
        bootstrap=20,
        panels=0,
        volumes=runner.Volumes((10.0, 5.0, 5.0), scan_stacks.Options(), ASKED),
    )
    evaluation = runner.Evaluation(Scorer(), options, batches_of)
    evaluation.fit_baselines(Source(2, 3, "t"))
    evaluation.choose_thresholds(Source(3, 3, "v"))
    folder = epath.Path(tmp_path_factory.mktemp("run"))
    test, healthy = Source(5, 3), Source(2, 4, "x")
    rows = evaluation.score_set("test", test, healthy, folder / "eval" / "test", {})
    return rows, folder


def test_every_row_has_its_own_thresholds_from_healthy_scans(scored):
    rows, _ = scored
    assert json.dumps(rows, allow_nan=False)
    for row in rows:
        points = row["volumes"]["at_false_positives"]
        assert [p["asked"] for p in points] == list(ASKED)
        assert points[0]["threshold"] is None and "cannot tell" in points[0]["note"]
        limits = [p["threshold"] for p in points[1:]]
        assert limits == sorted(limits, reverse=True)
        for point in points[1:]:
            assert point["expected"] <= point["asked"] and point["n_validation_scans"] == 3
            assert (point["n_healthy_scans"], point["n_lesion_scans"]) == (2, 5)
            assert point["n_lesions"] == 5 and 0 <= point["sensitivity"] <= 1
            assert point["by_kind"]["spot"]["n_lesions"] == 5
        assert "healthy scans have at most" in points[-1]["note"]


def test_the_learned_row_is_compared_with_the_best_baseline_at_the_same_number(scored):
    rows, _ = scored
    for k, entry in enumerate(rows[-1]["volumes"]["at_false_positives"][1:], start=1):
        rivals = {
            r["method"]: r["volumes"]["at_false_positives"][k]["sensitivity"] for r in rows[:-1]
        }
        difference = entry["difference"]
        assert rivals[difference["to"]] == max(rivals.values())
        assert difference["sensitivity"] == pytest.approx(
            entry["sensitivity"] - max(rivals.values())
        )
        low, high = difference["interval"]
        assert low <= difference["sensitivity"] <= high
        assert difference["by_kind"]["spot"]["interval"] == [low, high]
    assert "difference" not in rows[0]["volumes"]["at_false_positives"][1]


def test_the_files_of_the_set_hold_the_same_figures(scored):
    rows, folder = scored
    of_set = folder / "eval" / "test"

    def read(name):
        return list(csv.DictReader((of_set / name).read_text().splitlines()))

    lesions = [e for e in read("lesions.csv") if e["method"] == "fake"]
    points = [e for e in read("false_positives.csv") if e["method"] == "fake"]
    assert [float(p["asked"]) for p in points] == list(ASKED) and points[0]["sensitivity"] == ""
    assert points[1]["difference_low"] != "" and points[1]["baseline"] in {
        r["method"] for r in rows
    }
    assert len(lesions) == 5 and {e["kind"] for e in lesions} == {"spot"}
    for column, point in zip(("found_at_1", "found_at_6"), points[1:3], strict=True):
        found = sum(int(e[column]) for e in lesions)
        assert found == int(point["n_found"]) == round(5 * float(point["sensitivity"]))
    groups = {
        (e["method"], e["grouped"], e["group"], e["asked"]) for e in read("lesion_groups.csv")
    }
    assert ("fake", "by_kind", "spot", "6.0") in groups
    sums = set_files.read_lesions(folder, "test")
    assert "fake" in sums and sums["fake"].asked == ASKED[1:]
    assert set_files.read_lesions(folder, "other") == {}


def test_runs_are_compared_in_lesions_too(scored):
    rows, folder = scored
    found = paired.differences([str(folder)], "test", draws=20)
    by_method = {entry["method"]: entry for entry in found[1:]}
    mine = rows[-1]["volumes"]["at_false_positives"]
    for row in rows[1:-1]:
        theirs = row["volumes"]["at_false_positives"]
        entry = by_method[row["method"]]
        gap = theirs[2]["sensitivity"] - mine[2]["sensitivity"]
        assert entry["found_at_6"] == pytest.approx(gap)
        low, high = entry["intervals"]["found_at_6"]
        assert low <= gap <= high and "found_at_0.25" not in entry


def test_the_report_has_a_line_a_number_and_row(scored, tmp_path):
    rows, _ = scored
    report.write_report(tmp_path / "report.md", title="x", rows=rows)
    text = (tmp_path / "report.md").read_text()
    part = text[text.index("### Lesions found at a bearable") :]
    assert "2 scans without and 5 with a lesion" in part
    assert "At 0.25: 3 healthy scans cannot tell less than 0.333 (" in part and ", fake)." in part
    line = next(x for x in part.splitlines() if x.startswith("| 6 | fake |"))
    entry = rows[-1]["volumes"]["at_false_positives"][2]
    assert (
        f"{100 * entry['sensitivity']:.1f} [" in line
        and f"to {entry['difference']['to']} |" in line
    )
    assert f"| {entry['false_positives_per_healthy_scan']:.2f} [" in line
    assert "| Volume | Lesions | Method | Found at 0.25 a scan | Found at 1 a scan |" in part
    assert "| spot | 5 | fake |" in part


def test_rows_of_before_make_no_section(scored):
    rows, _ = scored
    older = {**rows[0], "volumes": {"n_scans": 1}}
    assert lesion_tables.section([older]) == []
    empty = {**rows[0], "volumes": {"at_false_positives": []}}
    assert lesion_tables.section([empty]) == []


def test_bands_of_volume_stand_in_order():
    group = {"n_lesions": 1, "n_found": 1, "sensitivity": 1.0, "intervals": {}}
    bands = {name: group for name in reversed([b for b, _ in lesion_sums.VOLUMES])}
    text = lesion_tables._group_table(
        [{"method": "m", "volumes": {"at_false_positives": [{"asked": 1.0, "by_volume": bands}]}}],
        "by_volume",
        "Volume",
    )
    places = [text.index(name) for name, _ in lesion_sums.VOLUMES]
    assert places == sorted(places)

import json
import os

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.evaluation import report


def _row(method, ap, dice, *, learns=True, **more):
    return {
        "method": method, "set": "test", "step": 10, "learns": learns, "ap": ap,
        "pooled_max_dice": dice, "max_dice": dice, "auroc": 0.9, "n_slices": 4, "n_subjects": 2,
        "n_lesion_slices": 3, "n_healthy_slices": 1, "n_unknown": 0, "pixels": "all", "seed": 7,
        "by_kind": {"dark": {"n_slices": 3, "ap": ap, "pooled_max_dice": dice}},
        "by_size": {"large": {"n_slices": 1, "ap": ap}, "small": {"n_slices": 2, "ap": ap}},
        **more,
    }  # fmt: skip


_FLOOR = [
    _row("intensity", 0.3, 0.55, learns=False),
    _row("mean_image", 0.5, 0.4, learns=False),
]


def _write(tmp_path, rows, **options):
    path = tmp_path / "report.md"
    report.write_report(path, title="A run", rows=rows, **options)
    return path.read_text()


def test_synthetic_data_is_said_before_anything_else(tmp_path):
    text = _write(tmp_path, [*_FLOOR], cohort_note="The brains are drawn.")
    assert text.index("**Synthetic data.** The brains are drawn.") < text.index("| Method |")
    assert "ynthetic" not in _write(tmp_path, [*_FLOOR])


def test_baselines_stand_first(tmp_path):
    text = _write(tmp_path, [_row("madad", 0.7, 0.6), *_FLOOR])
    table = text[text.index("| Method |") :]
    assert table.index("| intensity |") < table.index("| mean_image |") < table.index("| madad |")


@pytest.mark.parametrize(
    ("ap", "dice", "words"),
    [
        (0.7, 0.6, "**madad beats every row that learns nothing:** AP 70.0 against 50.0 of "
                   "mean_image; pooled max Dice 60.0 against 55.0 of intensity."),
        (0.4, 0.6, "**madad does not beat what learns nothing:** AP 40.0 against 50.0 of "
                   "mean_image. (It is ahead in pooled max Dice 60.0 against 55.0 of intensity.)"),
        (0.4, 0.2, "**madad does not beat what learns nothing:** AP 40.0 against 50.0 of "
                   "mean_image; pooled max Dice 20.0 against 55.0 of intensity."),
        (0.5, 0.6, "**madad does not beat what learns nothing:** AP 50.0 against 50.0"),
        (None, None, "No lesion with a known outline was scored for madad."),
    ],
)  # fmt: skip
def test_verdict_in_words(tmp_path, ap, dice, words):
    assert words in _write(tmp_path, [*_FLOOR, _row("madad", ap, dice)])


def test_verdict_needs_a_baseline():
    assert report.verdicts([_row("madad", 0.7, 0.6)]) == []
    assert report.verdicts(_FLOOR) == []
    none = [_row("x", None, None, learns=False)]
    assert "could be scored beside it" in report.verdicts([*none, _row("madad", 0.7, 0.6)])[0]


@pytest.mark.parametrize(
    ("interval", "words"),
    [([0.1, 0.3], "[+10.0, +30.0] points)"), ([-0.01, 0.3], "which includes none at all")],
)
def test_verdict_tells_the_paired_interval(interval, words):
    row = _row("madad", 0.7, 0.6, difference={"to": "mean_image", "ap": interval})
    sentence = report.verdicts([*_FLOOR, row])[0]
    assert words in sentence
    assert ("not beyond chance" in sentence) == (interval[0] < 0)


def test_sections_kinds_sizes_oracle_seed_and_bounds(tmp_path):
    row = _row("madad", 0.7, 0.6, error_bounds={"ap": 2e-4, "auroc": 1e-6})
    other = {**row, "set": "ms"}
    text = _write(
        tmp_path, [*_FLOOR, row, other], config_summary={"preset": "paper"}, notes="By hand."
    )
    assert text.count("## Results: ") == 2 and "## Results: ms" in text
    assert "| dark | 3 | intensity | 30.0 | 55.0 |" in text
    sizes = text[text.index("### By size") :]
    assert sizes.index("| small |") < sizes.index("| large |")
    assert "† oracle: the threshold was chosen with the truth" in text
    assert "| preset | `paper` |" in text and "| seed | `7` |" in text
    assert "exact within 2.0e-04" in text
    assert "By hand." in text
    assert "4 slices of 2 subjects, 3 with a lesion; 1 healthy slices for false alarms" in text


def test_unknown_kinds_alone_make_no_table(tmp_path):
    row = _row("madad", 0.7, 0.6, by_kind={"unknown": {"n_slices": 3, "ap": 0.1}})
    assert "By kind" not in _write(tmp_path, [row])


def test_pictures_are_linked_relative_to_the_report(tmp_path):
    pictures = [tmp_path / "panels" / "a b.png"]
    curves = [tmp_path.parent / "curves.png"]
    text = _write(tmp_path, [], panels=pictures, curves=curves)
    assert "![a b](<panels/a b.png>)" in text
    assert "![curves](<../curves.png>)" in text


def test_results_are_replaced_not_doubled(tmp_path):
    path = tmp_path / "eval" / "results.jsonl"
    report.append_results(path, [_row("madad", 0.1, 0.1)])
    later, other_set = {"step": 20}, {"set": "ms"}
    rows = [_row("madad", 0.2, 0.1) | later, _row("madad", 0.3, 0.1) | other_set]
    report.append_results(path, rows)
    report.append_results(path, [_row("madad", np.float32(0.5), 0.1)])
    rows = report.read_results(path)
    assert [(r["set"], r["step"], r["ap"]) for r in rows] == [
        ("test", 20, 0.2), ("ms", 10, 0.3), ("test", 10, 0.5)
    ]  # fmt: skip
    assert os.listdir(path.parent) == ["results.jsonl"]


def test_id_names_a_row_whose_method_name_changes(tmp_path):
    path = tmp_path / "results.jsonl"
    for name in ("intensity (dark)", "intensity (bright)"):
        report.append_results(path, [{"id": "intensity", "method": name, "set": "test"}])
    assert [r["method"] for r in report.read_results(path)] == ["intensity (bright)"]


def test_nan_never_reaches_the_file(tmp_path):
    path = tmp_path / "results.jsonl"
    report.append_results(path, [{"method": "good"}])
    with pytest.raises(ValueError):
        report.append_results(path, [{"method": "bad", "ap": float("nan")}])
    assert [r["method"] for r in report.read_results(path)] == ["good"]


def test_damaged_results_name_the_line(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"method": "a"}) + "\n[1]\n")
    with pytest.raises(errors.UserError, match=r"results\.jsonl: found line 2 that is not"):
        report.append_results(path, [{"method": "b"}])
    assert path.read_text().endswith("[1]\n")
    assert report.read_results(tmp_path / "missing.jsonl") == []


@pytest.mark.parametrize("tail", [b'{"method": "b", "se', b"\xff", b'{"method"'])
def test_a_last_line_that_breaks_off_is_left_out_and_written_over(tmp_path, tail):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"method": "a"}\n' + tail)
    assert report.read_results(path) == [{"method": "a"}]
    report.append_results(path, [{"method": "b"}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"method": "a"},
        {"method": "b"},
    ]


def test_a_last_line_without_its_end_is_a_row_when_it_is_whole(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"method": "a"}\n{"method": "b"}')
    assert [row["method"] for row in report.read_results(path)] == ["a", "b"]


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match=r"report\.md. cannot be written"):
        report.write_report(tmp_path / "file" / "report.md", title="t", rows=[])


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[]", b"null", b"[" * 9999, b"{"])
def test_a_line_of_results_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"method": "a"}\n' + line + b"\n")
    with pytest.raises(errors.UserError, match="found line 2 that is not a JSON object") as caught:
        report.read_results(path)
    assert "\n" not in str(caught.value)


def test_a_row_of_another_kind_names_its_file(tmp_path):
    row = {"method": "a", "set": "test", "learns": True, "ap": "high"}
    with (
        pytest.raises(errors.UserError, match=r"results\.jsonl: a row is not as .* writes it"),
        report.explain_rows(tmp_path / "results.jsonl"),
    ):
        report.write_report(tmp_path / "report.md", title="x", rows=[row])

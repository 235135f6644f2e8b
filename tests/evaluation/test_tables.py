import csv
import io

from madad_jax.evaluation import tables

_ROWS = [
    {"method": "a|b_c 100%", "ap": 0.5, "auroc": None, "intervals": {"ap": [0.4, 0.62]}},
    {"method": "plain", "ap": 0.25, "auroc": 0.875, "n": 3, "th": 0.123456},
]
_COLUMNS = (
    tables.METHOD,
    tables.Column("ap", "AP"),
    tables.Column("auroc", "AUROC", better="low"),
    tables.Column("n", "N_x", "number", ""),
    tables.Column("th", "Threshold†", "number", ""),
)


def test_markdown():
    lines = tables.markdown(_ROWS, _COLUMNS).splitlines()
    assert lines == [
        "| Method | AP | AUROC | N_x | Threshold† |",
        "| --- | ---: | ---: | ---: | ---: |",
        r"| a\|b_c 100% | **50.0 [40.0, 62.0]** | — | — | — |",
        "| plain | 25.0 | 87.5 | 3 | 0.1235 |",
    ]


def test_low_can_be_better():
    column = (tables.Column("x", "X", better="low"),)
    lines = tables.markdown([{"x": 0.2}, {"x": 0.1}, {"x": None}], column).splitlines()
    assert lines[2:] == ["| 20.0 |", "| **10.0** |", "| — |"]


def test_csv_reads_back_in_full_precision():
    read = list(csv.reader(io.StringIO(tables.csv_text(_ROWS, _COLUMNS))))
    assert read[0] == ["method", "ap", "ap_low", "ap_high", "auroc", "n", "th"]
    assert read[1] == ["a|b_c 100%", "0.5", "0.4", "0.62", "", "", ""]
    assert read[2] == ["plain", "0.25", "", "", "0.875", "3", "0.123456"]


def test_latex_escapes_and_marks_the_best():
    text = tables.latex(_ROWS, _COLUMNS, caption="50% & more")
    assert r"a|b\_c 100\% & \textbf{50.0 [40.0, 62.0]} & -- & -- & -- \\" in text
    assert r"\caption{50\% \& more}" in text
    assert r"N\_x & Threshold\textsuperscript{$\dagger$} \\" in text
    assert r"\begin{tabular}{lrrrr}" in text


def test_groups_come_in_order_and_only_where_they_exist():
    rows = [
        {"method": "a", "by_size": {"large": {"ap": 0.1}, "small": {"ap": 0.2}}},
        {"method": "b", "by_size": {"small": {"ap": 0.3}}},
        {"method": "c"},
    ]
    got = [
        (r["group"], r["method"], r["ap"])
        for r in tables.group_rows(rows, "by_size", ("tiny", "small", "large"))
    ]
    assert got == [("small", "a", 0.2), ("small", "b", 0.3), ("large", "a", 0.1)]

"""The table and the page of a derived data set, from records that may be anything."""

import csv
import json
import re

import numpy as np
import pytest
from etils import epath

from madad_jax.bids import derivative, entities, group_table, index_page, raw_dataset
from tests.predict import browser

EVIL = "</script><script>document.body.dataset.stolen=1</script><img src=x onerror=alert(1)>"


def summary(score, percentile=50.0, volumes=(), warnings=(), region="left", settings="a" * 64):
    places = [{"volume_ml": v, "region": {"name": region}} for v in volumes]
    return {
        "scan_score": {"score": score, "percentile": percentile},
        "operating_point": {"threshold": 0.25},
        "candidates": places,
        "scan": {"brain_ml": 1400.0, "brain_scored": 0.9},
        "warnings": list(warnings),
        "settings_sha256": settings,
    }


def leave(out, stem, record, kind=derivative.SUMMARY):
    """Puts a record where the participant level would."""
    name = entities.parse(stem)
    path = derivative.record_path(epath.Path(out), name, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    if kind == derivative.SUMMARY:
        for made in (derivative.page_path(out, name), derivative.figure_path(out, name)):
            made.parent.mkdir(exist_ok=True)
            made.write_text("x")


def images(*stems):
    found = []
    for stem in stems:
        name = entities.parse(stem)
        below = f"{name.folder}/{stem}.nii.gz"
        found.append(raw_dataset.Image(name, epath.Path("/raw") / below, below))
    return found


@pytest.fixture
def out(tmp_path):
    """Three results, one failure, one image that nobody has tried."""
    out = epath.Path(tmp_path / "out & <b>")
    leave(out, "sub-01_ses-1_T1w", summary(0.2, 40.0, (2.5, 0.5), region="@sum(1)"))
    leave(out, "sub-02_T1w", summary(0.1234, 9.0, warnings=["=1+1 is odd", EVIL]))
    leave(out, "sub-10_T1w", summary(0.9, 100.0, (31.25,)))
    leave(out, "sub-03_T1w", {"message": f"'sub-03/anat/x.nii.gz' ended early {EVIL}"}, "failed")
    return out


STEMS = ("sub-01_ses-1_T1w", "sub-02_T1w", "sub-03_T1w", "sub-04_T1w", "sub-10_T1w")


def test_a_line_for_every_image(out):
    rows = group_table.collect_rows(out, images(*STEMS))
    path = group_table.write(out, rows, "T1w")
    read = list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))
    assert [row["status"] for row in read] == ["done", "done", "failed", "missing", "done"]
    first = read[0]
    assert (first["participant_id"], first["session_id"]) == ("sub-01", "ses-1")
    assert (first["score"], first["percentile"], first["candidates"]) == ("0.2", "40.0", "2")
    assert (first["candidates_ml"], first["largest_ml"]) == ("3.0", "2.5")
    assert first["warnings"] == "n/a" and first["settings"] == "a" * 12
    assert "ended early" in read[2]["reason"] and read[2]["score"] == "n/a"
    assert set(read[3].values()) == {"sub-04", "n/a", "sub-04_T1w", "missing"}
    # Nothing that a spreadsheet computes, and columns that are all explained.
    cells = [cell for row in read for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert first["largest_region"] == "'@sum(1)" and read[1]["warnings"].startswith("'=1+1")
    assert list(json.loads((out / "group_T1w.json").read_text())) == list(first)


def test_a_result_from_before_its_image_was_scored_with_another(out):
    leave(out, "sub-04_FLAIR", summary(0.5))
    found = images(*STEMS, "sub-04_FLAIR")
    joined = raw_dataset.join_sessions(found, ("T1", "FLAIR"))
    rows = {row["image"]: row for row in group_table.collect_rows(out, joined)}
    assert rows["sub-04_T1w"]["status"] == "missing"
    assert rows["sub-04_FLAIR"]["warnings"] == [
        "of before sub-04_T1w came, with which the image is scored now"
    ]


@pytest.mark.parametrize(
    "record",
    ["[]", "{", "{}", json.dumps(summary("high")), json.dumps(summary(float("nan"))),
     json.dumps({**summary(0.1), "candidates": 7})],
)  # fmt: skip
def test_a_record_that_somebody_changed_is_a_failed_line(out, record):
    leave(out, "sub-02_T1w", record)
    rows = group_table.collect_rows(out, images(*STEMS))
    assert rows[1]["status"] == "failed" and "is no record of this program" in rows[1]["reason"]
    assert group_table.to_tsv(rows).count("\n") == len(rows) + 1


def test_records_out_of_place_and_results_without_an_image(out, caplog):
    # Of another person than the folder's: its links would lead elsewhere.
    stray = out / "sub-01" / "ses-1" / "anat" / "sub-09_T1w_summary.json"
    stray.write_text(json.dumps(summary(0.5)))
    leave(out, "sub-05_T1w", summary(0.5, settings="b" * 64))
    rows = group_table.collect_rows(out, images(*STEMS))
    assert [row["image"] for row in rows] == sorted([*STEMS, "sub-05_T1w"])
    assert rows[4]["warnings"] == ["the image is not in the source data set any more"]
    assert "results of 2 different settings (aaaaaaaaaaaa, bbbbbbbbbbbb)" in caplog.text


def test_what_comes_from_records_stays_text(out):
    rows = group_table.collect_rows(out, images(*STEMS))
    text = index_page.render(out, rows, "T1", "group_T1w.tsv")
    assert "<script>document.body" not in text and "<img src=x" not in text
    assert len(re.findall("<script>", text)) == 1
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    links = re.findall(r'(?:src|href|data-picture)="([^"]*)"', outside)
    assert sorted(set(links)) == sorted(
        [
            "group_T1w.tsv",
            *(f"{stem}.html" for stem in (STEMS[0], STEMS[1], STEMS[4])),
            *(f"sub-{n}/figures/sub-{n}_{more}desc-candidates_T1w.png"
              for n, more in (("01", "ses-1_"), ("02", ""), ("10", ""))),
        ]
    )  # fmt: skip
    assert "not a medical device" in text


def shown(chrome):
    """Names of the images in the rows that are seen, in their order."""
    return chrome.evaluate(
        "[...document.querySelectorAll('#images tbody tr')].filter((r) => !r.hidden)"
        ".map((r) => r.cells[2].textContent)"
    )


def fill(chrome, selector, value):
    chrome.evaluate(
        f"(() => {{ const e = document.querySelector('{selector}'); e.value = '{value}';"
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


@pytest.mark.skipif(browser.path() is None, reason="needs Chromium")
def test_sorted_and_filtered_in_a_browser(out, tmp_path):
    rows = group_table.collect_rows(out, images(*STEMS))
    group_table.write(out, rows, "T1w")
    index_page.write(out, rows, "T1", "group_T1w.tsv")
    from PIL import Image

    figure = derivative.figure_path(out, entities.parse(STEMS[0]))
    Image.fromarray(np.full((60, 80), 128, np.uint8)).save(str(figure))
    with browser.Browser(tmp_path / "profile", webgl=False) as chrome:
        chrome.open((out / "index.html").as_uri())
        assert shown(chrome) == list(STEMS)
        head = "#images th:nth-child({}) button"
        chrome.click(head.format(5))  # by score: what has none comes last, whichever way
        assert shown(chrome) == [STEMS[1], STEMS[0], STEMS[4], STEMS[2], STEMS[3]]
        chrome.click(head.format(5))
        assert shown(chrome) == [STEMS[4], STEMS[0], STEMS[1], STEMS[2], STEMS[3]]
        sorts = "[...document.querySelectorAll('#images thead th')].map((h) => h.ariaSort)"
        assert chrome.evaluate(sorts)[4] == "descending"
        chrome.evaluate("document.querySelector('#images th:nth-child(1) button').focus()")
        chrome.press("Enter")
        assert shown(chrome) == list(STEMS), "10 after 2"
        fill(chrome, "#find", "SUB-0 ended")
        assert shown(chrome) == ["sub-03_T1w"] and chrome.text("#count") == "1 of 5 shown"
        chrome.click("button[type=reset]")
        chrome.wait("document.querySelector('#count').textContent === '5 of 5 shown'")
        fill(chrome, "#status", "done")
        fill(chrome, "#least", "40")
        assert shown(chrome) == ["sub-01_ses-1_T1w", "sub-10_T1w"]
        chrome.click("#images tbody tr td")
        loaded = "document.querySelector('#preview img').naturalWidth === 80"
        assert chrome.wait(loaded) and chrome.text("figcaption") == STEMS[0]
        asked = [e["params"]["request"]["url"].partition(":")[0] for e in chrome.events
                 if e.get("method") == "Network.requestWillBeSent"]  # fmt: skip
        assert set(asked) <= {"file", "about"}
        assert not [e for e in chrome.events if e.get("method") == "Runtime.exceptionThrown"]
        assert chrome.evaluate("document.body.dataset.stolen") is None

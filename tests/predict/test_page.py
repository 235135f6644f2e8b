import base64
import dataclasses
import gzip
import json
import pathlib
import re

import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.predict import page
from tests.predict import browser

EVIL = "</script><script>document.body.dataset.stolen=1</script><img src=x onerror=alert(1)>.nii"


def _data(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found[1])


def _volume(packed):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed)))


def test_holds_scan_and_map_in_their_place(result):
    data = _data(page.render(result))
    scan, shown = _volume(data["scan"]), _volume(data["map"])
    assert scan.shape == shown.shape and data["threshold"] < data["slider_max"] <= 1.0
    np.testing.assert_array_equal(scan.affine, shown.affine)
    # A voxel of the page lies where its voxel of the scan does, with the map's value.
    at = np.array(result.candidates[0]["voxel"])
    mm = nib.affines.apply_affine(result.volume.affine, at)
    there = nib.affines.apply_affine(np.linalg.inv(scan.affine), mm).round().astype(int)
    value = np.asarray(shown.dataobj)[tuple(there)]
    assert value == pytest.approx(result.anomaly[tuple(at)], abs=1 / 255)
    button = re.search(r'data-voxel="\[(.*?)\]"', page.render(result))[1]
    np.testing.assert_array_equal([int(v) for v in button.split(",")], there)


def test_one_file_without_network(result):
    text = page.render(result)
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.search(r'(src|href)="(?!data:|#)', outside)
    assert "not a medical device" in outside and "Niivue" in outside
    assert len(text) < 12e6


def test_a_name_from_a_stranger_stays_text(result):
    summary = json.loads(json.dumps(result.summary))
    summary["scan"]["source"] = "/tmp/" + EVIL
    summary["warnings"] = [EVIL, "@@data@@"]
    summary["candidates"][0]["region"]["name"] = EVIL
    text = page.render(dataclasses.replace(result, summary=summary))
    assert "<script>document.body.dataset.stolen" not in text and "<img src=x" not in text
    assert text.count("@@data@@") == 1, "what is put in is not looked at for marks"


def test_says_what_is_missing_without_nilearns_viewer():
    with pytest.raises(errors.UserError, match=r"nilearn>=0\.14"):
        page.read_niivue(("_assets", "js", "gone.js"))


def test_large_scans_are_thinned_for_the_page():
    data = np.zeros((600, 500, 100), np.uint8)
    data[20:580, 20:480, 20:80] = 1
    window = page._window(data)
    assert data[window].size <= 12_000_000 and [s.start for s in window] == [12, 12, 12]


needs_browser = pytest.mark.skipif(browser.path() is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "a name with spaces & <b>"
    result.save(folder)
    return (folder / "report.html").as_uri()


@needs_browser
def test_viewer_is_driven_by_mouse_and_keyboard(written, result, tmp_path):
    with browser.Browser(tmp_path / "profile") as chrome:
        assert chrome.open(written) == "viewer", "WebGL did not start"
        asked = [e["params"]["request"]["url"][:5] for e in chrome.events
                 if e.get("method") == "Network.requestWillBeSent"]  # fmt: skip
        assert not [url for url in asked if url not in ("file:", "data:", "blob:", "about")]
        threshold = float(chrome.evaluate("document.querySelector('#threshold').value"))
        point = result.summary["operating_point"]["threshold"]
        assert threshold == pytest.approx(point, abs=1e-3)
        # The first candidate is shown at once: the crosshair stands inside the lesion.
        assert "above the threshold" in chrome.wait("document.querySelector('#place').innerText")
        _sliders(chrome, threshold)
        _list(chrome, result)
        _canvas(chrome)
        wrong = [e for e in chrome.events if e.get("method") == "Runtime.exceptionThrown"]
        assert not wrong
        (tmp_path / "page.png").write_bytes(chrome.picture())


def _sliders(chrome, threshold):
    chrome.evaluate("document.querySelector('#threshold').focus()")
    chrome.press("End")
    assert "below the threshold" not in chrome.text("#meaning")
    assert chrome.evaluate("report.volumes[1].cal_min") > threshold
    said = chrome.text("#meaning")
    chrome.press("Home")
    assert chrome.evaluate("report.volumes[1].cal_min") < threshold
    assert chrome.text("#meaning") != said and "Healthy scans above" in said
    chrome.press("ArrowRight", 5)
    assert float(chrome.text("#threshold-value")) == pytest.approx(0.005)
    chrome.click("#reset")
    assert float(chrome.text("#threshold-value")) == pytest.approx(threshold, abs=1e-3)
    chrome.evaluate("document.querySelector('#opacity').focus()")
    chrome.press("ArrowLeft", 2)
    assert chrome.text("#opacity-value") == "50 %"
    assert chrome.evaluate("report.volumes[1].opacity") == pytest.approx(0.5)
    chrome.click("label[for=outline]")
    assert chrome.evaluate("report.overlayOutlineWidth") == 0
    chrome.click("label[for=mirror]")
    assert chrome.evaluate("report.opts.isRadiologicalConvention") is True
    assert "left is on the right" in " ".join(chrome.text("#keys").split())


def _list(chrome, result):
    count = chrome.evaluate("document.querySelectorAll('ol.places button').length")
    assert count == len(result.candidates) >= 1
    chrome.evaluate("report.moveCrosshairInVox(40, 0, 0)")
    chrome.evaluate("document.querySelector('ol.places button').focus()")
    chrome.press("Enter")
    x, y, z = result.candidates[0]["centre_mm"]
    said = chrome.text("#place")
    assert f"{x:.0f}, {y:.0f}, {z:.0f} mm" in said and "above the threshold" in said
    assert chrome.evaluate("document.querySelector('[aria-current]').innerText").startswith("1")


def _canvas(chrome):
    chrome.evaluate("document.querySelector('#viewer').focus()")
    before = chrome.evaluate("[...report.frac2vox(report.scene.crosshairPos)]")
    chrome.press("ArrowLeft", 2)
    chrome.press("PageUp", 3)
    after = chrome.evaluate("[...report.frac2vox(report.scene.crosshairPos)]")
    assert [b - a for a, b in zip(before, after, strict=True)] == [-2, 0, 3]
    # Every control can be reached with Tab alone.
    chrome.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = set()
    for _ in range(14):
        chrome.press("Tab")
        reached.add(chrome.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"viewer", "threshold", "reset", "opacity", "outline", "mirror", "BUTTON"} <= reached


@needs_browser
def test_without_webgl_the_pictures_open(written, tmp_path):
    with browser.Browser(tmp_path / "profile", webgl=False) as chrome:
        assert chrome.open(written) == "pictures"
        assert "use the pictures" in chrome.text("#no-viewer")
        assert chrome.evaluate("document.querySelector('#pictures img').naturalWidth") > 500


@needs_browser
def test_a_script_in_a_file_name_does_not_run(result, tmp_path):
    summary = json.loads(json.dumps(result.summary))
    summary["scan"]["source"] = "/tmp/" + EVIL
    summary["warnings"] = [EVIL]
    file = tmp_path / "report.html"
    file.write_text(page.render(dataclasses.replace(result, summary=summary)))
    with browser.Browser(tmp_path / "profile") as chrome:
        chrome.open(file.as_uri())
        assert chrome.evaluate("document.body.dataset.stolen") is None
        assert "alert(1)" in chrome.text("h1") and EVIL in chrome.text("main ul")


def test_licence_is_the_viewers():
    """The page carries the notice that its licence asks for."""
    text = pathlib.Path(page.__file__).with_name("assets") / "niivue_license.txt"
    assert "Copyright (c) 2021, Niivue" in text.read_text()


def test_the_page_says_what_a_scan_to_come_has():
    expected = {
        "healthy_scans": 20, "voxel_fpr": 0.01, "voxel_fpr_interval": None, "next_scan": None,
        "false_positives_per_scan": 2.0, "false_positives_per_scan_interval": (1.2, 3.4),
    }  # fmt: skip
    point = {"threshold": 0.25, "chosen_by": "false_positives_per_scan", "asked": 2.0}
    text = page._point(point | {"expected_on_healthy_scans": expected})
    assert text.endswith("in 2.00 places a scan [1.20 to 3.40].")
    expected["next_scan"] = {"false_positives_at_most": 5, "chance": 0.9}
    text = page._point(point | {"expected_on_healthy_scans": expected})
    assert text.endswith("; a healthy scan to come has at most 5 of them at a chance of 90%.")

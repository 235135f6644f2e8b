"""The call on a GPU: its parts are bounded, its table always comes, its packages are named."""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import pytest

from benchmarks.gpu import __main__ as driver
from benchmarks.gpu import part as part_lib

FOLDER = pathlib.Path(driver.__file__).parent


def _row(part, name, **figures):
    return json.dumps({"part": part, "name": name, "figures": figures, "note": "said"}) + "\n"


def test_rows_of_a_part_that_was_killed_are_in_the_table(tmp_path):
    (tmp_path / "rows-steps.jsonl").write_text(_row("steps", "dit", a="1") + '{"part": "st')
    (tmp_path / "rows-maps.jsonl").write_text(_row("maps", "unet", b="2"))
    text = driver.table(driver.read_rows(tmp_path), {"steps": "stopped after its 3 s"}, dry=True)
    assert "| dit | 1 | said |" in text and "| unet | 2 | said |" in text
    assert "- steps: stopped after its 3 s" in text and "its figures mean nothing" in text


@pytest.mark.parametrize(
    "code,said", [("import time; time.sleep(60)", "stopped"), ("1/0", "ended")]
)
def test_a_part_ends_in_its_time_with_what_it_started(tmp_path, monkeypatch, code, said):
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda words, **more: popen([sys.executable, "-c", code], **more)
    )
    options = argparse.Namespace(out=tmp_path, dry=True)
    began = time.monotonic()
    assert driver.run("steps", options, 2.0).startswith(said)
    assert time.monotonic() - began < 20


def test_a_failure_is_a_row_and_the_next_goes_on(tmp_path):
    record = part_lib.Recorder("steps", tmp_path, 100.0, dry=False)

    def fail():
        raise ValueError("no kernel | here")

    record.attempt("first", 1.0, fail)
    record.attempt("long", 1000.0, lambda: pytest.fail("there is no time for it"))
    record.attempt("second", 1.0, lambda: record.add("second", {"a": 1}))
    first, long, second = driver.read_rows(tmp_path)
    assert first["note"] == "failed: ValueError: no kernel / here"
    assert long["note"].startswith("left out") and second["figures"] == {"a": 1}


READERS = """
import importlib.util
import sys

found, installed = importlib.util.find_spec, ()
from benchmarks.gpu import part

importlib.util.find_spec = lambda name, *rest: None if name in part._READERS else found(name, *rest)


class Hidden:
    def find_spec(self, name, *unused):
        if name.partition(".")[0] in part._READERS:
            return finder.find_spec(name)


assert part.stand_in_for_readers() == list(part._READERS)
finder = sys.meta_path[-1]
sys.meta_path.insert(0, Hidden())  # before those that are installed here
import benchmarks.gpu.steps, benchmarks.gpu.maps, benchmarks.gpu.agreement, benchmarks.gpu.sibling
import cv2

try:
    cv2.imread("slice.png")
except ImportError as error:
    print(error)
"""


def test_the_parts_are_imported_without_readers():
    """On a machine where nothing but jax, torch, flax, optax, orbax and a few wheels is there."""
    said = subprocess.check_output(
        [sys.executable, "-c", READERS], text=True, cwd=FOLDER.parents[1]
    )
    assert said.startswith("cv2.imread is not installed here")


def test_wheels_are_named_and_the_scripts_are_whole():
    listed = subprocess.check_output(["bash", str(FOLDER / "wheels.sh"), "--list"], text=True)
    assert {"ml-collections", "jaxtyping", "tqdm", "monai", "diffusers"} <= set(listed.split())
    for script in ("run.sh", "wheels.sh"):
        subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)


def test_the_parts_fit_into_eight_minutes():
    assert all((FOLDER / f"{part}.py").exists() for part in driver.PARTS)
    done = subprocess.run(
        ["bash", str(FOLDER / "run.sh")], env={"PATH": "/usr/bin:/bin"}, capture_output=True
    )
    assert done.returncode != 0 and b"OUT" in done.stderr
    assert "SECONDS_LIMIT:-450" in (FOLDER / "run.sh").read_text()

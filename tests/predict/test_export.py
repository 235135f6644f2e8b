import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from madad_jax.predict import api, export

ROOT = pathlib.Path(__file__).parents[2]
ALONE = """
import sys
sys.path.insert(0, {folder!r})
import run
import numpy as np
given = np.load({slices!r})
np.savez({maps!r}, **run.predict(given["image"], given["brain_mask"], batch_size=3))
assert not [m for m in sys.modules if m.split(".")[0] in ("madad_jax", "flax")]
"""


@pytest.fixture(scope="module")
def exported(untrained):
    """By the command, in its own process: the shape checks of tests know no free batch size."""
    out = untrained / "export"
    flags = ["--mode=export", "--config=configs/demo.py", f"--workdir={untrained}"]
    done = subprocess.run(
        [sys.executable, "-m", "madad_jax.main", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return api.open_run(str(untrained), ""), out, done.stdout


def test_predicts_the_same_without_this_package(exported, tmp_path):
    model, out, said = exported
    assert "detector-tpu.jaxexport" in said
    rng = np.random.default_rng(0)
    brain = np.zeros((5, 32, 32), bool)
    brain[:, 6:26, 8:24] = True
    image = (rng.random((5, 32, 32)) * brain).astype(np.float32)
    np.savez(tmp_path / "slices.npz", image=image, brain_mask=brain)
    code = ALONE.format(
        folder=str(out), slices=str(tmp_path / "slices.npz"), maps=str(tmp_path / "maps.npz")
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "maps.npz") as maps:
        for number, start in enumerate((0, 3)):
            part = slice(start, start + 3)
            rows = np.resize(np.arange(5)[part], model.shards)  # as many as divide over devices
            batch = {"image": image[rows][..., None] * 2 - 1, "brain_mask": brain[rows]}
            ours = model.scorer(number, batch)
            for name in export.OUTPUTS:
                theirs = maps[name][part]
                assert np.abs(ours[name][: len(theirs)] - theirs).max() < 1e-5, name
        assert maps["map"].max() > 0, "nothing to compare"


def test_says_how_to_cut_slices(exported):
    _, out, _ = exported
    about = json.loads((out / "model.json").read_text())
    assert about["preparation"]["geometry"]["field_of_view"] == 208.0
    assert set(about["files"]) == {"cpu", "cuda", "tpu"} and about["image_size"] == 32
    assert "not a medical device" in about["note"]

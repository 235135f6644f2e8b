"""The example scan, what the demo says of it, and the demo's two steps without a training."""

import dataclasses
import hashlib
import sys

import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors, shipped_configs
from madad_jax.predict import __main__ as predict
from madad_jax.predict import example, first_steps, model_names
from madad_jax.scans import volumes
from tests import holder

# As painted by the command in example_scan/README.md; the issue allows 0.6 MB.
DIGESTS = {
    "painted_t1.nii.gz": "3b7926b0363dfd98198b639a3ca65862bec418c0b68d6ca11a313485ff274ca1",
    "painted_t1_lesion.nii.gz": "aa679f156493436e08b144256b960f8c5f0245aa4ff6ac7fead6446f80a75172",
}


def painted():
    return nib.as_closest_canonical(nib.load(example.lesion_path())).get_fdata() > 0


@pytest.fixture
def detector(result):
    """A stand-in that finds the lower half of the lesion, and one voxel of a corner."""

    def judge(scan):
        volume = volumes.read(scan)
        labels = painted().astype(np.int32)
        middle = int(np.median(np.argwhere(labels)[:, 2]))
        labels[:, :, middle:] = 0
        listed = [{**result.candidates[0], "number": 1, "volume_ml": 0.008 * int(labels.sum())}]
        labels[0, 0, 0] = 2
        listed.append({**listed[0], "number": 2, "volume_ml": 0.008})
        return dataclasses.replace(
            result,
            volume=volume,
            anomaly=np.float32(0.9) * (labels > 0),
            labels=labels,
            reconstruction=volume.data,
            summary={**result.summary, "candidates": listed},
        )

    return judge


class Training:
    """A stand-in for the training: what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, config, workdir):
        self.asked.append((config, workdir))
        return 3


@pytest.fixture
def training():
    return Training()


def run(training, *flags, load, **changes):
    return first_steps.run(["demo", *map(str, flags)], load, training, **changes)


def test_the_scan_is_the_one_that_was_painted():
    assert example.path().parent == example.lesion_path().parent == example.FOLDER
    for path in (example.path(), example.lesion_path()):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == DIGESTS[path.name]
    assert sum(path.stat().st_size for path in example.FOLDER.iterdir()) < 0.6e6
    scan, lesion = (nib.load(path) for path in (example.path(), example.lesion_path()))
    assert scan.shape == lesion.shape and np.allclose(scan.affine, lesion.affine)
    assert set(np.unique(lesion.dataobj)) == {0, 1}


def test_the_scan_is_no_model(monkeypatch):
    monkeypatch.setattr(model_names, "FOLDER", example.FOLDER.parent)
    assert example.FOLDER.name not in model_names.shipped()


def test_licence_and_origin_stand_beside_the_scan():
    for name in ("LICENSE", "README.md"):
        text = (example.FOLDER / name).read_text()
        assert "CC BY-SA 3.0" in text and "brain-development.org" in text and "IXI610" in text
    assert "no patient" in (example.FOLDER / "README.md").read_text()


def compare(placed):
    """The comparison of a line of 10 voxels of 0.5 ml, painted in 2 to 5, with labels there."""
    labels, painted = np.zeros((10, 1, 1), np.int32), np.zeros((10, 1, 1), bool)
    painted[2:6] = True
    for number, place in placed.items():
        labels[place] = number
    listed = [{"number": n, "volume_ml": 0.5 * (labels == n).sum()} for n in placed]
    return example.compare(labels, listed, painted, 0.5)


@pytest.mark.parametrize(
    ("placed", "covered", "sentence"),
    [
        (
            {1: slice(3, 8), 2: slice(9, 10)},
            0.75,
            "1 candidate (2.5 ml) overlaps the painted lesion of 2.0 ml and covers 75 % of it; 1 "
            "candidate (0.5 ml) elsewhere",
        ),
        (
            {1: slice(0, 3), 2: slice(5, 6)},
            0.5,
            "2 candidates (2.0 ml) overlap the painted lesion of 2.0 ml and cover 50 % of it; no "
            "candidates elsewhere",
        ),
        (
            {1: slice(6, 8), 2: slice(9, 10)},
            0.0,
            "No candidate overlaps the painted lesion of 2.0 ml: 2 candidates (1.5 ml) elsewhere",
        ),
        ({}, 0.0, "No candidate overlaps the painted lesion of 2.0 ml: no candidates elsewhere"),
    ],
)
def test_what_was_found_is_held_against_what_was_painted(placed, covered, sentence):
    found = compare(placed)
    assert found.covered == covered and str(found) == sentence


def test_scores_the_example_then_trains(detector, training, tmp_path, capsys):
    out = tmp_path / "demo"
    assert run(training, f"--out={out}", load=lambda: detector) == 3, "the training's status"
    assert training.asked == [(str(shipped_configs.folder() / "demo.py"), str(out))]
    names = {path.name for path in (out / "example").iterdir()}
    assert {"anomaly.nii.gz", "anomaly_mask.nii.gz", "summary.json", "report.html"} <= names
    said = capsys.readouterr().out
    assert str(out / "example" / "report.html") in said and "not a medical device" in said
    # The sentence against the files.
    mask = nib.as_closest_canonical(nib.load(out / "example" / "anomaly_mask.nii.gz"))
    over = (mask.get_fdata() > 0)[painted()]
    assert 0.3 < over.mean() < 0.6, "a half that the stand-in found"
    assert said.splitlines()[0] == (
        f"The example scan: 1 candidate ({0.008 * over.sum():.1f} ml) overlaps the painted lesion "
        f"of 13.1 ml and covers {100 * over.mean():.0f} % of it; 1 candidate (0.0 ml) elsewhere."
    )


def test_the_example_alone(detector, training, tmp_path):
    assert run(training, f"--out={tmp_path}", "--example_only", load=lambda: detector) == 0
    assert training.asked == [] and (tmp_path / "example" / "report.html").exists()


def test_without_a_model_it_trains_all_the_same(training, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(model_names, "FOLDER", tmp_path / "nothing")
    assert run(training, f"--out={tmp_path / 'out'}", load=first_steps.load_detector) == 3
    assert len(training.asked) == 1 and not (tmp_path / "out").exists()
    assert capsys.readouterr().out == (
        "No model ixi-t1 comes with this version: no example is scored.\n"
    )


def test_without_the_experiment_it_ends_after_the_example(training, tmp_path, capsys):
    missing = tmp_path / "demo.py"
    assert run(training, f"--out={tmp_path}", load=lambda: None, config=missing) == 0
    assert training.asked == [] and f"{missing}: no such file" in capsys.readouterr().out


def test_a_folder_that_another_process_writes_is_refused(detector, training, tmp_path):
    with (
        holder.held(tmp_path / "example") as first,
        pytest.raises(errors.UserError, match=f"--out=.*: process {first.pid} on "),
    ):
        run(training, f"--out={tmp_path}", load=lambda: detector)
    assert training.asked == []


def test_the_training_is_the_plain_command(monkeypatch):
    """`exec` with the words of `python -m madad_jax.main`: never comes back."""

    class Gone(Exception):
        pass

    def become(program, words):
        raise Gone(program, *words)

    monkeypatch.setattr(first_steps.os, "execv", become)
    with pytest.raises(Gone) as gone:
        first_steps.train("configs/demo.py", "runs/demo")
    flags = ("--config=configs/demo.py", "--workdir=runs/demo")
    assert gone.value.args == (sys.executable, sys.executable, "-m", "madad_jax.main", *flags)


def test_predict_takes_the_example_in_place_of_a_scan(tmp_path, monkeypatch):
    def flags(*more):
        common = ("--checkpoint=./x", f"--output={tmp_path}", "--threshold=0.5")
        return ["predict", *common, "--example", *more]

    given = []
    monkeypatch.setattr(predict, "_predict", lambda options, stopped: given.append(options) or 0)
    assert predict.run(flags()) == 0 and given[0].input == str(example.path())
    with pytest.raises(errors.UserError, match="--example: found with --input=x"):
        predict.run(flags("--input=x"))
    with pytest.raises(errors.UserError, match="--example: found with --mode=calibrate"):
        predict.run(flags("--mode=calibrate"))

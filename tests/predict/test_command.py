"""The command itself, on a run whose networks were never trained."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import calibration
from madad_jax.predict import __main__, api, result
from tests import holder
from tests.predict import conftest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    image, _, affine = conftest.brain_scan()
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), path)
    return path


def _run(*flags):
    return __main__.run(["predict", *(str(f) for f in flags)])


def test_calibrates_then_predicts_at_the_rate(untrained, scan, tmp_path, capsys):
    """From healthy scans of one's own to a map, through the command alone."""
    healthy = tmp_path / "healthy"
    healthy.mkdir()
    for seed in range(2):
        image, _, affine = conftest.brain_scan(lesion=False, seed=seed)
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), healthy / f"{seed}.nii.gz")
    common = (f"--checkpoint={untrained}", "--batch_size=8")
    site = tmp_path / "site.npz"
    with pytest.raises(errors.UserError, match="--mode=calibrate"):
        _run(*common, f"--input={scan}", f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    assert _run(*common, "--mode=calibrate", f"--input={healthy}", f"--output={site}") == 0
    rate = ("--voxel_fpr=0.02", f"--calibration={site}", f"--output={tmp_path / 'out'}")
    assert _run(*common, f"--input={scan}", *rate, "--report=false") == 0
    said = capsys.readouterr().out
    assert "2 healthy scans" in said and "1 of 1 scans" in said and "not a medical" in said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    expected = summary["operating_point"]["expected_on_healthy_scans"]
    assert 0.01 < expected["voxel_fpr"] <= 0.02 and expected["healthy_scans"] == 2
    assert summary["model"]["calibrated_on"] == "2 healthy scans given by the user"
    with pytest.raises(errors.UserError, match="slices: found 4:8:2, but the calibration"):
        api.load(str(untrained), calibration=str(site), slices="4:8:2")
    # Weights that were trained on since are not those that were calibrated.
    other = tmp_path / "other"
    shutil.copytree(untrained, other)
    shutil.rmtree(other / "denoiser")
    shutil.copytree(untrained / "denoiser", other / "denoiser")
    (other / "latents" / "complete.json").write_text("{}")
    with pytest.raises(errors.UserError, match="scaling factor"):
        api.load(str(other), calibration=str(site))


def test_a_segmentation_is_none_of_the_healthy_scans(untrained, tmp_path, caplog):
    """BIDS as it lies there: T1w and FLAIR, a mask beside them, results below derivatives/."""
    for seed in range(2):
        image, _, affine = conftest.brain_scan(lesion=False, seed=seed)
        scan = nib.Nifti1Image(image.astype(np.int16), affine)
        labels = nib.Nifti1Image((image / 400).astype(np.uint8), affine)
        base = tmp_path / "bids" / f"sub-{seed}" / "anat"
        derived = tmp_path / "bids" / "derivatives" / "seg" / f"sub-{seed}" / "anat"
        for folder in (base, derived):
            folder.mkdir(parents=True)
            nib.save(labels, folder / f"sub-{seed}_dseg.nii.gz")
        nib.save(scan, base / f"sub-{seed}_T1w.nii.gz")
        nib.save(scan, base / f"sub-{seed}_FLAIR.nii.gz")
    flags = [f"--checkpoint={untrained}", "--mode=calibrate", f"--input={tmp_path / 'bids'}"]
    site = tmp_path / "site.npz"
    assert _run(*flags, f"--output={site}") == 0
    assert calibration.from_bytes(site.read_bytes(), str(site)).facts["source"].startswith("2 ")
    said = "\n".join(caplog.messages)
    assert "2 ('sub-0_dseg.nii.gz', 'sub-1_dseg.nii.gz')" in said and "derivatives" in said
    assert "another contrast than T1: 2 ('sub-0_FLAIR.nii.gz', 'sub-1_FLAIR.nii.gz')" in said


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--treshold=0.1"], "treshold"),
        (["--threshold=high"], "threshold"),
        (["--mode=predcit"], "predict"),
        (["scan.nii"], "unexpected argument"),
        ([], "--output is missing"),
        (["--checkpoint=x", "--output=y"], "--input is missing"),
        (["--checkpoint=/no/run", "--input={scan}", "--output=y"], "no such folder"),
        (["--checkpoint=./x", "--input=/no/scan", "--output=y"], "/no/scan"),
        (["--checkpoint={run}", "--input={scan}", "--output=y", "--slices=9:1:1"], "first:last"),
        (["--checkpoint={run}", "--input={scan}", "--output=y", "--calibration=/no"], "/no"),
        (["--checkpoint={run}", "--input={scan}", "--output=y", "--mode=calibrate"], ".npz"),
    ],
)
def test_one_line_for_what_the_user_can_mend(untrained, scan, flags, message):
    given = [f.format(run=untrained, scan=scan) for f in flags]
    if any(f.startswith("--slices") for f in given):
        given.append("--threshold=0.5")
    with pytest.raises(errors.UserError, match=message) as caught:
        _run(*given)
    assert "\n" not in str(caught.value)


def test_a_run_that_does_not_say_where_its_slices_lie(untrained, tmp_path):
    shutil.copytree(untrained, tmp_path / "run")
    (tmp_path / "run" / "preparation.json").unlink()
    with pytest.raises(errors.UserError, match="where its training slices lie"):
        api.load(str(tmp_path / "run"), threshold=0.5)


def test_a_second_prediction_into_the_same_folder_is_refused(untrained, scan, tmp_path):
    flags = [f"--checkpoint={untrained}", f"--input={scan}", f"--output={tmp_path / 'out'}"]
    with (
        holder.held(tmp_path / "out") as first,
        pytest.raises(errors.UserError, match=f"--output=.*: process {first.pid} on "),
    ):
        _run(*flags, "--threshold=0.5")
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_sigterm_ends_after_the_scan_in_work_and_the_same_command_goes_on(
    untrained, scan, tmp_path, monkeypatch
):
    (tmp_path / "in").mkdir()
    for k in range(2):
        shutil.copy(scan, tmp_path / "in" / f"{k}.nii.gz")
    start_over = result.start_over

    def stop_there(folder):
        os.kill(os.getpid(), signal.SIGTERM)
        start_over(folder)

    monkeypatch.setattr(result, "start_over", stop_there)
    flags = [f"--checkpoint={untrained}", f"--input={tmp_path / 'in'}", "--threshold=0.5"]
    assert _run(*flags, f"--output={tmp_path / 'out'}", "--batch_size=8") == 143
    assert len((tmp_path / "out" / "scans.csv").read_text().splitlines()) == 2
    monkeypatch.undo()
    assert _run(*flags, f"--output={tmp_path / 'out'}", "--batch_size=8") == 0
    rows = (tmp_path / "out" / "scans.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[1].startswith("0,done before,")
    assert not (tmp_path / "out" / ".lock").exists()


def test_status_and_line_of_the_process():
    done = subprocess.run(
        [sys.executable, "-m", "madad_jax.predict", "--checkpoint=/no/run", "--input=x"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "madad_jax predict: error: --output is missing; see --help\n"


@pytest.mark.slow
def test_killed_in_the_middle_leaves_whole_files_and_goes_on(untrained, scan, tmp_path):
    """SIGKILL while files of a scan are being written; then the same command again."""
    scans, out = tmp_path / "in", tmp_path / "out"
    scans.mkdir()
    for i in range(4):
        shutil.copy(scan, scans / f"{i}.nii.gz")
    flags = [f"--checkpoint={untrained}", f"--input={scans}", f"--output={out}"]
    command = [sys.executable, "-m", "madad_jax.predict", *flags, "--threshold=0.01"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole = ("anomaly.nii.gz", "anomaly_mask.nii.gz", "reconstruction.nii.gz")
    for kill in range(3):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, **quiet)
        # Somewhere inside the writing of the next scan that is not there yet.
        while process.poll() is None and not (out / f"{kill}" / whole[kill]).exists():
            time.sleep(0.01)
        process.kill()
        process.wait()
        for path in out.rglob("*.nii.gz"):
            assert np.isfinite(nib.load(path).get_fdata()).all(), path
        for path in out.rglob("*.json"):
            json.loads(path.read_text())
            assert all((path.parent / name).exists() for name in whole), "summary comes last"
    assert subprocess.run(command, cwd=ROOT, env=environment, **quiet).returncode == 0
    assert len(list(out.glob("*/summary.json"))) == 4 and not list(out.rglob("*.new"))
    assert (out / "scans.csv").read_text().count("\n") == 5

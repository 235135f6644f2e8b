"""A BIDS tree with what such trees have, a detector without weights, and the validator's answer."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from madad_jax.bids import validator
from madad_jax.metrics import calibration, scan_stacks
from madad_jax.predict import detector
from tests.predict import conftest as predict_conftest

# (name below the tree, whether it is a T1w that can be scored)
SMALL = (
    "sub-01/ses-1/anat/sub-01_ses-1_T1w",
    "sub-01/ses-2/anat/sub-01_ses-2_T1w",
    "sub-02/ses-1/anat/sub-02_ses-1_acq-fast_run-1_T1w",
    "sub-02/ses-1/anat/sub-02_ses-1_acq-fast_run-2_T1w",
)
BROKEN = "sub-03/ses-1/anat/sub-03_ses-1_T1w"
FLAIR = "sub-01/ses-1/anat/sub-01_ses-1_FLAIR"


def small_scan(seed):
    """A brain of 4 mm voxels with a lesion whose size depends on the seed."""
    image, _, affine = predict_conftest.brain_scan(seed=seed, radius=8.0 + seed % 5)
    return image[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0])


def save(path, seed):
    """Writes a scan as a BIDS converter does: 16 bits, mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image, affine = small_scan(seed)
    made = nib.Nifti1Image(image.astype(np.int16), affine)
    made.header.set_xyzt_units("mm", "sec")
    nib.save(made, path)


def write_description(root, **more):
    root.mkdir(parents=True, exist_ok=True)
    about = {"Name": "A tree", "BIDSVersion": "1.10.0", "DatasetType": "raw", "License": "CC0"}
    about |= {"Authors": ["One", "Two"], **more}
    (root / "dataset_description.json").write_text(json.dumps(about))
    (root / "README").write_text("A tree for tests. " * 12)


def write_tree(root, names=SMALL, broken=BROKEN):
    """Scans, one broken file, a FLAIR, and derivatives that hold a mask and a T1w."""
    write_description(root)
    for seed, name in enumerate((*names, FLAIR)):
        save(root / f"{name}.nii.gz", seed)
    bad = root / f"{broken}.nii.gz"
    bad.parent.mkdir(parents=True, exist_ok=True)
    whole = (root / f"{names[0]}.nii.gz").read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    seg = root / "derivatives" / "seg"
    write_description(seg, DatasetType="derivative", GeneratedBy=[{"Name": "seg"}])
    save(seg / f"{names[0]}.nii.gz", 0)
    save(seg / f"{names[0].removesuffix('_T1w')}_desc-brain_mask.nii.gz", 0)
    return root


def make_detector(threshold=0.3, modality="T1"):
    """Through the stand-in scorer; the run has a folder, as one of one's own."""
    setting = detector.Setting(
        "map",
        "none",
        scan_stacks.Options(min_volume_ml=0.2),
        calibration.Point(threshold, "threshold", threshold),
        None,
    )
    made = predict_conftest.make_detector(setting, modality=modality)
    made.facts = {**made.facts, "weights": "0123456789abcdef", "modality": modality}
    return made


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("bids") / "raw")


def errors_of(root):
    """[(code, location)] of the validator's errors; skips where it is not installed."""
    program = validator.find()
    if not program:
        pytest.skip("bids-validator-deno is in requirements-dev.txt")
    issues = validator.list_issues(str(root), program)
    return [(i["code"], i.get("location")) for i in issues if i.get("severity") == "error"]


def files_of(root):
    """{name below the root: bytes} of every file."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


_PROGRAM = """
import sys
from madad_jax.bids import __main__ as command
from madad_jax.predict import api
from tests.bids import conftest
api.load = lambda *a, threshold=None, **k: conftest.make_detector(threshold or 0.3)
sys.exit(command.run(["bids", *sys.argv[1:]]))
"""


def start(root, *arguments):
    """The command in a process of its own, with the stand-in for a model."""
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

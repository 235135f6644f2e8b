"""What a prediction loads: seconds that every scan pays before its first voxel."""

import pathlib
import subprocess
import sys

import nibabel as nib
import numpy as np

from tests.predict import conftest

ROOT = pathlib.Path(__file__).parents[2]
# What training, evaluation, drawing and downloading need, and no scan.
NEEDLESS = {
    *("sklearn", "matplotlib", "pandas", "tensorflow", "tensorflow_datasets", "torch", "grain"),
    *("scipy.stats", "scipy.cluster", "scipy.optimize", "scipy.sparse.csgraph"),
    *("nilearn.datasets", "nilearn.image", "tensorboardX"),
}
_SCRIPT = """
import sys
from madad_jax.predict import __main__ as command
status = command.run(["predict", *sys.argv[1:]])
print("loaded:", *sys.modules)
sys.exit(status)
"""


def _loaded(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.partition("loaded: ")[2].split())


def test_a_prediction_loads_nothing_that_others_need(untrained, tmp_path):
    image, _, affine = conftest.brain_scan()
    # Voxels of 4 mm: what is loaded is the same, and registered sooner.
    image, affine = image[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), tmp_path / "scan.nii.gz")
    names = _loaded(
        _SCRIPT,
        *(f"--checkpoint={untrained}", f"--input={tmp_path / 'scan.nii.gz'}"),
        *(f"--output={tmp_path / 'out'}", "--threshold=0.5", "--registration=affine"),
    )
    assert (tmp_path / "out" / "report.html").exists() and "SimpleITK" in names
    assert names & NEEDLESS == set()


def test_preparing_and_packaged_models_load_nothing_that_others_need():
    prepared = _loaded("import sys, madad_jax.prepare.job; print('loaded:', *sys.modules)")
    assert prepared & {*NEEDLESS, "jax", "SimpleITK"} == set()
    packaged = "import sys, madad_jax.predict.packaged_model; print('loaded:', *sys.modules)"
    assert _loaded(packaged) & {*NEEDLESS, "orbax"} == set()

"""The brain extraction with its real weights, which `make` installs, and without them."""

import importlib.metadata

import numpy as np
import pytest
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.predict import extract_brain
from tests.scans import cases

ONE_COMMAND = "accepted: pip install --no-deps deepbet"


def _installed():
    try:
        return bool(importlib.metadata.distribution("deepbet"))
    except importlib.metadata.PackageNotFoundError:
        return False


needs_weights = pytest.mark.skipif(not _installed(), reason="pip install --no-deps deepbet")


def test_without_the_weights_the_message_says_the_one_command(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(errors.UserError, match=f"needs the weights of deepbet; {ONE_COMMAND}$"):
        extract_brain.weights_folder()


def test_weights_that_were_removed_ask_for_the_same_command(monkeypatch, tmp_path):
    monkeypatch.setattr(extract_brain, "weights_folder", lambda: tmp_path)
    with pytest.raises(errors.UserError, match=rf"model\.pt' does not exist; {ONE_COMMAND}$"):
        extract_brain.load.__wrapped__("model.pt")


@needs_weights
@pytest.mark.parametrize("name", ["model.pt", "bbox_model.pt"])
def test_both_networks_are_read_from_the_installed_package(name):
    """`load` checks every name and shape."""
    assert all(np.isfinite(np.asarray(array)).all() for array in extract_brain.load(name).values())


@pytest.mark.parametrize("shape", [(5, 7, 40), (16, 16, 16)])
def test_voxels_are_scaled_as_the_whole_cube_would_be(shape):
    """Nearest neighbours first and numbers after, as the networks were trained."""
    data = np.random.default_rng(0).normal(100.0, 30.0, shape).astype(np.float32)
    limits = np.quantile(data, (0.05, 0.9))
    cube = extract_brain.resize(data, (16,) * 3).astype(np.float64)
    unit = np.clip((cube - limits[0]) / (limits[1] - limits[0]), 0, 1)
    wanted = 0.226 * (unit - unit.mean()) / unit.std(ddof=1) + 0.449
    ours = extract_brain.sample_normalised(data, 16, limits)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


@needs_weights
@pytest.mark.slow
def test_a_brain_is_found_in_a_head():
    """The template's brain at 2 mm inside fluid, a skull and skin, drawn one around the other."""
    image, brain, _ = cases.see(cases.box())
    head = np.random.default_rng(0).uniform(0, 20, brain.shape)
    for voxels, value in ((9, 700.0), (6, 100.0), (2, 250.0)):
        head[ndimage.binary_dilation(brain, iterations=voxels)] = value
    head[brain] = image[brain]
    found = extract_brain.find(head.astype(np.float32))
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.95

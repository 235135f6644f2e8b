"""A scan with a known lesion, a detector without weights, and a run with weights untrained."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import ndimage

from madad_jax.data import provenance
from madad_jax.metrics import calibration, scan_stacks
from madad_jax.predict import detector
from madad_jax.scans import geometry, registration, volumes
from tests.e2e import tiny_config

GEOMETRY = geometry.Geometry(64, 208.0, first_level=-60.0, level_step=4.0)
PREPARATION = provenance.SourcePreparation(
    GEOMETRY, modality="T1", registration="none", brain_mask="nonzero", intensity="zscore"
)
NUMBERS = tuple(range(2, 32, 2))
CENTRE = (-26.0, -30.0, 24.0)  # of the lesion, MNI mm: in the left of the brain


def brain_scan(lesion=True, seed=0, radius=11.0):
    """(image, truth, affine): the template's brain at 2 mm with noise and a bright ball."""
    image, brain, grid = registration.template_brain()
    rng = np.random.default_rng(seed)
    image = image * 700 + ndimage.gaussian_filter(rng.normal(0, 40, image.shape), 1.0)
    points = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T
    points = points + grid.affine[:3, 3]
    truth = (np.linalg.norm(points - np.array(CENTRE), axis=-1) < radius) & brain & lesion
    image = np.where(truth, 1400.0, image)
    return np.where(brain, np.maximum(image, 1.0), 0.0).astype(np.float32), truth, grid.affine


def bright(number, batch):
    """A stand-in for a trained scorer: what is as bright as nothing healthy is an anomaly."""
    unit = (batch["image"][..., 0] + 1) / 2
    maps = np.clip(2 * unit - 1, 0, 1).astype(np.float32) ** 2 * batch["brain_mask"]
    half = (maps * 0.5).astype(np.float32)
    return {"map": maps, "mask_map": half, "latent_map": half, "reconstruction": batch["image"]}


def make_detector(setting, score=bright, batch_size=4, looks=None, **changes):
    return detector.Detector(
        score,
        dataclasses.replace(PREPARATION, **changes),
        NUMBERS,
        setting,
        batch_size=batch_size,
        facts={"run": "stand-in", "name": "stand-in", "preset": "none", "version": "0"},
        looks=looks,
    )


PLAIN = detector.Setting("map", "none", scan_stacks.Options(), None, None)


@pytest.fixture(scope="session")
def healthy():
    """Four healthy scans through the stand-in."""
    made = make_detector(PLAIN)
    scans = []
    for seed in range(4):
        image, _, affine = brain_scan(lesion=False, seed=10 + seed)
        volume = volumes.from_array(image, affine, source=f"healthy {seed}")
        scans.append(made.measure(volume, f"h{seed}", {"none": scan_stacks.Options()})[0])
    return calibration.Healthy(tuple(s["map", "none"] for s in scans))


@pytest.fixture(scope="session")
def setting(healthy):
    """No post-processing but the smallest volume, at 0.5 % of healthy voxels."""
    point = healthy.by_voxel_fpr(0.005)
    return dataclasses.replace(
        PLAIN, options=scan_stacks.Options(min_volume_ml=0.2), point=point, healthy=healthy
    )


@pytest.fixture(scope="session")
def result(setting):
    """The scan with the lesion, judged."""
    image, _, affine = brain_scan()
    return make_detector(setting)(image, affine)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A run's folder with networks as they were first drawn."""
    import jax
    import jax.numpy as jnp

    from madad_jax.assembly import parts
    from madad_jax.checkpoints import saver as saver_lib
    from madad_jax.training import batch_specs
    from madad_jax.training import state as state_lib

    config = tiny_config.get_config()
    config.data.image_size = 32
    folder = tmp_path_factory.mktemp("untrained")
    spec = batch_specs.image_spec(1, 32)
    made = parts.assemble(config)
    stages = {
        "autoencoder": made.autoencoder.method,
        "denoiser": made.method,
    }
    for stage, method in stages.items():
        params = method.init(jax.random.key(1), spec)
        state = state_lib.TrainState(jnp.zeros((), jnp.int32), {}, {}, params)
        with saver_lib.Checkpointer(folder / stage / "checkpoints", async_save=False) as saver:
            saver.save(0, state, {}, json.loads(config.to_json()))
            saver.wait()
    (folder / "latents").mkdir()
    (folder / "latents" / "complete.json").write_text('{"scaling_factor": 0.7}')
    small = {"geometry": {"image_size": 32, "field_of_view": 208.0, "first_level": -60.0,
                          "level_step": 4.0}}  # fmt: skip
    known = {"modality": "T1", "registration": "none", "brain_mask": "nonzero"}
    (folder / "preparation.json").write_text(json.dumps({**small, **known, "numbers": [4, 30, 2]}))
    return folder

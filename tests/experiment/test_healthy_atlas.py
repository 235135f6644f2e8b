"""The atlas of a run: measured once, kept beside the checkpoints, refused where it is damaged."""

import hashlib
import json

import jax
import numpy as np
import pytest

from configs.baselines import drawn_unet
from madad_jax.anomaly_maps import healthy_groups as atlas_lib
from madad_jax.assembly import parts as parts_lib
from madad_jax.core import errors
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import frozen_weights, healthy_atlas, stage_inputs, workdir
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.metrics import baseline_maps

SIDE = 64


class Inputs(inputs_lib.Inputs):
    """Twelve slices, and how often they were asked for."""

    def __init__(self):
        self.asked = 0
        draw = np.random.default_rng(0)
        self.image = draw.uniform(-1, 1, (12, SIDE, SIDE, 1)).astype(np.float32)
        self.brain = np.zeros((12, SIDE, SIDE), bool)
        self.brain[:, 8:-8, 6:-6] = True

    def source(self, split):
        assert split == "train"
        self.asked += 1
        pairs = zip(self.image, self.brain, strict=True)
        return [{"image": image, "brain_mask": brain} for image, brain in pairs]


def parts(groups=2):
    config = drawn_unet.get_config()
    config.data.image_size = SIDE
    config.atlas.groups = groups
    return parts_lib.assemble(config)


@pytest.fixture
def run(tmp_path):
    """(parts, folder, inputs, its atlas)."""
    made, folder, inputs = parts(), workdir.Workdir(tmp_path), Inputs()
    return made, folder, inputs, healthy_atlas.measure(made, folder, inputs)


def test_it_is_that_of_the_training_slices_and_is_found_again(run):
    made, folder, inputs, found = run
    fit = atlas_lib.Fit(made.atlas, made.seed)
    z = baseline_maps.z_score(inputs.image[..., 0], inputs.brain)
    for show_again in (False, True):
        if show_again:
            fit.group()
        for n in range(12):
            fit.add(z[n : n + 1], inputs.brain[n : n + 1])
    expected = fit.result()
    again = healthy_atlas.load(made, folder)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        np.testing.assert_array_equal(again[name], value)
    frozen = frozen_weights.FrozenWeights.restore(made, folder, mesh_lib.make_mesh())
    assert "atlas" in frozen.digests()
    shapes = frozen_weights.FrozenWeights.abstract(made).values
    drawn = frozen_weights.FrozenWeights.random(made).values
    for values in (frozen.values, drawn):
        assert jax.tree.map(np.shape, values) == jax.tree.map(lambda s: s.shape, shapes)


def test_it_is_not_measured_again_once_training_began(run):
    made, folder, inputs, found = run
    inputs.image = -inputs.image  # other slices
    asked = inputs.asked
    (folder.checkpoints("denoiser") / "5").mkdir(parents=True)
    kept = healthy_atlas.measure(made, folder, inputs)
    assert inputs.asked == asked
    np.testing.assert_array_equal(kept["mean"], found["mean"])
    (folder.checkpoints("denoiser") / "5").rmdir()
    anew = healthy_atlas.measure(made, folder, inputs)
    assert inputs.asked == asked + 1 and (anew["mean"] != found["mean"]).any()


def test_a_missing_or_damaged_one_is_said(run):
    made, folder, inputs, _ = run
    path = healthy_atlas.path_of(folder)
    with pytest.raises(errors.UserError, match=r"not an atlas .* found float32\[2, 2048\], accept"):
        healthy_atlas.load(parts(groups=3), folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    for damaged in (bytes(content), content[:100], b""):
        path.write_bytes(bytes(damaged))
        with pytest.raises(errors.UserError, match=r"atlas\.npz: not an atlas of healthy slices"):
            healthy_atlas.load(made, folder)
    path.unlink()
    with pytest.raises(errors.UserError, match=r"No such file.* lies beside its checkpoints"):
        healthy_atlas.load(made, folder)
    # A detector that has weights is not given another atlas than it learnt with.
    (folder.checkpoints("denoiser") / "5").mkdir(parents=True)
    with pytest.raises(errors.UserError, match="lies beside its checkpoints"):
        healthy_atlas.measure(made, folder, inputs)


def test_another_runs_atlas_of_the_same_shape_is_refused(run, tmp_path_factory):
    made, folder, inputs, found = run
    other = workdir.Workdir(tmp_path_factory.mktemp("other"))
    inputs.image = -inputs.image
    healthy_atlas.measure(made, other, inputs)
    path = healthy_atlas.path_of(folder)
    own = path.read_bytes()
    path.write_bytes(healthy_atlas.path_of(other).read_bytes())
    (folder.checkpoints("denoiser") / "5").mkdir(parents=True)
    for load in (healthy_atlas.load, lambda *a: healthy_atlas.measure(*a, inputs)):
        with pytest.raises(errors.UserError, match=r"atlas\.npz': not the atlas that denoiser was"):
            load(made, folder)
    path.write_bytes(own)
    np.testing.assert_array_equal(
        healthy_atlas.measure(made, folder, inputs)["mean"], found["mean"]
    )


def test_a_run_of_before_is_bound_to_the_atlas_it_has(run):
    made, folder, inputs, _ = run
    noted = folder.trained / "denoiser" / stage_inputs.FILE
    noted.unlink()
    (folder.checkpoints("denoiser") / "5").mkdir(parents=True)
    healthy_atlas.load(made, folder)
    assert not noted.exists()  # reading writes nothing
    healthy_atlas.measure(made, folder, inputs)
    digest = json.loads(noted.read_text())[stage_inputs.MEASURED]["atlas"]["digest"]
    assert digest == hashlib.sha256(healthy_atlas.path_of(folder).read_bytes()).hexdigest()


def test_fewer_slices_than_groups_are_refused(tmp_path):
    with pytest.raises(errors.UserError, match=r"atlas\.groups: found 13 with 12 training slices"):
        healthy_atlas.measure(parts(13), workdir.Workdir(tmp_path), Inputs())
    assert not list(tmp_path.rglob("*.npz"))

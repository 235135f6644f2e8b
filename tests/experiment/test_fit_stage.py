"""A method on tokens: whose weights its network has, and what its run keeps."""

import hashlib
import json
import logging

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs.baselines import memory_bank
from madad_jax.assembly import parts as parts_lib
from madad_jax.convert import vit_weights
from madad_jax.core import errors, random_keys
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import fit_stage, stage_inputs, trained_weights, workdir
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.models.networks import vit
from madad_jax.runtime import stop as stop_lib
from tests.models import vit_cases

SIDE = 32


class Inputs(inputs_lib.Inputs):
    """Five training slices, and how often one was read."""

    def __init__(self):
        self.mesh, self.read = mesh_lib.make_mesh(), 0
        draw = np.random.default_rng(0)
        self.image = draw.uniform(-1, 1, (8, SIDE, SIDE, 1)).astype(np.float32)
        self.brain = np.ones((8, SIDE, SIDE), bool)

    def source(self, split):
        return Train(self)

    def validation_batches(self, source, batch_size, keys, limit=0):
        assert batch_size == 8
        yield {"image": self.image, "brain_mask": self.brain}


class Train:
    """The slices one by one."""

    def __init__(self, inputs):
        self.inputs = inputs

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self.inputs.read += 1
        return {"image": self.inputs.image[index], "brain_mask": self.inputs.brain[index]}


@pytest.fixture
def inputs(monkeypatch):
    small = vit.NETWORKS["dinov3_s16"] | vit_cases.SIZE
    monkeypatch.setitem(vit.NETWORKS, "dinov3_s16", small)
    return Inputs()


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("madad_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "madad_jax")
    return caplog


def parts(**keys):
    config = memory_bank.get_config("brats")
    usual = {"data.image_size": SIDE, "eval.batch_size": 8, "methods.memory_bank.size": 10}
    usual |= {"features.network": "dinov3_s16", "features.image_size": 48}
    config.update_from_flattened_dict(usual | keys)
    return parts_lib.assemble(config)


def fit(made, folder, inputs):
    """(steps, restored parameters)."""
    where = workdir.of_parts(made, folder)
    where.is_complete("denoiser")
    trained_weights.bind(made, where, "denoiser")
    with stop_lib.GracefulStop() as stop:
        steps = fit_stage.fit(made, where, inputs, stop)
    return steps, trained_weights.restore_denoiser(made, where.checkpoints("denoiser"), inputs.mesh)


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(vit_cases.state("dinov3"), file)
    return file


def test_given_weights_stay_with_the_run(inputs, weights, tmp_path):
    made = parts(**{"features.weights": str(weights)})
    assert made.method.name == "memory_bank" and made.title.startswith("Memory bank of tokens:")
    steps, params = fit(made, tmp_path / "run", inputs)
    assert (steps, inputs.read) == (0, 5)
    read = vit_weights.read(str(weights), made.features.method.encoder)
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], read)
    key = random_keys.stream(random_keys.root_key(0), "denoiser/fit")
    slices = fit_stage.TrainingSlices(Train(inputs), 8, SIDE)
    direct = made.features.method.fit({"encoder": read}, slices, key, lambda what: None)
    np.testing.assert_allclose(params["bank"], direct["bank"], atol=1e-6)
    noted = json.loads((tmp_path / "run" / "denoiser" / stage_inputs.FILE).read_text())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert noted["weights"]["features.weights"]["digest"] == digest
    # A measure of the fit on healthy validation slices, in the log of metrics.
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["stage"] == "denoiser" and 0 < line["loss"] < 1


def test_what_is_saved_is_not_fitted_again_and_needs_the_same_file(inputs, weights, tmp_path):
    made = parts(**{"features.weights": str(weights)})
    _, first = fit(made, tmp_path / "run", inputs)
    read = inputs.read
    inputs.image = -inputs.image
    _, again = fit(made, tmp_path / "run", inputs)
    assert inputs.read == read
    jax.tree.map(np.testing.assert_array_equal, first, again)
    weights.rename(tmp_path / "elsewhere")
    _, again = fit(made, tmp_path / "run", inputs)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = vit_cases.state("dinov3")
    other["norm.bias"] = other["norm.bias"] + 1
    safetensors.numpy.save_file(other, weights)
    with pytest.raises(errors.UserError, match=r"on other weights of the network: .*holds digest"):
        fit(made, tmp_path / "run", inputs)


def test_without_weights_every_output_says_so(inputs, tmp_path, log):
    made = parts()
    _, params = fit(made, tmp_path / "run", inputs)
    assert made.method.name == "memory_bank (untrained backbone)"
    assert "untrained backbone" in made.title and "untrained" in made.summary["denoiser"]
    assert "an untrained backbone, and every row says so" in log.text
    _, again = fit(parts(), tmp_path / "again", inputs)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    _, other = fit(parts(seed=1), tmp_path / "other", inputs)
    assert (np.asarray(other["bank"]) != np.asarray(params["bank"])).any()


def test_what_cannot_be_is_refused(inputs, weights):
    with pytest.raises(
        errors.UserError, match=r"features\.weights: found .* with features\.network=masked"
    ):
        parts(**{"features.network": "masked", "features.weights": str(weights)})
    with pytest.raises(errors.UserError, match=r"denoiser\.init: found 'run'"):
        parts(**{"denoiser.init": "run"})
    with pytest.raises(errors.UserError, match=r"features\.image_size: found 50, .* 16 pixels"):
        parts(**{"features.image_size": 50})

"""`config.method` to a method: what it stands on, and what of the config it was trained with."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest

from configs import default
from configs.baselines import anoddpm, ddpm, wolleb
from configs.parts import protocols
from madad_jax.assembly import methods, networks, parts, shared
from madad_jax.core import errors
from madad_jax.experiment import preflight
from madad_jax.methods import base, deco_diff, madad, reflect
from madad_jax.methods import shared as settings_lib
from madad_jax.methods.wrappers import penalised
from madad_jax.synthesis import acquisition, disentangled, drawn


def config_of(name, argument="demo"):
    """The config of a method; MAD-AD's experiments are those of configs/ itself."""
    if name == "madad":
        return default.get_config()
    return importlib.import_module(f"configs.baselines.{name}").get_config(argument)


def test_every_method_has_a_config_and_a_name_of_its_own():
    made = {name: methods.detector(config_of(name)) for name in methods.METHODS}
    for name, method in made.items():
        assert isinstance(method, base.Method) and method.name.startswith(name)
    assert len({m.name for m in made.values()}) == len(made)
    assert made["wolleb"].name == "wolleb (synthetic labels)"


class Watched(settings_lib.Settings):
    """Settings that remember which of them were read."""

    def __init__(self, values, key, read):
        super().__init__(values, key)
        self._read = read

    def __getattr__(self, name):
        value = super().__getattr__(name)
        if isinstance(value, settings_lib.Settings):
            return Watched(value._values, value._key, self._read)
        self._read.add(f"{self._key}.{name}")
        return value


def leaves(values, key):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{key}.{name}")
        else:
            yield f"{key}.{name}"


# Read by the run and not by the method: files of weights.
NOT_BY_BUILD = {"methods.autoddpm.inference.lpips", "methods.thor.inference.lpips"}


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_setting_of_a_method_is_read(name):
    config, read = config_of(name), set()
    values = config.methods[name].to_dict()
    key = f"methods.{name}"
    if "adaptive_limit" in values.get("inference", {}):
        values["inference"]["adaptive_limit"] = 0.5  # `adaptive_first` is read where it is on
    if "pixel_head" in values:
        values["pixel_head"]["network"]["widths"] = (8,)  # the rest is read where it is on
    methods.METHODS[name].build(shared.ConfigShared(config), Watched(values, key, read))
    assert set(leaves(values, key)) - read <= NOT_BY_BUILD
    assert read <= set(leaves(values, key))


@pytest.mark.parametrize(
    ("name", "section", "options", "more"),
    [
        ("madad", ("masking",), madad.Masking, ()),
        ("madad", ("loss",), madad.Loss, ()),
        ("madad", ("inference", "sampler"), madad.Sampler, ()),
        ("madad", ("inference", "score"), madad.Score, ("sigma", "inside_brain")),
        ("madad", ("pixel_head", "drawn"), drawn.Options, ()),
        ("madad", ("pixel_head", "appearance"), acquisition.Options, ()),
        ("drawn_unet", ("drawn",), drawn.Options, ()),
        ("drawn_unet", ("appearance",), acquisition.Options, ()),
        ("disyre", ("anomalies",), disentangled.Options, ()),
        ("deco_diff", ("corruption",), deco_diff.Corruption, ()),
        ("reflect", ("corruption",), reflect.Corruption, ()),
    ],
)
def test_a_section_has_every_field_of_its_options(name, section, options, more):
    """A key that is missing there would silently take the dataclass's own default."""
    values = config_of(name).methods[name].to_dict()
    for key in section:
        values = values[key]
    fields = {field.name for field in dataclasses.fields(options)}
    assert set(values) == fields - set(more)


def test_a_method_whose_section_is_missing_says_where_it_is():
    config = default.get_config()
    config.method = "thor"
    with pytest.raises(
        errors.UserError, match=r"no section methods\.thor; start from configs/base"
    ):
        methods.detector(config)


def test_published_and_small_settings_arrive():
    published = methods.detector(anoddpm.get_config("brats:T2"))
    assert published.process.noise.kind == "simplex"
    assert published.process.noise.frequency == 64.0
    assert published.reverse.start == 250 and published.reverse.steps == 0
    assert published.process.schedule.num_steps == 1000
    config = ddpm.get_config("demo:FLAIR")
    assert config.data.modality == "FLAIR" and config.data.source == "cohort"
    small = methods.detector(config)
    assert 0 < small.reverse.steps < 30 and small.reverse.adaptive is None
    config.methods.ddpm.inference.adaptive_limit = 0.3
    assert methods.detector(config).reverse.adaptive.limit == 0.3


def test_cohorts_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match=r"cohort: found 'mars', accepted: demo, slices"):
        ddpm.get_config("mars")
    with pytest.raises(ValueError, match=r"brats: found modality 'PET', accepted: FLAIR"):
        ddpm.get_config("brats:PET")
    with pytest.raises(KeyError):
        protocols.config("ddpm", "demo", ddpm.SETTINGS, {"optim.rate": 1.0}, {})


def test_bad_settings_of_methods_name_their_keys():
    config = wolleb.get_config()
    config.methods.wolleb.labels = "val_lesion"
    with pytest.raises(errors.UserError, match=r"methods.wolleb.labels: found 'val_lesion'"):
        methods.detector(config)
    config.methods.wolleb.labels = "split"
    made = parts.assemble(config)
    assert set(made.train_spec(2)) == {"image", "brain_mask", "unhealthy"}
    preflight.check_programs(made)
    config = ddpm.get_config()
    config.denoiser.name = "dit"
    with pytest.raises(errors.UserError, match=r"denoiser.name: found 'dit' with method=ddpm"):
        methods.detector(config)
    config = ddpm.get_config()
    config.data.latents = "cached"
    with pytest.raises(errors.UserError, match=r"data.latents: found 'cached' with method=ddpm"):
        parts.assemble(config)


def keys_of(config):
    return parts.assemble(config).stage_record("denoiser")


def test_a_runs_keys_are_those_of_its_method_without_inference():
    before, config = keys_of(ddpm.get_config()), ddpm.get_config()
    config.methods.ddpm.inference.start = 100
    config.methods.madad.loss.mask = "mse"
    config.autoencoder.channels = 8
    assert keys_of(config) == before
    config.methods.ddpm.predicts = "x0"
    changed = keys_of(config)
    assert [k for k in changed if changed[k] != before[k]] == ["methods.ddpm.predicts"]
    latent = keys_of(default.get_config())
    assert "autoencoder.channels" in latent and "methods.madad.loss.mask" in latent
    assert not any(k.startswith("methods.madad.inference") for k in latent)


def test_a_folding_unet_gives_back_what_it_took():
    """One output, no mask head, squares of pixels in channels; two channels in, one out."""
    config = ddpm.get_config()
    config.denoiser.update(model_channels=8, num_groups=4)
    network = networks.pixel_unet(config)
    params = jax.eval_shape(lambda k: network.init(k, (1, 16, 16, 2)), jax.random.key(0))
    assert not any(name.startswith("mt_out") for name in params)
    assert params["out_2"]["kernel"].shape[-1] == 16
    assert params["input_blocks_0_0"]["kernel"].shape[2] == 32
    x = jax.ShapeDtypeStruct((2, 16, 16, 2), "float32")
    out = jax.eval_shape(network.predict, params, x, jax.ShapeDtypeStruct((2,), "int32"))
    assert out.shape == (2, 16, 16, 1)


def test_sspcab_wraps_a_method_with_a_unet_and_is_refused_elsewhere():
    config = importlib.import_module("configs.baselines.dae").get_config()
    assert not isinstance(methods.detector(config), penalised.Penalised)
    config.denoiser.sspcab = 0.1
    made = methods.detector(config)
    assert isinstance(made, penalised.Penalised) and made.weight == 0.1 and made.name == "dae"
    assert made.method.network.has_penalty
    config = importlib.import_module("configs.baselines.reflect").get_config()
    config.denoiser.sspcab = 0.1  # the demo's DiT
    with pytest.raises(errors.UserError, match=r"denoiser\.sspcab: unknown key"):
        methods.detector(config)


def test_published_settings_of_the_reconstructions_and_corrections_arrive():
    from_config = {
        name: methods.detector(
            importlib.import_module(f"configs.baselines.{name}").get_config("brats:FLAIR")
        )
        for name in ("dae", "ae", "deco_diff", "reflect")
    }
    dae = from_config["dae"]
    assert (dae.resolution, dae.sigma, dae.synthesis.share) == (16, 0.2, 0.0)
    assert (dae.residual.median, dae.residual.erosion, dae.residual.sigma) == (5, 5, 0.0)
    assert from_config["ae"].residual.median == 5
    deco = from_config["deco_diff"]
    assert deco.start == 5 and deco.corruption.sides == (1, 2, 4, 8, 16)
    assert (deco.score.fusion, deco.score.latent_gamma) == ("geometric", 0.2)
    flow = from_config["reflect"]
    assert (flow.steps, flow.score.fusion, flow.score.latent_gamma) == (1, "arithmetic", 0.4)


def test_published_settings_of_disyre_and_noise_agnostic_arrive():
    config = importlib.import_module("configs.baselines.disyre").get_config("brats:T2")
    made = methods.detector(config)
    assert (made.score.window.side, made.anomalies.box, made.anomalies.sides) == (128, 64, (10, 44))
    assert made.anomalies.centres[0] == 0.0492 and made.schedule.num_steps == 100
    np.testing.assert_allclose(made.schedule.betas[[0, -1]], [0.001, 0.2])
    np.testing.assert_allclose(made.severities[[0, -1]], [0.9995, 0.0045], atol=5e-5)
    assert parts.assemble(config).preset == "published"
    flair = importlib.import_module("configs.baselines.disyre").get_config("brats:FLAIR")
    assert methods.detector(flair).anomalies.centres == disentangled.CENTRES
    config = importlib.import_module("configs.baselines.noise_agnostic").get_config("atlas")
    made = methods.detector(config)
    assert made.inpainting.levels[0] == 50 and made.inpainting.levels[-1] == 450
    for kind in ("simplex", "pyramid"):
        config.diffusion.noise = kind
        assert methods.detector(config).process.noise.kind == kind

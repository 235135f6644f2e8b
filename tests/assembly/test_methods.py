"""`config.method` to a method: what it stands on, and what of the config it was trained with."""

import importlib

import jax
import pytest

from configs import default
from configs.baselines import anoddpm, ddpm, wolleb
from configs.parts import method_settings, protocols
from madad_jax.assembly import methods, networks, parts
from madad_jax.core import errors
from madad_jax.experiment import preflight
from madad_jax.methods import base
from madad_jax.methods.wrappers import penalised


def test_every_section_has_a_method_and_every_method_a_name_of_its_own():
    assert set(method_settings.sections()) == set(methods.METHODS)
    made = {}
    for name in method_settings.sections():
        config = default.get_config()
        if name != "madad":  # its experiments are those of configs/ itself
            config = importlib.import_module(f"configs.baselines.{name}").get_config()
        made[name] = methods.detector(config)
        assert isinstance(made[name], base.Method)
        assert made[name].name.startswith(name)
    assert len({m.name for m in made.values()}) == len(made)
    assert made["wolleb"].name == "wolleb (synthetic labels)"


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
        protocols.config("ddpm", "demo", {"optim.rate": 1.0}, {})


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
    config.methods.thor.predicts = "x0"
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

"""Several contrasts from the config; a run of one picture knows nothing of them."""

import pytest

from madad_jax.assembly import config_record, data, parts
from madad_jax.core import errors
from madad_jax.devices import mesh
from madad_jax.experiment import contrast_views, inputs
from madad_jax.methods import autoencoder, madad
from madad_jax.methods.stacked import madad_stacked, stacked_mask
from madad_jax.predict import model
from tests.e2e import tiny_config


@pytest.fixture
def config():
    return tiny_config.get_config()


def opened(made):
    return inputs.Inputs(made.data, mesh.make_mesh(), 8)


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ("T1", ("T1",)),
        ("T1,FLAIR", ("T1", "FLAIR")),
        ("('T1', 'FLAIR')", ("T1", "FLAIR")),
        (["T1", "T2"], ("T1", "T2")),
    ],
)
def test_contrasts_are_named(found, names):
    assert data.contrast_names(found) == names


@pytest.mark.parametrize("found", ["", "T1,", "T1,t1", "('T1'", "a,b,c,d,e,f,g", "(1 + x)"])
def test_bad_contrasts_are_refused(found):
    with pytest.raises(errors.UserError, match=r"data\.modality: found .* accepted: a name as T1"):
        data.contrast_names(found)


def test_a_run_of_one_picture_is_what_it_was(config):
    made = parts.assemble(config)
    assert type(made.method) is madad.MadAd
    assert type(made.autoencoder.method) is autoencoder.KLAutoencoder
    assert set(made.image_spec()) == {"image", "brain_mask"} and made.data.channels == 0
    # No key of a record is new, so that begun runs of earlier versions go on.
    for stage in ("autoencoder", "denoiser"):
        keys = made.stage_record(stage)
        assert "data.neighbours" not in keys and not [k for k in keys if "contrasts" in k]
    earlier = config.copy_and_resolve_references()
    del earlier.data.neighbours, earlier.contrasts, earlier.eval.contrasts
    assert parts.assemble(earlier).stage_record("denoiser") == made.stage_record("denoiser")
    views = list(contrast_views.views(made, opened(made)))
    assert [view.facts for view in views] == [{}] and views[0].name("test") == "test"
    assert views[0].calibration == "calibration.npz"


def test_another_setting_of_contrasts_is_part_of_what_was_trained(config):
    config.data.modality = "T1,FLAIR"
    before = parts.assemble(config).stage_record("denoiser")
    config.contrasts.keep_all = 0.5
    changed = parts.assemble(config).stage_record("denoiser")
    assert changed["contrasts.keep_all"] == 0.5
    for pair in ((before, changed), (changed, before)):
        assert config_record.differences(*pair)[0] == ["contrasts.keep_all"]


def test_channels_reach_methods_batches_and_views(config):
    config.data.update(modality="T1,FLAIR", neighbours=1)
    config.eval.contrasts = ("FLAIR,T1", "FLAIR")
    made = parts.assemble(config)
    assert type(made.method) is madad_stacked.StackedMadAd
    assert made.image_spec(2)["image"].shape == (2, 32, 32, 6)
    assert made.train_spec(2)["available"].shape == (2, 6)
    whole, flair = contrast_views.views(made, opened(made))
    assert (whole.name("test"), whole.calibration) == ("test", "calibration.npz")
    assert whole.facts == {"contrasts": ["T1", "FLAIR"], "missing": []}
    assert (flair.name("test"), flair.calibration) == ("test-FLAIR", "calibration-FLAIR.npz")
    assert flair.facts["missing"] == ["T1"] and flair.channel == 1
    config.eval.contrasts = ()
    assert parts.assemble(config).evaluation.contrasts == (("T1", "FLAIR"),)


def test_what_does_not_go_with_several_pictures_is_named(config):
    config.eval.contrasts = ("T2",)
    with pytest.raises(errors.UserError, match=r"eval\.contrasts: found .* subsets of T1"):
        parts.assemble(config)
    config.eval.contrasts = ()
    config.data.neighbours = 1
    with pytest.raises(errors.UserError, match=r"predict with --input=T1=FILE, of which"):
        model.assemble("runs/a", config)
    config.data.latents = "cached"
    with pytest.raises(errors.UserError, match=r"data.latents: found 'cached' with several"):
        parts.assemble(config)
    config.data.latents = "live"
    config.ensemble.flips = True
    with pytest.raises(errors.UserError, match=r"ensemble.draws, flips, combine: found 1, True"):
        parts.assemble(config)
    config.data.neighbours = 9
    with pytest.raises(errors.UserError, match=r"data.neighbours: found 9, accepted: 0 to 4"):
        parts.assemble(config)


def test_methods_of_one_picture_say_which_take_several():
    from configs.baselines import dae, drawn_unet

    config = dae.get_config()
    config.data.modality = "T1,FLAIR"
    with pytest.raises(errors.UserError, match=r"method=dae, .* accepted: .*madad, drawn_unet"):
        parts.assemble(config)
    config = drawn_unet.get_config()
    config.data.modality = "T1,FLAIR"
    assert type(parts.assemble(config).method) is stacked_mask.StackedDrawnUnet

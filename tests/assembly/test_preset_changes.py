import pytest

from configs import default, demo
from configs.baselines import ddpm
from madad_jax.assembly import preset_changes


@pytest.mark.parametrize("name", ["paper", "official", "improved", "light"])
def test_a_preset_as_it_is_carries_its_name(name):
    config = default.get_config(name)
    assert preset_changes.list_changes(config) == [] and preset_changes.label(config) == name


def test_a_change_is_said_with_both_values():
    config = default.get_config("paper")
    config.methods.madad.inference.score.gamma = 0.4
    config.seed = 3  # no part of a preset
    assert preset_changes.label(config) == "paper, changed"
    assert preset_changes.list_changes(config) == ["methods.madad.inference.score.gamma=0.4 (0.2)"]


def test_options_of_ours_are_changes_too():
    config = default.get_config("official")
    config.methods.madad.inference.sampler.rewrite = "probability"
    key = "methods.madad.inference.sampler.rewrite"
    assert preset_changes.list_changes(config) == [f"{key}='probability' ('threshold')"]
    changed = {word.split("=")[0] for word in preset_changes.list_changes(demo.get_config())}
    assert {"optim.name", "synthesis.share", "autoencoder.patch"} <= changed


def test_other_methods_have_published_and_small_settings():
    config = ddpm.get_config("brats:FLAIR")
    assert preset_changes.label(config) == "published"
    config.optim.lr *= 2
    assert preset_changes.label(config) == "published, changed"
    assert preset_changes.label(ddpm.get_config("demo")) == "small"

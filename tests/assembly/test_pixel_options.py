"""A mask head at image resolution and an atlas in a config: off, on, and as older configs lack
them."""

import importlib

import jax
import pytest

from configs import default
from madad_jax.assembly import config_record, parts
from madad_jax.core import errors
from madad_jax.experiment import preflight, workdir
from tests.e2e import tiny_config

WIDTHS = "methods.madad.pixel_head.network.widths"
HEAD = {WIDTHS: (8, 16), "synthesis.share": 0.5}


def config_of(name="", **changes):
    if name:
        config = importlib.import_module(f"configs.baselines.{name}").get_config()
    else:
        config = tiny_config.get_config()
    config.update_from_flattened_dict(changes)
    return config


def record_of(config):
    made = config_record.plain(config)
    return config_record.flatten(made, config_record.stage_keys(config, True)["denoiser"])


def test_records_know_the_options_where_they_are_on():
    off = record_of(config_of())
    older = config_of()
    del older.atlas
    del older.methods.madad.pixel_head
    assert record_of(older) == off
    assert not any("atlas" in key or "pixel_head" in key for key in off)
    on = record_of(config_of(**HEAD | {"atlas.groups": 2}))
    added = set(on) - set(off)
    assert {"atlas.groups", WIDTHS, "methods.madad.pixel_head.drawn.kinds"} <= added
    changed = added | {"synthesis.share"}
    # Switched on or off, it is another detector.
    assert set(config_record.differences(off, on)[0]) == changed
    assert set(config_record.differences(on, off)[0]) == changed
    assert config_record.differences(on, on) == ([], [])


def test_records_from_before_the_other_half_was_an_option_agree_where_it_is_off():
    key = "methods.madad.pixel_head.contralateral"
    config = config_of(**HEAD)
    off, on = record_of(config), record_of(config_of(**HEAD | {key: True}))
    del config.methods.madad.pixel_head.contralateral
    assert record_of(config) == off
    assert not parts.assemble(config).method.pixel_head.mask.contralateral
    assert config_record.differences(off, on)[0] == config_record.differences(on, off)[0] == [key]


def test_a_detector_with_the_head_does_not_go_on_without(tmp_path):
    def stage(config):
        return workdir.Workdir(tmp_path, records={"denoiser": record_of(config)})

    with_head = stage(config_of(**HEAD))
    with_head.is_complete("denoiser")
    (with_head.checkpoints("denoiser") / "1").mkdir(parents=True)
    without = config_of(**{"synthesis.share": 0.5})
    with pytest.raises(errors.UserError, match=r"pixel_head\.\S+: .* -> None"):
        stage(without).is_complete("denoiser")


def test_a_config_of_before_still_assembles():
    older = config_of()
    del older.atlas
    del older.methods.madad.pixel_head
    del older.methods.madad.inference.join
    new = ("atlas.", "methods.madad.pixel_head.")
    older.preset_values = tuple(w for w in older.preset_values if not w.startswith(new))
    made = parts.assemble(older)
    assert made.method.pixel_head is None and made.atlas.groups == 0


def test_the_head_arrives_and_every_program_of_it_can_be_traced():
    made = parts.assemble(config_of(**HEAD | {"atlas.groups": 2, "data.image_size": 64}))
    head = made.method.pixel_head
    assert head.mask.atlas and head.weight == 1.0
    preflight.check_programs(made)
    plain = parts.assemble(config_of(**{"data.image_size": 64}))
    trees = [
        jax.eval_shape(lambda k, m=m: m.method.init(k, m.image_spec()), jax.random.key(0))
        for m in (made, plain)
    ]
    # With a head there are two trees; without, that of the denoiser alone as before.
    assert set(trees[0]) == {"denoiser", "pixel_head"}
    assert trees[0]["denoiser"] == trees[1]


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_presets_have_them_off_and_say_so_where_they_are_on(preset):
    config = default.get_config(preset)
    assert config.atlas.groups == 0 and not config.methods.madad.pixel_head.network.widths
    assert parts.assemble(config).preset == preset
    config.update_from_flattened_dict({WIDTHS: (8,), "synthesis.share": 0.5, "atlas.groups": 0})
    made = parts.assemble(config)
    assert made.preset == f"{preset}, changed"
    assert any(change.startswith(WIDTHS) for change in made.preset_changes)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("", HEAD | {"data.latents": "cached"}, r"data\.latents: found 'cached' with .*widths"),
        ("", {"atlas.groups": 4}, r"atlas\.groups: found 4 with method=madad, which has no mask"),
        ("dae", {"atlas.groups": 4}, r"atlas\.groups: found 4 with method=dae"),
        ("drawn_unet", {"data.latents": "cached"}, r"found 'cached' with method=drawn_unet"),
        ("drawn_unet", {"atlas.groups": -1}, r"atlas\.groups: found -1"),
        ("drawn_unet", {"methods.drawn_unet.drawn.healthy": 2.0}, r"drawn\.healthy: found 2\.0"),
        (
            "drawn_unet",
            {"methods.drawn_unet.network.widths": (), "atlas.groups": 0},
            r"pixel_mask\.widths, patch",
        ),
    ],
)
def test_what_cannot_work_is_said_before_hours_are_spent(name, changes, said):
    with pytest.raises(errors.UserError, match=said):
        parts.assemble(config_of(name, **changes))


def test_sides_that_do_not_divide_are_found_before_training():
    config = config_of("drawn_unet", **{"atlas.groups": 4, "data.image_size": 48})
    with pytest.raises(errors.UserError, match=r"data\.image_size=48, accepted: multiples of 32"):
        preflight.check_programs(parts.assemble(config))

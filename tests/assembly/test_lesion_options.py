"""Lesions of a bank in a config: off, on, and as older configs lack them."""

import pytest

from configs import demo
from configs.baselines import dae, drawn_unet
from madad_jax.assembly import config_record, parts, values
from madad_jax.core import errors
from madad_jax.synthesis import learned


def config_of(module=drawn_unet, **changes):
    config = module.get_config()
    config.update_from_flattened_dict(changes)
    return config


def record_of(config):
    made = config_record.plain(config)
    return config_record.flatten(made, config_record.stage_keys(config, False)["denoiser"])


def test_runs_without_a_bank_are_those_of_before():
    config, older = config_of(), config_of()
    del older.lesions
    now, then = record_of(config), record_of(older)
    assert now == then and not any(key.startswith("lesions.") for key in now)
    made = parts.assemble(older)
    assert (made.lesion_bank, made.needs_lesion_bank) == ("", False)
    assert made.method.mask.lesions == learned.Options()


def test_a_bank_is_part_of_what_a_run_is():
    config = config_of(**{"lesions.bank": "a.npz", "lesions.share": 0.25, "lesions.match": 1.0})
    made = parts.assemble(config)
    assert made.lesion_bank == "a.npz" and not made.needs_lesion_bank
    assert made.method.mask.lesions == learned.Options(0.25, match=1.0)
    on, off = record_of(config), record_of(config_of())
    differ, _ = config_record.differences(off, on)
    assert set(differ) == {f"lesions.{key}" for key in ("max_lesions", "match", "share")}
    # Where it lies is free: the run keeps its own.
    config.lesions.bank = "b.npz"
    assert config_record.differences(on, record_of(config)) == ([], [])
    cleaned = config_record.without_places(config_record.plain(config))
    assert cleaned["lesions"]["bank"] == ""


def test_a_method_that_mixes_anomalies_needs_one():
    config = config_of(dae, **{"synthesis.kind": "learned", "synthesis.share": 0.5})
    made = parts.assemble(config)
    assert made.needs_lesion_bank
    assert made.method.synthesis.kind == "learned"
    config.lesions.max_lesions = 2
    assert parts.assemble(config).method.synthesis.lesions.max_lesions == 2


def test_a_head_at_image_resolution_needs_one_too_where_lesions_are_asked_for():
    config = demo.get_config()
    config.synthesis.kind = "learned"
    # Without a bank the head would draw generic anomalies and nobody would hear of it.
    assert parts.assemble(config).needs_lesion_bank
    config.synthesis.kind = "generic"
    assert not parts.assemble(config).needs_lesion_bank


@pytest.mark.parametrize("kind", ["dag", "disyre"])
def test_a_kind_that_a_head_at_image_resolution_does_not_draw_is_refused(kind):
    config = demo.get_config()
    config.synthesis.kind = kind
    with pytest.raises(errors.UserError, match=rf"synthesis\.kind: found '{kind}' with methods"):
        values.check_values(config)
    config.synthesis.share = 0.0
    values.check_values(config)


@pytest.mark.parametrize("changes", [{}, {"synthesis.kind": "learned"}, {"synthesis.share": 0.5}])
def test_a_bank_that_nothing_reads_is_refused(changes):
    config = config_of(dae, **{"lesions.bank": "a.npz", **changes})
    with pytest.raises(errors.UserError, match=r"lesions\.bank: found 'a\.npz', which nothing"):
        values.check_values(config)

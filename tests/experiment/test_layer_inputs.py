"""Which methods can learn tasks one after another."""

import importlib

import pytest

from madad_jax.assembly import parts
from madad_jax.core import errors
from madad_jax.experiment import layer_inputs


def parts_of(method):
    module = importlib.import_module(f"configs.baselines.{method}")
    return parts.assemble(module.get_config("demo:T1"))


@pytest.mark.parametrize("method", ["ddpm", "pddpm", "dae", "deco_diff", "reflect"])
def test_methods_of_one_denoiser_record_its_inputs(method):
    layer_inputs.check(parts_of(method))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("itermask2", "trains more than a denoiser"),
        ("maediff", "trains more than a denoiser"),
        ("ae", "has no denoiser"),
    ],
)
def test_others_are_refused_by_name(method, message):
    with pytest.raises(errors.UserError, match=f"found method={method}.*{message}"):
        layer_inputs.check(parts_of(method))

"""docs/add_a_method.md works as it is written."""

import pathlib
import re
import sys
import types

import pytest

from madad_jax.assembly import methods, parts
from madad_jax.experiment import preflight

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "add_a_method.md"


@pytest.fixture
def blocks():
    """The page's code: the method, its config."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def module(name, source):
    made = types.ModuleType(name)
    sys.modules[name] = made  # dataclasses look their module up
    exec(compile(source, name, "exec"), made.__dict__)
    return made


def test_the_walk_through_makes_a_method_that_trains_and_scores(blocks, monkeypatch):
    assert PAGE.read_text().count("\n") <= 60
    method, config = (module(f"mean_image_{i}", text) for i, text in enumerate(blocks))
    monkeypatch.setitem(methods.METHODS, "mean_image", methods.Entry(method.build))
    made = parts.assemble(config.get_config())
    assert made.method.name == "mean_image" and made.autoencoder is None
    assert "methods.mean_image.weight" in made.stage_record("denoiser")
    preflight.check_programs(made)

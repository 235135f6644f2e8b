"""docs/config.md is what the configs say, and says something of every key."""

import importlib

from tests.docs import pages

program = pages.load("config_page")


def test_the_page_is_fresh():
    assert program.PAGE.read_text() == program.render(), "run: python docs/config_page.py"


def test_every_key_is_on_the_page_with_a_meaning():
    rows = [
        row.split(" | ") for row in program.PAGE.read_text().split("\n") if row.startswith("| `")
    ]
    said = {row[0].strip("| `"): row[-1].strip(" |") for row in rows}
    keys = set(program.leaves(importlib.import_module("configs.default").get_config()))
    for name in program.baselines():
        settings = importlib.import_module(f"configs.baselines.{name}").SETTINGS
        keys |= set(program.leaves(settings, f"methods.{name}."))
    assert keys - set(said) == {"preset_values"}
    assert [key for key, meaning in said.items() if not meaning] == []


def test_a_comment_above_and_one_beside_a_key_are_read():
    meanings = program.default_keys()
    assert meanings["eval.batch_size"] == "global"
    assert meanings["eval.postprocess"].startswith("of whole scans, before they are judged")
    assert meanings["methods.madad.inference.sampler.steps"] == "1 .. diffusion.timesteps"

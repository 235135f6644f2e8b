import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest

from configs import default
from configs.parts import presets
from madad_jax.assembly import networks, parts
from madad_jax.core import errors

ROOT = pathlib.Path(__file__).parents[2]
FILES = [
    path.relative_to(ROOT).with_suffix("")
    for path in sorted((ROOT / "configs").rglob("*.py"))
    if "def get_config" in path.read_text() and path.parent.name != "paper"  # tables of configs
]
MODULES = [".".join(path.parts) for path in FILES]

# The differences that the paper and its code are known to have.
DIFFERENT = {
    "data.augment",
    "train.epochs",
    "optim.lr",
    "optim.schedule",
    "methods.madad.loss.mask",
    "methods.madad.masking.per",
    "methods.madad.inference.sampler.eta",
    "methods.madad.inference.score.difference",
    "methods.madad.inference.score.reference",
    "methods.madad.inference.score.gamma",
}


def load(name, *argument):
    return importlib.import_module(name).get_config(*argument)


def flat(config):
    out = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            out |= {f"{key}.{k}": v for k, v in flat(value).items()}
        else:
            out[key] = value
    return out


def shared_keys(config):
    """The keys of the config, without those of methods other than MAD-AD."""
    own = f"methods.{config.method}."
    return {k for k in flat(config) if config.method == "madad" or not k.startswith(own)}


@pytest.mark.parametrize("name", MODULES)
def test_config_loads_locks_and_keeps_to_the_default_keys(name):
    config = load(name)
    config.lock()
    with pytest.raises((AttributeError, KeyError)):
        config.optim.learning_rate = 1.0
    assert shared_keys(config) == shared_keys(default.get_config())
    # Beside MAD-AD's, which every config has, the section of its own method.
    assert set(config.methods) == {"madad", config.method}
    assert config.preset in (*presets.PRESETS, "published", "small")
    assert len(importlib.import_module(name).__doc__) > 50


def test_configs_have_names_of_their_own():
    names = [load(name).name for name in MODULES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", MODULES)
def test_networks_and_optimisers_of_every_config_build(name):
    """Shapes alone, nothing is computed: wrong widths, heads or sides are found here."""
    config = load(name)
    size = config.data.image_size
    spec = {
        "image": jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32),
        "brain_mask": jax.ShapeDtypeStruct((1, size, size), jnp.bool_),
    }
    assembled = parts.assemble(config)
    stages = [(assembled.method, assembled.plan)]
    if assembled.autoencoder is not None:
        stages.append((assembled.autoencoder.method, assembled.autoencoder.plan))
    for made, plan in stages:
        params = jax.eval_shape(lambda made=made: made.init(jax.random.key(0), spec))
        assert all(leaf.size for leaf in jax.tree.leaves(params))
        planned = plan.budget(1000)
        assert planned.steps > 0
        tx, rate = plan.optimizer(planned)
        jax.eval_shape(tx.init, params)
        assert float(rate(planned.steps // 2)) > 0


@pytest.mark.parametrize("name", ["paper", "official"])
def test_presets_set_keys_that_exist(name, monkeypatch):
    """An unknown key of a nested section would be added in silence."""
    with monkeypatch.context() as patch:
        patch.setattr(presets, "apply", lambda config, name: None)
        bare = flat(default.get_config())
    assert set(presets.PRESETS[name]) <= set(bare)
    config = default.get_config(name)
    assert config.preset == name
    found = flat(config)
    assert set(found) == set(bare)
    assert {k: found[k] for k in presets.PRESETS[name]} == presets.PRESETS[name]


@pytest.mark.parametrize("key", ["optim.rate", "optm.lr", "name.lr", "nothing"])
def test_a_preset_with_an_unknown_key_is_refused(key, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "paper", presets.PAPER | {key: 1.0})
    with pytest.raises(ValueError, match=rf"^preset 'paper': the config has no key {key}$"):
        default.get_config("paper")


def test_a_budget_of_nothing_is_refused():
    config = default.get_config()
    config.train.update(steps=0, epochs=0)
    with pytest.raises(errors.UserError, match=r"train.steps, train.epochs: found 0, 0"):
        parts.assemble(config).plan.budget(100)


def test_paper_and_official_differ_in_the_listed_keys():
    paper, official = flat(default.get_config("paper")), flat(default.get_config("official"))
    assert {k for k in paper if paper[k] != official[k]} == DIFFERENT | {"preset", "preset_values"}
    assert set(presets.PAPER) == set(presets.OFFICIAL)


def test_official_numbers():
    """As the official code runs when it is started without arguments."""
    c = default.get_config("official")
    assert (c.optim.lr, c.optim.weight_decay, c.train.epochs, c.train.batch_size) == (
        *(4e-5, 1e-4, 200),
        96,
    )
    own = c.methods.madad
    assert (own.loss.mask, own.loss.mask_weight, own.loss.region) == ("mse", 1e-3, "all")
    assert (own.inference.sampler.eta, own.inference.score.gamma, c.map.sigma) == (0.5, 0.25, 5.0)
    assert (own.masking.probabilities, own.masking.max_ratio) == ((0.2, 0.3, 0.3, 0.2), 0.4)
    assert (own.masking.brain_cells, own.masking.brain_min_fraction) == (2, 0.9)
    method = parts.assemble(c).method
    assert method.denoiser.name == "unet" and method.autoencoder.factor == 8


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match=r"preset: found 'papre', accepted: paper, official"):
        default.get_config("papre")
    config = default.get_config()
    config.method = "madda"
    with pytest.raises(errors.UserError, match=r"method: found 'madda', accepted: madad"):
        parts.assemble(config)


@pytest.mark.parametrize(("size", "sigma"), [(256, 5.0), (128, 2.5)])
def test_smoothing_is_given_for_a_side_of_256(size, sigma):
    config = default.get_config()
    config.data.image_size = size
    made = parts.assemble(config)
    assert made.method.score.sigma == sigma
    assert made.autoencoder.method.sigma == sigma


@pytest.mark.parametrize(
    ("steps", "epochs", "slices", "expected"),
    [(0, 3, 100, 3 * 13), (7, 3, 100, 7), (0, 2, 3, 2)],
)
def test_budget_counts_steps_or_passes(steps, epochs, slices, expected):
    config = default.get_config()
    config.train.update(steps=steps, epochs=epochs, batch_size=8)
    planned = parts.assemble(config).plan.budget(slices)
    assert planned.steps == expected
    assert planned.epochs == pytest.approx(expected / planned.steps_per_epoch)


def test_lpips_file_is_named_when_it_is_not_there(tmp_path):
    with pytest.raises(errors.UserError, match=r"autoencoder.lpips: no file .*vgg.npz"):
        networks.read_lpips_weights(str(tmp_path / "vgg.npz"))
    (tmp_path / "vgg.pth").write_bytes(b"")
    with pytest.raises(errors.UserError, match=r"autoencoder.lpips: .*vgg.pth: no weights file"):
        networks.read_lpips_weights(str(tmp_path / "vgg.pth"))

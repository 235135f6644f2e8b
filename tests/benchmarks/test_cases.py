"""Which networks are compared, and what the rival is told of them."""

import json

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from benchmarks.speed import context as context_lib
from benchmarks.speed import ours, run
from benchmarks.speed.suites import profile, sample
from configs import brats, default, demo
from madad_jax.devices import hlo_costs


def test_a_named_network_replaces_the_config_s_own():
    config = context_lib.with_network(demo.get_config(), "unet XS")
    size, why = context_lib.denoiser_size(config)
    assert not why and size["model_channels"] == 64 and size["num_heads"] == 4
    assert size["dropout"] == 0.4 and size["in_channels"] == 8 and size["side"] == 24
    own, _ = context_lib.denoiser_size(context_lib.with_network(demo.get_config(), "own"))
    assert own["hidden_size"] == 128 and own["depth"] == 4


def test_networks_that_no_library_has():
    config = demo.get_config()
    assert context_lib.autoencoder_size(config)[0] is None
    config.autoencoder.patch = 1
    assert context_lib.autoencoder_size(config)[0]["channels"] == 64
    config.autoencoder.decoder_channels = 32
    assert "lighter decoder" in context_lib.autoencoder_size(config)[1]
    config.denoiser.update(name="unet", size="XS", patch=2, hidden_size=0, depth=0, num_heads=0)
    assert "no library has this network" in context_lib.denoiser_size(config)[1]


def test_a_light_config_stands_beside_the_published_networks():
    found = [
        context_lib.autoencoder_size(sample.published(c))[0]
        for c in (demo.get_config(), default.get_config())
    ]
    assert found[0] == found[1] and found[0]["channel_mult"] == (1, 2, 4, 4)


def test_official_options_are_those_of_the_preset():
    config = sample.official(demo.get_config(), 10)
    theirs = default.get_config("official")
    ours, published = (c.methods.madad.inference for c in (config, theirs))
    for key in ("difference", "reference", "gamma"):
        assert ours.score[key] == published.score[key]
    assert config.map.inside_brain == theirs.map.inside_brain
    assert ours.sampler.to_dict() == published.sampler.to_dict()


@pytest.mark.parametrize("make", [brats.get_config, demo.get_config])
def test_requests_are_json_and_row_names_tell_rows_apart(make, tmp_path):
    config = make()
    context = context_lib.Context(config, epath.Path(tmp_path))
    names = [(suite, name) for suite, rows in run.SUITES.items() for name in rows(context)]
    assert len(set(names)) == len(names) and {suite for suite, _ in names} == set(run.SUITES)
    asked = context_lib.request(config, 2, denoiser=context_lib.denoiser_size(config)[0])
    assert json.loads(json.dumps(asked))["batch"] == 2


def test_zero_kernels_wake_up_and_biases_stay():
    import numpy as np

    tree = {"kernel": np.zeros((4, 4), np.float32), "bias": np.zeros(4), "other": np.ones((2, 2))}
    woken = ours.awake(tree)
    assert np.asarray(woken["kernel"]).std() > 0 and not woken["bias"].any()
    assert (woken["other"] == 1).all()


def test_kernels_are_told_apart_by_what_they_hold_and_loops_are_not_counted_twice():
    """A softmax before a product in a loop: from a real program's text."""

    def body(x, _):
        return jnp.tanh(x @ x), None

    compiled = (
        jax.jit(lambda x: jax.lax.scan(body, x, length=3)).lower(jnp.ones((64, 64))).compile()
    )
    contents = hlo_costs.contents(compiled.as_text())
    (loop,) = (name for name, held in contents.items() if "while" in held)
    # The compiler may hide a product in a fusion whose name says nothing of it.
    (product, *_) = (n for n in contents if contents[n] > {"dot"} and n != loop)
    events = [(loop, 9.0), (product, 2.0), ("unknown.1", 0.5)]
    assert profile.by_kind(events, contents) == {"matrix products": 2.0, "other": 0.5}


@pytest.mark.parametrize(
    "held,kind",
    [
        ({"fusion", "convolution", "add"}, "convolutions"),
        ({"fusion", "dot", "exponential"}, "matrix products"),
        ({"fusion", "exponential", "add", "reduce"}, "with exponentials (softmax, SiLU)"),
        ({"copy"}, "copies"),
        ({"mystery"}, "other"),
    ],
)
def test_the_kind_of_a_kernel(held, kind):
    assert profile.kind(frozenset(held)) == kind

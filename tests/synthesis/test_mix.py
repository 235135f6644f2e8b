import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.synthesis import mix, shapes

OPTIONS = shapes.Options(share=0.4, min_radius=0.1, max_radius=0.2)


def batch(count=32, side=16):
    draw = np.random.default_rng(0)
    brain = np.zeros((count, side, side), bool)
    brain[:, 2:-2, 3:-3] = True
    image = draw.uniform(-1, 1, (count, side, side, 1)).astype(np.float32)
    return {"image": jnp.asarray(image), "brain_mask": jnp.asarray(brain)}


def replace(key, options=OPTIONS, with_anomaly=lambda images: images):
    b = batch()
    plain = jax.tree.map(jnp.zeros_like, jax.eval_shape(with_anomaly, b["image"]))
    return jax.jit(lambda k: mix.replace_share(k, b, options, plain, with_anomaly))(key)


def test_whole_samples_are_replaced_by_what_is_made_of_drawn_anomalies():
    """Against the two draws, written out."""
    b, (k_choice, k_anomaly) = batch(), jax.random.split(jax.random.key(3))
    chosen = np.asarray(jax.random.bernoulli(k_choice, 0.4, (32,)))
    drawn = np.asarray(jax.jit(lambda k: shapes.corrupt(k, *b.values(), OPTIONS))(k_anomaly))
    assert 4 < chosen.sum() < 28
    expected = np.where(chosen[:, None, None, None], drawn, 0)
    np.testing.assert_allclose(replace((k_choice, k_anomaly)), expected, atol=1e-6)


def test_one_key_is_split_into_the_two():
    key = jax.random.key(5)
    np.testing.assert_array_equal(replace(key), replace(tuple(jax.random.split(key))))


def test_every_part_of_a_tree_takes_the_same_samples():
    def with_anomaly(images):
        return {
            "images": images,
            "cells": images[:, ::2, ::2, 0] + 9,
            "label": images.min((1, 2)) > -9,
        }

    found = replace(jax.random.key(1), with_anomaly=with_anomaly)
    chosen = np.asarray(found["label"][:, 0])
    assert 4 < chosen.sum() < 28
    for name in ("images", "cells"):
        np.testing.assert_array_equal(np.asarray(found[name]).reshape(32, -1).any(1), chosen)


def test_no_share_leaves_no_trace_in_the_program():
    b, none = batch(), shapes.Options(share=0.0)

    def run(key, plain):
        return mix.replace_share(key, b, none, plain, lambda images: images)

    assert not jax.make_jaxpr(run)(jax.random.key(0), b["image"]).jaxpr.eqns


def test_latents_alone_are_refused():
    with pytest.raises(errors.UserError, match=r"synthesis\.share: found 0\.4, .* no image"):
        mix.replace_share(jax.random.key(0), {"brain_mask": None}, OPTIONS, None, lambda x: x)

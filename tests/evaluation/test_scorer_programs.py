"""The scorer's program: made once, in a thread or not, with the draws of every version before."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors, random_keys
from madad_jax.devices import mesh as mesh_lib
from madad_jax.evaluation import scorer as scorer_lib


class Noise:
    """A map of weights and draws; counts how often it is traced."""

    name = "noise"

    def __init__(self):
        self.traced = 0

    def init(self, key, batch_spec):
        raise NotImplementedError

    def loss(self, params, frozen, batch, key, *, train=True):
        raise NotImplementedError

    def anomaly_map(self, params, frozen, batch, key):
        self.traced += 1
        if batch["image"].shape[1] == 3:
            raise errors.UserError("an odd size")
        draw = jax.random.uniform(key, batch["image"].shape[:3])
        return {"map": params * draw + frozen, "reconstruction": batch["image"], "rewritten": draw}


def _batch(side=4):
    return {
        "image": np.ones((2, side, side, 1), np.float32),
        "brain_mask": np.ones((2, side, side), bool),
        "index": np.arange(2),
    }


@pytest.fixture
def scorer():
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    return scorer_lib.Scorer(Noise(), jnp.float32(2.0), jnp.float32(1.0), mesh, seed=7)


@pytest.mark.parametrize("number", [0, 3, 2**31])
def test_draws_are_those_of_the_seed_and_the_batch_number(scorer, number):
    out = scorer(number, _batch())
    key = random_keys.stream(jax.random.key(7), "evaluate")
    draw = jax.random.uniform(jax.random.fold_in(key, number), (2, 4, 4))
    np.testing.assert_array_equal(out["map"], 2 * np.asarray(draw) + 1)
    assert set(out) == {"map", "reconstruction"}


def test_what_was_prepared_is_not_made_again(scorer):
    scorer.prepare(2, 4)
    for number in range(3):
        scorer(number, _batch())
    assert scorer._reads[0].traced == 1
    scorer(0, _batch(8))
    assert scorer._reads[0].traced == 2


def test_threads_share_one_program(scorer):
    threads = [threading.Thread(target=scorer, args=(n, _batch())) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scorer._reads[0].traced == 1


def test_a_mistake_found_in_the_thread_is_raised_where_maps_are_asked_for(scorer):
    scorer.prepare(2, 3)
    for _ in range(2):
        with pytest.raises(errors.UserError, match="an odd size"):
            scorer(0, _batch(3))

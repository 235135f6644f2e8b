import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import registry
from madad_jax.models.layers import chunks
from tests.methods import stand_ins


@pytest.mark.parametrize(("chunk", "parts"), [(0, [6]), (6, [6]), (4, [3]), (5, [3]), (1, [1])])
def test_parts_are_equal_divisors_and_rows_keep_their_order(chunk, parts):
    seen = []

    def function(x, y):
        seen.append(len(x))
        return x + y, {"twice": 2 * x}

    x = jnp.arange(12.0).reshape(6, 2)
    total, more = chunks.in_chunks(function, chunk, x, 10 * x)
    assert sorted(set(seen)) == parts
    np.testing.assert_array_equal(total, 11 * x)
    np.testing.assert_array_equal(more["twice"], 2 * x)


@pytest.fixture(scope="module")
def small():
    config = {"channels": 4, "channel_mult": (1, 1), "num_res_blocks": 0, "num_groups": 2}
    whole = registry.autoencoder(**config, mid_attention=False)
    parts = registry.autoencoder(**config, mid_attention=False, chunk=2)
    return whole, parts, whole.init(jax.random.key(0), (1, 8, 8, 1))


def test_an_autoencoder_in_chunks_computes_the_same_and_so_do_its_gradients(small):
    whole, parts, params = small
    image = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))

    def outputs(network):
        def loss(params):
            mean, logvar = network.encode(params, image)
            decoded = network.decode(params, mean)
            return jnp.square(decoded - image).mean(), (mean, logvar, decoded)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), outputs(whole), outputs(parts)
    )


def counting(chunk):
    """(an autoencoder of stand-ins, how many images its decoder was given)."""
    given = []

    @dataclasses.dataclass(frozen=True)
    class Counted(stand_ins.Squares):
        def apply(self, variables, x, method):
            jax.debug.callback(lambda x: given.append(len(x)), x)
            return super().apply(variables, x, method)

    made = dataclasses.replace(stand_ins.autoencoder(), _module=Counted(), chunk=chunk)
    return made, given


@pytest.mark.parametrize(
    ("chunk", "changed", "decoded"),
    [(0, (), [4]), (0, (1,), [8]), (1, (), [1] * 4), (1, (1, 3), [1, 1, 2, 2]), (2, (1,), [2, 4])],
)
def test_what_was_not_changed_is_decoded_once(chunk, changed, decoded):
    network, given = counting(chunk)
    latent = jax.random.normal(jax.random.key(2), (4, 2, 3, 16))
    corrected = latent
    for i in changed:
        corrected = corrected.at[i, 0, 1, 5].add(1.0)
    first, second = jax.jit(network.decode_both)({}, corrected, latent)
    jax.effects_barrier()
    assert sorted(given) == decoded
    plain = stand_ins.autoencoder()
    np.testing.assert_array_equal(first, plain.decode({}, corrected))
    np.testing.assert_array_equal(second, plain.decode({}, latent))


def test_a_chunk_below_zero_is_named():
    with pytest.raises(errors.UserError, match=r"autoencoder\.chunk: found -1"):
        registry.autoencoder(chunk=-1)

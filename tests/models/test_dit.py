import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import registry
from madad_jax.models.networks import dit

TINY = {"size": None, "hidden_size": 32, "depth": 2, "num_heads": 4}


def random_params(denoiser, shape, seed=0):
    """Nothing at zero, so that every tensor matters."""
    template = jax.eval_shape(lambda k: denoiser.init(k, shape), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: (rng.standard_normal(x.shape) / math.sqrt(x.shape[0])).astype(np.float32),
        template,
    )


def inputs(shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return jnp.asarray(x), jnp.arange(shape[0], dtype=jnp.int32) * 4 + 1


def positions_direct(rows, columns, quarter):
    omega = 10000.0 ** (-np.arange(quarter) / quarter)
    return np.stack(
        [
            np.concatenate(
                [np.sin(j * omega), np.cos(j * omega), np.sin(i * omega), np.cos(i * omega)]
            )
            for i in range(rows)
            for j in range(columns)
        ]
    )


def dit_direct(params, x, t, heads, patch):
    """The published forward pass, float64, one image at a time, loops over patches."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def linear(name, h, tree=p):
        kernel, bias = tree[name]["kernel"], tree[name]["bias"]
        return h @ kernel.reshape(len(kernel), -1) + bias.ravel()

    def silu(h):
        return h / (1 + np.exp(-h))

    def gelu(h):
        return 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))

    def norm(h):
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)

    height, width, channels = x.shape
    rows, columns = height // patch, width // patch
    dim = p["x_embedder"]["kernel"].shape[1]
    tokens = np.stack(
        [
            x[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].reshape(-1)
            for i in range(rows)
            for j in range(columns)
        ]
    )
    positions = positions_direct(rows, columns, dim // 4)
    f = np.exp(-np.log(10000) * np.arange(128) / 128)
    c = np.concatenate([np.cos(t * f), np.sin(t * f)])
    c = linear("t_embedder_mlp_2", silu(linear("t_embedder_mlp_0", c)))
    h = linear("x_embedder", tokens) + positions
    for i in range(len([k for k in p if k.startswith("blocks_")])):
        b = p[f"blocks_{i}"]
        s1, m1, g1, s2, m2, g2 = np.split(linear("adaLN_modulation_1", silu(c), b), 6)
        q, k, v = np.split(linear("attn_qkv", norm(h) * (1 + m1) + s1, b), 3, axis=-1)
        mixed = []
        for head in range(heads):
            part = slice(head * dim // heads, (head + 1) * dim // heads)
            logits = q[:, part] @ k[:, part].T / np.sqrt(dim // heads)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        h = h + g1 * linear("attn_proj", np.concatenate(mixed, -1), b)
        hidden = gelu(linear("mlp_fc1", norm(h) * (1 + m2) + s2, b))
        h = h + g2 * linear("mlp_fc2", hidden, b)
    shift, scale = np.split(linear("final_layer_adaLN_modulation_1", silu(c)), 2)
    h = norm(h) * (1 + scale) + shift
    out = []
    for name, depth in (("final_layer_linear", channels), ("final_layer_mask", 1)):
        image = np.zeros((height, width, depth))
        for n, token in enumerate(linear(name, h)):
            i, j = divmod(n, columns)
            image[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] = token.reshape(
                patch, patch, depth
            )
        out.append(image)
    return out


# Not square, so that rows and columns cannot be mixed up unnoticed.
@pytest.mark.parametrize(("patch", "shape"), [(2, (2, 8, 12, 4)), (1, (2, 4, 6, 3))])
def test_forward_agrees_with_a_direct_computation(patch, shape):
    denoiser = registry.denoiser("dit", **TINY, patch_size=patch)
    params, (x, t) = random_params(denoiser, shape), inputs(shape)
    with jax.default_matmul_precision("highest"):
        x0, logit = jax.jit(denoiser.apply)(params, x, t)[:2]
    for i in range(shape[0]):
        wanted_x0, wanted_logit = dit_direct(
            params, np.asarray(x[i], np.float64), int(t[i]), 4, patch
        )
        assert np.abs(wanted_x0).max() > 0.5
        np.testing.assert_allclose(x0[i], wanted_x0, atol=2e-5)
        np.testing.assert_allclose(logit[i], wanted_logit, atol=2e-5)


# The published counts hold a label table of 1001 rows, the fixed position table, and a final
# map to 8 channels (mean and variance); ours has none of the tables, 4 channels and a mask.
# Published: 33M for S/2, 675M for XL/2, the latter also to the last digit.
@pytest.mark.parametrize(
    ("size", "published", "slack"), [("S/2", 33_000_000, 500_000), ("XL/2", 675_129_632, 0)]
)
def test_parameter_counts_of_the_published_sizes(size, published, slack):
    hidden = dit.SIZES[size.split("/")[0]][0]
    depth = registry.denoiser("dit", size=size)._module.depth

    def count(blocks):
        denoiser = registry.denoiser("dit", size=size, depth=blocks)
        params = jax.eval_shape(lambda k: denoiser.init(k, (1, 4, 4, 4)), jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    # All blocks are alike, and tracing 28 of them takes ten seconds.
    ours = count(1) + (depth - 1) * (count(2) - count(1))
    tables = 1001 * hidden + 256 * hidden
    final_map = (hidden + 1) * 4 * (8 - 4 - 1)
    assert abs(ours + tables + final_map - published) <= slack


def test_patchify_round_trip_and_order():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    patches = dit.patchify(x, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 4], x[1, 2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(dit.unpatchify(patches, 2, 4, 6), x)


def test_without_positions_the_blocks_are_permutation_equivariant(monkeypatch):
    """Permuting patches permutes outputs once the position table is taken away, and not before."""
    denoiser = registry.denoiser("dit", **TINY, patch_size=2)
    shape = (1, 4, 4, 4)
    params, (x, t) = random_params(denoiser, shape), inputs(shape)
    order = np.array([2, 0, 3, 1])

    def permuted(image):
        return dit.unpatchify(dit.patchify(image, 2)[:, order], 2, 4, 4)

    def difference():
        apply = jax.jit(lambda x: denoiser.apply(params, x, t)[0])
        return np.abs(apply(permuted(x)) - permuted(apply(x))).max()

    assert difference() > 0.05
    monkeypatch.setattr(dit, "position_embedding", lambda d, r, c: np.zeros((r * c, d), np.float32))
    assert difference() < 1e-5


@pytest.mark.parametrize("residual", [False, True])
def test_starts_from_zero_or_from_the_input(residual):
    shape = (2, 8, 8, 4)
    x, t = inputs(shape)
    denoiser = registry.denoiser("dit", **TINY, residual_x0=residual)
    x0, logit = jax.jit(denoiser.apply)(denoiser.init(jax.random.key(0), shape), x, t)[:2]
    np.testing.assert_array_equal(x0, x if residual else np.zeros(shape))
    np.testing.assert_array_equal(logit, np.zeros((2, 8, 8, 1)))


def value_and_grad(denoiser, params, x, t, key=None):
    def loss(params):
        x0, logit = denoiser.apply(params, x, t, key=key)[:2]
        return jnp.square(x0 - 1).mean() + jnp.square(logit - 1).mean()

    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.value_and_grad(loss))(params)


def test_remat_changes_neither_values_nor_gradients():
    shape = (2, 8, 8, 4)
    plain = registry.denoiser("dit", **TINY, dropout=0.3)
    remat = registry.denoiser("dit", **TINY, dropout=0.3, remat=True)
    params, (x, t) = random_params(plain, shape), inputs(shape)
    key = jax.random.key(5)  # dropout too: the recomputation must draw the same cells
    one, two = (value_and_grad(d, params, x, t, key) for d in (plain, remat))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one[1], two[1])


def test_one_block_run_for_each_is_all_in_a_row():
    shape = (2, 8, 8, 4)
    plain = registry.denoiser("dit", **TINY)
    scanned = registry.denoiser("dit", **TINY, scan=True, remat=True)
    params, (x, t) = random_params(plain, shape), inputs(shape)
    template = jax.eval_shape(lambda k: scanned.init(k, shape), jax.random.key(0))
    assert jax.tree.structure(template) == jax.tree.structure(params)
    one, two = (value_and_grad(d, params, x, t, None) for d in (plain, scanned))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one[1], two[1])


def test_blocks_in_a_loop_take_dropout_from_the_key():
    shape = (2, 8, 8, 4)
    denoiser = registry.denoiser("dit", **TINY, dropout=0.5, scan=True)
    params, (x, t) = random_params(denoiser, shape), inputs(shape)
    apply = jax.jit(denoiser.apply)
    drawn = [apply(params, x, t, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3


def test_dropout_only_with_a_key():
    shape = (2, 8, 8, 4)
    denoiser = registry.denoiser("dit", **TINY, dropout=0.5)
    params, (x, t) = random_params(denoiser, shape), inputs(shape)
    apply = jax.jit(denoiser.apply)
    still = [apply(params, x, t)[0] for _ in range(2)]
    drawn = [apply(params, x, t, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    np.testing.assert_array_equal(*still)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3
    assert np.abs(drawn[0] - still[0]).max() > 1e-3


def test_bfloat16_is_close_and_heads_stay_float32():
    shape = (2, 8, 8, 4)
    params = random_params(registry.denoiser("dit", **TINY), shape)
    x, t = inputs(shape)
    full = jax.jit(registry.denoiser("dit", **TINY).apply)(params, x, t)
    half = jax.jit(registry.denoiser("dit", **TINY, dtype="bfloat16").apply)(params, x, t)
    assert half.penalty is None
    for a, b in zip(half[:2], full[:2], strict=True):
        assert a.dtype == jnp.float32
        assert 0 < np.abs(a - b).max() < 0.05 * np.abs(b).max()


def test_latent_that_does_not_divide_into_patches():
    denoiser = registry.denoiser("dit", **TINY, patch_size=4)
    with pytest.raises(errors.UserError, match=r"6x8 cells .* patches of 4"):
        denoiser.init(jax.random.key(0), (1, 6, 8, 4))

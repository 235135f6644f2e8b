import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import image_networks
from madad_jax.models.networks import vit
from tests.models import vit_cases


def test_turned_queries_and_keys_know_their_distance_alone():
    """Along one axis, moving both by as much changes no product; prefix tokens stay."""
    rows, columns, size = 6, 5, 16
    cos, sin = vit.rotations(size, rows, columns, 3)
    draw = np.random.default_rng(0)
    q, k = draw.standard_normal((2, size)).astype(np.float32)

    def turned(x, token):
        x = jnp.asarray(x)[None, None, None]
        return np.asarray(vit._rotate(x, cos[token][None], sin[token][None]))[0, 0, 0]

    def product(a, b):
        place = [3 + r * columns + c for r, c in (a, b)]
        return turned(q, place[0]) @ turned(k, place[1])

    np.testing.assert_allclose(product((0, 1), (2, 3)), product((3, 2), (5, 4)), rtol=1e-4)
    assert abs(product((0, 1), (2, 3)) - product((0, 1), (3, 3))) > 1e-3
    np.testing.assert_array_equal(turned(q, 2), q)


def test_angles_are_those_of_the_formula():
    cos, sin = vit.rotations(8, 2, 3, 1)
    token = 1 + 1 * 3 + 2  # row 1 of 2, column 2 of 3
    y, x = 0.5, 2 / 3
    angles = [2 * np.pi * v / 100 ** (4 * i / 8) for v in (y, x) for i in range(2)] * 2
    np.testing.assert_allclose(cos[token], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sin[token], np.sin(angles), atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_cubic_weights(offset):
    matrix = vit.cubic_matrix(8, 5, offset)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
    # Row 2 by hand: its four taps, a = -0.75.
    place = 2.5 * 8 / (5 + offset) - 0.5
    t = place - np.floor(place)
    near = [1.25 * d**3 - 2.25 * d**2 + 1 for d in (t, 1 - t)]
    far = [-0.75 * (d**3 - 5 * d**2 + 8 * d - 4) for d in (1 + t, 2 - t)]
    low = int(np.floor(place))
    row = [far[0], near[0], near[1], far[1]]
    np.testing.assert_allclose(matrix[2, low - 1 : low + 3], row, atol=1e-6)
    np.testing.assert_allclose(vit.cubic_matrix(6, 6, 0.0), np.eye(6), atol=1e-6)


@pytest.mark.torch
def test_cubic_weights_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0).standard_normal((1, 1, 37, 37))
    for offset, options in ((0.0, {"size": (32, 40)}), (0.1, {})):
        if not options:
            options = {"scale_factor": ((32 + offset) / 37, (40 + offset) / 37)}
        expected = torch.nn.functional.interpolate(torch.tensor(draw), mode="bicubic", **options)
        down, across = (vit.cubic_matrix(37, n, offset) for n in (32, 40))
        np.testing.assert_allclose(down @ draw[0, 0] @ across.T, expected[0, 0], atol=1e-5)


def test_slices_are_grey_photographs():
    """One channel three times, in [0, 1], with the mean and spread of ImageNet."""
    encoder = vit_cases.encoder("dinov3")
    params = encoder.init(jax.random.key(0), (1, 32, 48, 1))
    image = jax.random.uniform(jax.random.key(1), (2, 32, 48, 1), minval=-1.0)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    colour = ((image + 1) / 2 - mean) / std
    found = encoder.tokens(params, image)
    assert found.shape == (2, 2, 3, 64) == (2, 2, 3, encoder.width)
    np.testing.assert_allclose(found, encoder.apply(params, jnp.asarray(colour)), atol=1e-5)


def test_what_is_refused():
    with pytest.raises(errors.UserError, match=r"features\.network: found 'x', .*dinov3_b16"):
        image_networks.vision_transformer("x")
    with pytest.raises(errors.UserError, match=r"features\.position_resize: found 'antialias'"):
        image_networks.vision_transformer(position_resize="antialias")
    encoder = vit_cases.encoder("dinov2")
    with pytest.raises(errors.UserError, match=r"found 30x28 pixels, accepted: multiples of 14"):
        encoder.apply(encoder.init(jax.random.key(0), (1, 28, 28, 1)), jnp.zeros((1, 30, 28, 3)))


@pytest.mark.parametrize(("name", "millions"), [("dinov2_s14", 22.06), ("dinov3_b16", 85.6)])
def test_published_sizes(name, millions):
    encoder = image_networks.vision_transformer(name)
    shapes = jax.eval_shape(lambda k: encoder.init(k, (1, 28, 28, 1)), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / 1e6 - millions) < 0.06

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import registry
from madad_jax.models.networks import lpips


def test_one_logit_an_image_that_depends_on_image_and_level():
    network = registry.classifier(model_channels=8, channel_mult=(1, 2), num_res_blocks=1, patch=2)
    params = jax.eval_shape(lambda k: network.init(k, (1, 16, 16, 1)), jax.random.key(0))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: draw.normal(0, 0.3, x.shape).astype(np.float32), params)
    x = jax.random.normal(jax.random.key(2), (3, 16, 16, 1))
    apply = jax.jit(network.apply)
    one, other = apply(params, x, jnp.array([0, 0, 0])), apply(params, x, jnp.array([9, 0, 0]))
    assert one.shape == (3,) and len(set(np.asarray(one).tolist())) == 3
    assert one[0] != other[0]
    np.testing.assert_array_equal(one[1:], other[1:])


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(errors.UserError, match=r"classifier.model_channels: 12 channels"):
        registry.classifier(model_channels=12)
    with pytest.raises(errors.UserError, match=r"classifier.width: unknown key"):
        registry.classifier(width=12)


def test_the_map_of_lpips_has_the_distance_as_its_mean():
    """Layers of one size each, so that enlarging them changes no mean."""
    draw = np.random.default_rng(0)
    weights, channels = {}, 3
    for block, (indices, width) in enumerate(zip(lpips.BLOCKS, lpips.WIDTHS, strict=True)):
        for n in indices:
            kernel = draw.normal(0, 0.05, (3, 3, channels, width)).astype(np.float32)
            weights[f"conv_{n}"] = {"kernel": kernel, "bias": np.zeros(width, np.float32)}
            channels = width
        weights[f"lin_{block}"] = {"kernel": draw.uniform(0, 1, width).astype(np.float32)}
    # All but the first block weigh nothing: its features have the image's own size.
    for block in range(1, 5):
        weights[f"lin_{block}"]["kernel"][:] = 0.0
    a, b = (jnp.asarray(draw.uniform(-1, 1, (2, 16, 16, 1)), jnp.float32) for _ in range(2))
    found = jax.jit(lpips.distance_map)(weights, a, b)
    expected = jax.jit(lpips.distance)(weights, a, b)
    np.testing.assert_allclose(found.mean((1, 2)), np.asarray(expected)[:, 0, 0, 0], rtol=1e-4)
    assert found.shape == (2, 16, 16) and found.min() >= 0 and found.std() > 0

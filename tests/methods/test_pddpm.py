import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.methods import pddpm
from tests.methods import stand_ins
from tests.methods.test_image_diffusion import PLAIN, SCHEDULE, batch, process


def method(function, **options):
    options = {"box": 8, "stride": 8, "start": 10} | options
    return pddpm.PatchedDdpm(stand_ins.network(function), process(), PLAIN, **options)


def test_boxes_cover_the_image_and_reach_its_edges():
    grid = pddpm.boxes((10, 14), 6, 4)
    assert grid.shape == (2 * 3, 10, 14) and grid.any(0).all()
    assert (grid.sum((1, 2)) == 36).all()
    assert pddpm.boxes((16, 16), 8, 8).sum(0).max() == 1  # side by side
    with pytest.raises(errors.UserError, match=r"methods.pddpm.box: found 20, accepted: 1 to 10"):
        pddpm.boxes((10, 14), 20, 4)
    with pytest.raises(errors.UserError, match=r"methods.pddpm.stride: found 7, accepted: 1 to 6"):
        pddpm.boxes((10, 14), 6, 7)


@pytest.mark.parametrize("stride", [8, 4])
def test_every_box_is_painted_from_its_surroundings_and_stitched(stride):
    """A network that says the mean of what it sees: boxes differ by the noise inside alone, so
    the stitched image is computed box by box."""
    made, b, key = (
        method(lambda p, x, t: 0 * x + x.mean((1, 2), keepdims=True), stride=stride),
        batch(),
        jax.random.key(3),
    )
    out = jax.jit(made.anomaly_map)({}, {}, b, key)
    x = np.asarray(b["image"])
    grid = pddpm.boxes((16, 16), 8, stride)
    total = np.zeros_like(x)
    abar = SCHEDULE.alphas_cumprod[10]
    for number, inside in enumerate(grid[..., None]):
        drawn = np.asarray(jax.random.normal(jax.random.fold_in(key, number), x.shape))
        given = np.where(inside, np.sqrt(abar) * x + np.sqrt(1 - abar) * drawn, x)
        total += inside * np.clip(given.mean((1, 2), keepdims=True), -1, 1)
    expected = total / grid.sum(0)[..., None]
    np.testing.assert_allclose(out["reconstruction"], expected, atol=1e-5)
    difference = np.abs(expected - x)[..., 0] / 2 * np.asarray(b["brain_mask"])
    np.testing.assert_allclose(out["map"], difference, atol=1e-5)


def test_the_loss_reads_the_box_alone():
    """A network that answers 5 outside what was noised: only the error inside counts."""
    b = batch(4)

    def says(params, x, t):
        untouched = x == b["image"]
        return jnp.where(untouched, 5.0, b["image"] + params)

    loss, _ = method(says).loss(jnp.float32(0.25), {}, b, jax.random.key(0))
    np.testing.assert_allclose(loss, 0.25, rtol=1e-5)

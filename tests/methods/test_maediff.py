import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import noise, partial, schedule
from madad_jax.methods import maediff
from madad_jax.models import image_networks, interfaces

PROCESS = partial.Process(schedule.make_schedule("linear", 100), noise.Noise(), "x0")
SIDE, BOX, PATCH = 16, 8, 4


@dataclasses.dataclass(frozen=True)
class Notes:
    """Answers its first channel plus params and notes what it was asked."""

    calls: list

    def apply(self, variables, x, t, *, train, rngs):
        del train, rngs
        self.calls.append({"x": x, "t": t})
        return x[..., :1] + variables["params"], None


def method(**options):
    calls = []
    encoder = image_networks.masked_autoencoder(patch=PATCH, hidden_size=8, depth=1, num_heads=1)
    made = maediff.MaeDiff(
        **{"box": BOX, "stride": 4, "start": 50} | options,
        network=interfaces.Denoiser(name="notes", _module=Notes(calls)),
        encoder=encoder,
        process=PROCESS,
    )
    return made, calls


def batch(count=6):
    image = np.random.default_rng(0).uniform(-1, 1, (count, SIDE, SIDE, 1))
    brain = jnp.ones((count, SIDE, SIDE), bool)
    return {"image": jnp.asarray(image, jnp.float32), "brain_mask": brain, "step": jnp.int32(0)}


def params(made):
    mae = made.encoder.init(jax.random.key(0), (1, SIDE, SIDE, 1))
    return {"unet": jnp.float32(0.0), "mae": mae}


def test_boxes_cover_the_image_and_overlap():
    corners = maediff.grid((16, 20), 8, 6)
    assert corners.min() == 0 and tuple(corners.max(0)) == (8, 12)
    masks = np.asarray(maediff.box_masks(jnp.asarray(corners), (16, 20), 8))
    assert (masks.sum((1, 2)) == 64).all()
    assert (masks.sum(0) >= 1).all() and masks.sum(0).max() > 1


def test_sub_patches_that_the_box_touches_are_hidden():
    box = maediff.box_masks(jnp.array([[4, 6]]), (16, 16), 8)
    visible = np.asarray(maediff.visible_patches(box, 4))[0]
    expected = np.ones((4, 4))
    expected[1:3, 1:4] = 0  # rows 4..11, columns 6..13
    np.testing.assert_array_equal(visible, expected)


def test_loss_noises_one_box_and_is_taken_in_it():
    made, calls = method()
    b, p = batch(), params(made)
    key = jax.random.key(3)

    @jax.jit
    def run(key):
        loss, metrics = made.loss(p, {}, b, key)
        return loss, metrics, calls[-1]["x"]

    loss, metrics, given = run(key)
    x, given = np.asarray(b["image"]), np.asarray(given)
    changed = np.abs(given[..., :1] - x)[..., 0] > 1e-6
    for one in changed:
        rows, columns = np.nonzero(one)
        assert rows.max() - rows.min() == columns.max() - columns.min() == BOX - 1
    boxes = changed[..., None]  # with continuous noise every pixel of the box has changed
    assert changed.sum() == 6 * BOX * BOX
    np.testing.assert_allclose(metrics["l1"], np.abs(given[..., :1] - x)[boxes].mean(), rtol=1e-4)
    visible = 1 - changed.reshape(6, 4, 4, 4, 4).max((2, 4))
    guess = jax.jit(made.encoder.apply)(p["mae"], b["image"], jnp.asarray(visible, jnp.float32))
    guess = np.asarray(guess)
    np.testing.assert_allclose(given[..., 1:], guess, atol=1e-5)
    hidden = np.repeat(np.repeat(visible == 0, 4, 1), 4, 2)[..., None]
    np.testing.assert_allclose(metrics["mae_loss"], np.square(x - guess)[hidden].mean(), rtol=1e-4)
    np.testing.assert_allclose(loss, metrics["l1"] + metrics["mae_loss"], rtol=1e-6)


def test_reconstruction_is_the_average_of_the_boxes():
    """A network that answers a constant c: every pixel is covered, so x_hat = c everywhere."""

    @dataclasses.dataclass(frozen=True)
    class Constant:
        def apply(self, variables, x, t, *, train, rngs):
            del t, train, rngs
            return 0.0 * x[..., :1] + variables["params"], None

    made, _ = method()
    made = dataclasses.replace(made, network=interfaces.Denoiser(name="c", _module=Constant()))
    b, p = batch(), params(made) | {"unet": jnp.float32(0.3)}
    out = jax.jit(made.anomaly_map)(p, {}, b, jax.random.key(0))
    np.testing.assert_allclose(out["reconstruction"], np.full((6, SIDE, SIDE, 1), 0.3), rtol=1e-5)
    expected = np.abs(0.3 - np.asarray(b["image"]))[..., 0] / 2
    np.testing.assert_allclose(out["map"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "found"),
    [({"stride": 9}, "stride: found 9, accepted: 1 to box=8"), ({"start": 100}, "found 100")],
)
def test_bad_options_are_named(options, found):
    with pytest.raises(errors.UserError, match=found):
        method(**options)


def test_box_must_fit():
    with pytest.raises(errors.UserError, match="box: found 32, accepted: at most"):
        method(box=32)[0].init(jax.random.key(0), batch())

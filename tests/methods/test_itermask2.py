import jax
import jax.numpy as jnp
import numpy as np

from madad_jax.methods import itermask2
from tests.methods import stand_ins
from tests.methods.test_image_diffusion import PLAIN, batch


def test_high_frequencies_keep_phases_and_flatten_low_amplitudes():
    x = batch()["image"]
    high = jax.jit(itermask2.high_frequencies, static_argnums=1)
    found = np.asarray(high(x, 3.0))[..., 0]
    for i in range(2):
        spectrum = np.fft.fft2(np.asarray(x[i, ..., 0], np.float64))
        for r in range(16):
            for c in range(16):
                fr, fc = min(r, 16 - r), min(c, 16 - c)
                if fr**2 + fc**2 < 9:
                    spectrum[r, c] /= max(abs(spectrum[r, c]), 1e-30)
        np.testing.assert_allclose(found[i], np.fft.ifft2(spectrum).real, atol=1e-5)
    np.testing.assert_allclose(high(x, 0.0), x, atol=1e-5)


def test_squares_are_squares_inside_the_brain():
    brain = batch(32)["brain_mask"]
    squares = jax.jit(itermask2.random_squares, static_argnums=(2, 3))
    one = squares(jax.random.key(0), brain, (4,), 1)
    area = np.asarray(one.sum((1, 2)))
    assert area.max() == 16 and (np.asarray(one)[~np.asarray(brain)] == 0).all()
    many = squares(jax.random.key(1), brain, (2, 4), 40)
    share = np.asarray(many.sum((1, 2)) / brain.sum((1, 2)))
    assert share.min() < 0.3 and share.max() > 0.6 and set(np.unique(many)) <= {0.0, 1.0}


def test_largest_share_takes_that_share_of_each_brain():
    error = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 16, 16)), jnp.float32)
    brain = batch(3)["brain_mask"]
    mask = np.asarray(itermask2.largest_share(error, brain, 0.6))
    inside = np.asarray(error)[np.asarray(brain)].reshape(3, -1)
    for i in range(3):
        kept = np.asarray(error[i])[mask[i]]
        assert kept.size == round(0.6 * inside.shape[1])
        assert kept.min() >= np.sort(inside[i])[-kept.size]


def test_the_mask_shrinks_as_a_loop_over_each_image_says():
    """A stand-in for B whose error grows with the mask: images stop after different rounds."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 12, 12, 1)), jnp.float32)
    gain = jnp.asarray([0.1, 1.0, 0.3])
    start = jnp.ones((3, 12, 12), bool)
    rounds_seen = []

    def reconstruct(mask, number):
        share = mask.mean((1, 2)) * gain
        return x * (1 - share[:, None, None, None]) + 0.0 * number

    found, x_hat = itermask2.shrink(reconstruct, x, start, jnp.float32(0.02), least=0.05, rounds=20)
    for i in range(3):
        mask, rounds = np.ones((12, 12), bool), 0
        while rounds < 20:
            again = np.asarray(x[i, ..., 0]) * (1 - mask.mean() * float(gain[i]))
            kept = mask & (np.square(again - np.asarray(x[i, ..., 0])) > 0.02)
            lost = mask.sum() - kept.sum()
            rounds += 1
            going = lost >= 0.05 * mask.sum() and kept.any()
            mask = kept
            if not going:
                break
        rounds_seen.append(rounds)
        np.testing.assert_array_equal(found[i], mask)
        np.testing.assert_allclose(x_hat[i, ..., 0], again, atol=1e-5)
    assert len(set(rounds_seen)) > 1, rounds_seen


def test_pinball_finds_the_value_that_a_fifth_exceed():
    made = itermask2.IterMask2(stand_ins.network(lambda p, x, t: x), PLAIN)
    draw = np.random.default_rng(0)
    error = jnp.asarray(draw.gamma(1.0, 0.01, (4, 32, 32)), jnp.float32)
    mask = jnp.asarray(draw.uniform(size=(4, 32, 32)) < 0.5, jnp.float32)
    limit = np.quantile(np.asarray(error)[np.asarray(mask) > 0], 0.8)
    gradient = jax.jit(jax.grad(lambda p: made._pinball({"threshold": p}, error, mask)[0]))
    at = jnp.log(limit) / 10
    assert abs(float(gradient(at))) < 2e-3
    assert float(gradient(at + 0.02)) > 0.01 > -0.01 > float(gradient(at - 0.02))
    np.testing.assert_allclose(made.threshold({"threshold": at}), limit, rtol=1e-4)
    _, exceeded = made._pinball({"threshold": at}, error, mask)
    np.testing.assert_allclose(exceeded, 0.2, atol=2e-3)


def test_a_lesion_stays_masked_and_shows_in_the_map():
    """Both networks know the healthy image: what is left of the mask is the lesion."""
    b = batch()
    healthy = b["image"]
    lesion = np.zeros(healthy.shape, np.float32)
    lesion[:, 5:8, 6:10] = 0.9
    b["image"] = jnp.clip(healthy + lesion, -1, 1)
    made = itermask2.IterMask2(stand_ins.network(lambda p, x, t: healthy), PLAIN)
    p = {"threshold": jnp.log(jnp.float32(0.01)) / 10, "first": {}, "masked": {}}
    out = jax.jit(made.anomaly_map)(p, {}, b, jax.random.key(0))
    change = np.abs(np.asarray(b["image"] - healthy))[..., 0]
    expected = np.where(change > 0.1, change, 0) / 2
    np.testing.assert_allclose(out["map"], expected, atol=1e-5)
    np.testing.assert_allclose(out["reconstruction"], healthy, atol=1e-5)
    kept = jax.jit(made.loss)(p, {}, b | {"image": healthy}, jax.random.key(1))[1]
    assert float(kept["first_loss"]) == float(kept["masked_loss"]) == 0

"""Agreement with numbers that the official code computed (tests/fixtures/README.md)."""

import jax
import numpy as np
import pytest

from madad_jax.convert import autoencoder_kl_weights, unet_weights
from madad_jax.diffusion import samplers, schedule
from madad_jax.models import registry
from tests.models import official

UNET_32 = {"size": None, "model_channels": 32, "num_heads": 4}
TOLERANCE = 2e-5  # the official float32 code itself is 3e-6 away from float64


def formula_params(module, config, *shape):
    """Formula weights for a network of ours, by way of the published names."""
    shapes = {
        k: v.shape for k, v in module.to_official(zeros(module.template(config, *shape))).items()
    }
    return module.to_ours(official.state(shapes), config)


def zeros(template):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), template)


def close(name, ours):
    error = np.abs(np.asarray(ours) - official.expected(name)).max()
    assert error <= TOLERANCE, f"{name}: largest error {error:.1e}"


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


@pytest.fixture(autouse=True)
def highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


def check_unet(name, config, params, x, t):
    denoiser = registry.denoiser("unet", **config)
    x0, logit = jax.jit(denoiser.apply)(params, official.nhwc(x), np.asarray(t, np.int32))[:2]
    close(f"{name}_x0", x0)
    close(f"{name}_mask", sigmoid(logit))


def test_unet_32():
    params = formula_params(unet_weights, UNET_32, 4)
    check_unet("unet32", UNET_32, params, official.array("x", 2, 4, 32, 32), [3, 9])


def test_unet_xs_from_the_official_key_list():
    state = official.state(official.key_list("unet_xs_keys.txt"))
    params = unet_weights.to_ours(state)
    check_unet("unet_xs", {"size": "XS"}, params, official.array("x", 2, 4, 32, 32)[:1], [3])


@pytest.mark.parametrize(
    ("steps", "eta"),
    [
        (5, 0.5),
        pytest.param(10, 0.5, marks=pytest.mark.slow),
        pytest.param(10, 0.0, marks=pytest.mark.slow),
        pytest.param(2, 0.5, marks=pytest.mark.slow),
    ],
)
def test_selective_ddim_with_the_network(steps, eta):
    denoiser = registry.denoiser("unet", **UNET_32)
    params = formula_params(unet_weights, UNET_32, 4)
    spaced = schedule.respace(schedule.make_schedule("cosine", 10), steps)
    noise = np.stack([official.array(f"noise{i}", 1, 4, 32, 32) for i in range(steps)])

    @jax.jit
    def sample(params, latent, noise):
        def denoise(x, t):
            return denoiser.apply(params, x, t)

        return samplers.selective_ddim(denoise, latent, spaced, noise, eta=eta)["latent"]

    start = official.nhwc(official.array("z4", 1, 4, 32, 32))
    # One cell decided otherwise would be off by far more than the tolerance.
    close(f"ddim{steps}_eta{eta}", sample(params, start, noise.transpose(0, 1, 3, 4, 2)))


def check_autoencoder(name, config, params, image, latent):
    autoencoder = registry.autoencoder(**config)
    mean, logvar = jax.jit(autoencoder.encode)(params, official.nhwc(np.tanh(image)))
    close(f"{name}_mean", mean)
    close(f"{name}_logvar", logvar)
    close(f"{name}_decode", jax.jit(autoencoder.decode)(params, official.nhwc(latent)))


def test_autoencoder_32():
    config = {"channels": 32, "num_res_blocks": 1}
    params = formula_params(autoencoder_kl_weights, config)
    image, latent = official.array("image", 2, 1, 64, 64), official.array("latent", 2, 4, 8, 8)
    check_autoencoder("vae32", config, params, image, latent)


@pytest.mark.slow
def test_kl_f8_from_the_official_key_list():
    state = official.state(official.key_list("vae_klf8_keys.txt"))
    params = autoencoder_kl_weights.to_ours(state)
    image, latent = official.array("image", 1, 1, 64, 64), official.array("latent", 1, 4, 8, 8)
    check_autoencoder("klf8", {}, params, image, latent)

import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.anomaly_maps import fused
from madad_jax.core import errors


@pytest.mark.parametrize("fusion", fused.FUSIONS)
def test_constant_differences_give_the_closed_form(fusion):
    """Smoothing and resizing leave constants as they are: |0.1|/0.4 and |0.06|/0.2."""
    options = fused.FusedScore(fusion=fusion, image_sigma=1.0, latent_sigma=0.5)
    image, latent = jnp.zeros((1, 16, 16, 1)), jnp.zeros((1, 4, 4, 2))
    shifted = latent + jnp.array([0.1, -0.02])  # mean absolute difference 0.06
    brain = jnp.ones((1, 16, 16), bool)
    maps = fused.fused_maps(image - 0.1, image, shifted, latent, brain, options)
    expected = np.sqrt(0.25 * 0.3) if fusion == "geometric" else (0.25 + 0.3) / 2
    np.testing.assert_allclose(maps["map"], np.full((1, 16, 16), expected), rtol=1e-5)
    np.testing.assert_allclose(maps["latent_map"], np.full((1, 16, 16), 0.3), rtol=1e-5)


def test_both_differences_are_clipped_and_the_brain_is_cut_out():
    options = fused.FusedScore(inside_brain=True, image_sigma=0.0, latent_sigma=0.0)
    brain = jnp.zeros((1, 8, 8), bool).at[0, :4].set(True)
    ones = jnp.ones((1, 8, 8, 1)), jnp.ones((1, 2, 2, 1))
    maps = fused.fused_maps(ones[0], 0 * ones[0], 9 * ones[1], 0 * ones[1], brain, options)
    np.testing.assert_array_equal(maps["map"][0], np.asarray(brain[0], np.float32))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"fusion": "sum"}, "fusion"),
        ({"reference": "truth"}, "reference"),
        ({"image_gamma": 0.0}, "positive"),
    ],
)
def test_bad_options_are_named(options, found):
    with pytest.raises(errors.UserError, match=found):
        fused.FusedScore(**options)

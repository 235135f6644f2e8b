import jax
import jax.numpy as jnp
import pytest

from configs import default
from madad_jax.assembly import methods, networks, parts
from madad_jax.devices import jaxpr_flops


def shape(*lengths):
    return jax.ShapeDtypeStruct(lengths, jnp.float32)


def test_products_convolutions_and_loops_are_counted():
    assert jaxpr_flops.of(lambda x, y: x @ y, shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
    batched = (shape(6, 3, 4), shape(6, 4, 5))
    assert (
        jaxpr_flops.of(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), *batched) == 6 * 2 * 3 * 4 * 5
    )

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert jaxpr_flops.of(convolve, shape(1, 8, 8, 3), shape(3, 3, 3, 7)) == 2 * 4 * 4 * 7 * 9 * 3

    def loop(x):
        def body(x, _):
            return jax.lax.cond(x.sum() > 0, lambda x: x @ x, lambda x: x, x), None

        return jax.jit(lambda x: jax.lax.scan(body, x, None, length=5)[0])(x)

    assert jaxpr_flops.of(loop, shape(4, 4)) == 5 * 2 * 4**3
    assert jaxpr_flops.of(jnp.sin, shape(4, 4)) == 0


def image_to_map(preset):
    """TFLOP of one slice at 256 pixels, convolutions as they are written."""
    config = default.get_config(preset)
    config.autoencoder.convolution = config.denoiser.convolution = "plain"
    made = parts.assemble(config)
    detector, spec = made.method, made.image_spec()
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda k: detector.init(k, spec), key)
    network = networks.autoencoder(config)
    weights = jax.eval_shape(lambda k: network.init(k, spec["image"].shape), key)
    frozen = {"autoencoder": weights, "scaling_factor": shape()}
    return jaxpr_flops.of(detector.anomaly_map, params, frozen, spec, key) / 1e12


# Official: 0.272 encode, 2 x 0.622 decode, 10 x 0.079 of U-Net L.
@pytest.mark.parametrize(
    ("preset", "least", "most"), [("official", 2.2, 2.4), ("light", 0.1, 0.25)]
)
def test_image_to_map_costs_what_the_preset_promises(preset, least, most):
    assert least <= image_to_map(preset) <= most


def test_the_light_preset_changes_the_autoencoder_and_the_steps_alone():
    assert methods.stands_on_latents(default.get_config("light"))
    paper, light = (dict(default.get_config(name).to_dict()) for name in ("paper", "light"))
    different = {k for k in paper if paper[k] != light[k]}
    assert different == {"autoencoder", "methods", "preset", "preset_values"}
    paper, light = (c["methods"]["madad"] for c in (paper, light))
    assert paper["inference"]["sampler"].pop("steps") == 10
    assert light["inference"]["sampler"].pop("steps") == 2
    assert paper == light
    assert networks.autoencoder(default.get_config("light")).factor == 8

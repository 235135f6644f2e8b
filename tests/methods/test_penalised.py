import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.methods import dae
from madad_jax.methods.wrappers import penalised
from madad_jax.models import interfaces
from tests.methods import stand_ins
from tests.methods.test_reconstruction import batch


@dataclasses.dataclass(frozen=True)
class Block:
    """A network with a penalty of params["p"] a call."""

    sspcab: bool = True

    def apply(self, variables, x, t, *, train, rngs, mutable=()):
        del t, train, rngs
        out = (x + variables["params"]["p"], None)
        return (out, {"penalty": {"b": (variables["params"]["p"],)}}) if mutable else out


def test_the_penalty_is_weighed_into_loss_and_gradient():
    inner = dae.Dae(interfaces.Denoiser(name="block", _module=Block()), sigma=0.0)
    made = penalised.Penalised(inner, 0.1, "dae")
    params, b, key = {"p": jnp.float32(0.5)}, batch(), jax.random.key(0)
    run = jax.jit(jax.value_and_grad(made.loss, has_aux=True))
    (total, metrics), gradient = run(params, {}, b, key)
    # Without noise the input is the image: the error is p^2, the penalty p.
    np.testing.assert_allclose(total, 0.5**2 + 0.1 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(metrics["penalty"], 0.5)
    np.testing.assert_allclose(gradient["p"], 2 * 0.5 + 0.1, rtol=1e-5)
    maps = jax.jit(made.anomaly_map)(params, {}, b, key)["map"]
    expected = jax.jit(inner.anomaly_map)(params, {}, b, key)["map"]
    np.testing.assert_array_equal(maps, expected)


def test_a_network_without_the_block_is_named():
    made = penalised.Penalised(dae.Dae(stand_ins.denoiser()[0]), 0.1, "dae")
    with pytest.raises(errors.UserError, match=r"sspcab: found 0\.1 with method=dae"):
        jax.eval_shape(made.loss, {"x0": 0.0, "logit": 0.0}, {}, batch(), jax.random.key(0))

"""Networks of a few lines in place of the real ones, behind the same registry objects."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from madad_jax.models import interfaces


@dataclasses.dataclass(frozen=True)
class Squares:
    """A lossless autoencoder: 4x4 pixels -> one cell of 16 channels, and back."""

    logvar: float = -30.0

    def apply(self, variables, x, method):
        del variables
        b, h, w, c = x.shape
        if method == "encode":
            x = x.reshape(b, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
            mean = x.reshape(b, h // 4, w // 4, 16 * c)
            return mean, jnp.full(mean.shape, self.logvar)
        assert method == "decode"
        x = x.reshape(b, h, w, 4, 4, c // 16).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(b, 4 * h, 4 * w, c // 16)


@dataclasses.dataclass(frozen=True)
class Answers:
    """A denoiser that answers x0 = gain * x + params["x0"] and logit = params["logit"].

    What it was asked is appended to `calls` when it runs outside `jax.jit`.
    """

    calls: list[dict[str, Any]]
    gain: float = 1.0

    def apply(self, variables, x, t, *, train, rngs):
        params = variables["params"]
        self.calls.append({"x": x, "t": t, "train": train, "rngs": rngs})
        logit = jnp.broadcast_to(params["logit"], (*x.shape[:3], 1)) + 0.0 * x[..., :1]
        return self.gain * x + params["x0"], logit


def autoencoder(logvar=-30.0):
    return interfaces.Autoencoder(
        factor=4, latent_channels=16, output_kernel_path=(), _module=Squares(logvar)
    )


def denoiser(gain=1.0):
    calls = []
    return interfaces.Denoiser(name="stand-in", _module=Answers(calls, gain)), calls


@dataclasses.dataclass(frozen=True)
class Function:
    """A network that is a function of (params, x, t)."""

    function: Any

    def apply(self, variables, x, t, **_):
        return self.function(variables["params"], x, t), None


def network(function):
    return interfaces.Denoiser(name="stand-in", _module=Function(function))


@dataclasses.dataclass(frozen=True)
class Judge:
    """A classifier that is a function of (params, x, t)."""

    function: Any

    def apply(self, variables, x, t):
        return self.function(variables["params"], x, t)


def classifier(function):
    return interfaces.Classifier(_module=Judge(function))

"""Which method `config.method` names, and its parts from the config.

`METHODS` is the table: one line a method. A builder reads the shared sections (denoiser,
diffusion, score) and the method's own, `config.methods.<name>`, whose `inference` part holds what
may change after training. A new method is a file in methods/, a builder and a line here, a section
in configs/method_settings.py and a file in configs/baselines/.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from madad_jax import build_networks, errors
from madad_jax.diffusion import anomaly_map, schedule, synthesis
from madad_jax.diffusion import noise as noise_lib
from madad_jax.diffusion import partial as partial_lib
from madad_jax.methods import base, ddpm, ensemble, madad
from madad_jax.typing import Params


def _no_weights(config: Any) -> Params:
    del config
    return {}


@dataclasses.dataclass(frozen=True)
class Entry:
    """How a method is made.

    Attributes:
      build: config -> method.
      latent: stands on the frozen autoencoder (`frozen` has "autoencoder", "scaling_factor"),
        so that the stages before it train one; False: works on images.
      frozen: config -> further weights that are read and not trained.
    """

    build: Callable[[Any], base.Method]
    latent: bool = False
    frozen: Callable[[Any], Params] = _no_weights


def detector(config: Any) -> base.Method:
    """The method whose maps are reported, with `config.ensemble` around it where that is on.

    Raises UserError for an unknown `config.method`.
    """
    method, c = _entry(config).build(config), config.ensemble
    if c.draws == 1 and not c.flips and c.combine == "none":
        return method
    sigma = build_networks.smoothing_sigma(config)
    return ensemble.Ensemble(method, c.draws, c.flips, c.combine, sigma)


def uses_latents(config: Any) -> bool:
    """Whether the method stands on the autoencoder's latents."""
    return _entry(config).latent


def frozen(config: Any) -> Params:
    """Weights beside the autoencoder's that the method reads and does not train."""
    return _entry(config).frozen(config)


def _entry(config: Any) -> Entry:
    if config.method not in METHODS:
        raise errors.UserError(f"method: found {config.method!r}, accepted: {', '.join(METHODS)}")
    return METHODS[config.method]


def residual(config: Any, options: Any) -> anomaly_map.Residual:
    """How a reconstruction becomes a map: `difference` and `gamma` of the method's `inference`
    part, smoothing and brain mask as for every row (`config.score`)."""
    return anomaly_map.Residual(
        difference=options.difference,
        gamma=options.gamma,
        sigma=build_networks.smoothing_sigma(config),
        inside_brain=config.score.inside_brain,
    )


def process(config: Any, predicts: str) -> partial_lib.Process:
    """The diffusion of `config.diffusion` on whole images."""
    c = config.diffusion
    return partial_lib.Process(
        schedule=schedule.make_schedule(c.schedule, c.timesteps),
        noise=noise_lib.Noise(c.noise, c.octaves, c.persistence, c.frequency),
        predicts=predicts,
    )


def _madad(config: Any) -> madad.MadAd:
    score = config.score.to_dict() | {"sigma": build_networks.smoothing_sigma(config)}
    masking = {k: tuple(v) if isinstance(v, list) else v for k, v in config.masking.items()}
    return madad.MadAd(
        denoiser=build_networks.denoiser(config),
        autoencoder=build_networks.autoencoder(config),
        schedule=schedule.make_schedule(config.diffusion.schedule, config.diffusion.timesteps),
        noise=config.diffusion.noise,
        synthesis=synthesis.Options(**config.synthesis.to_dict()),
        masking=madad.Masking(**masking),
        loss_options=madad.Loss(**config.loss.to_dict()),
        sampler=madad.Sampler(**config.sampler.to_dict()),
        score=madad.Score(**score),
    )


def _ddpm(config: Any) -> ddpm.Ddpm:
    c = config.methods.ddpm
    return ddpm.Ddpm(
        network=build_networks.pixel_unet(config),
        process=process(config, c.predicts),
        start=c.inference.start,
        steps=c.inference.steps,
        eta=c.inference.eta,
        residual=residual(config, c.inference),
    )


METHODS = {
    "madad": Entry(_madad, latent=True),
    "ddpm": Entry(_ddpm),
}

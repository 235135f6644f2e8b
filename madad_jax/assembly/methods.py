"""Which method `config.method` names, and its parts from the config.

`METHODS` is the table: one line a method. A builder reads the shared sections (denoiser,
diffusion, score) and the method's own, `config.methods.<name>`, whose `inference` part holds what
may change after training. A new method is a file in methods/, a builder and a line here, a section
in configs/parts/method_settings.py and a file in configs/baselines/.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import config_dict

from madad_jax.anomaly_maps import difference, fused
from madad_jax.assembly import networks
from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.diffusion import noise as noise_lib
from madad_jax.diffusion import partial as partial_lib
from madad_jax.diffusion import schedule
from madad_jax.methods import (
    ae,
    anoddpm,
    autoddpm,
    base,
    dae,
    ddpm,
    deco_diff,
    itermask2,
    madad,
    maediff,
    pddpm,
    reflect,
    thor,
    vae,
    wolleb,
)
from madad_jax.methods.wrappers import ensemble, penalised
from madad_jax.models import image_networks
from madad_jax.synthesis import shapes


def _no_weights(config: config_dict.ConfigDict) -> Params:
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


def detector(config: config_dict.ConfigDict) -> base.Method:
    """The method whose maps are reported, with `config.ensemble` around it where that is on.

    Raises UserError for an unknown `config.method`.
    """
    method = _entry(config).build(config)
    weight = config.denoiser.sspcab
    if weight > 0:
        method = penalised.Penalised(method, weight, method.name)
    c = config.ensemble
    if c.draws == 1 and not c.flips and c.combine == "none":
        return method
    sigma = networks.smoothing_sigma(config)
    return ensemble.Ensemble(method, c.draws, c.flips, c.combine, sigma)


def learns_from_labels(config: config_dict.ConfigDict) -> bool:
    """Whether the detector trains on slices that somebody labelled abnormal."""
    return config.method == "wolleb" and config.methods.wolleb.labels == "split"


def stands_on_latents(config: config_dict.ConfigDict) -> bool:
    """Whether the method stands on the autoencoder's latents."""
    return _entry(config).latent


def title(config: config_dict.ConfigDict) -> str:
    """The method's name as reports write it."""
    return "MAD-AD" if config.method == "madad" else config.method


def read_weights(config: config_dict.ConfigDict) -> Params:
    """Weights beside the autoencoder's that the method reads and does not train."""
    return _entry(config).frozen(config)


def _entry(config: config_dict.ConfigDict) -> Entry:
    if config.method not in METHODS:
        raise errors.UserError(f"method: found {config.method!r}, accepted: {', '.join(METHODS)}")
    return METHODS[config.method]


def residual(config: config_dict.ConfigDict, options: Any) -> difference.Residual:
    """How a reconstruction becomes a map: `difference` and `gamma` of the method's `inference`
    part, smoothing and brain mask as for every row (`config.map`)."""
    return difference.Residual(
        difference=options.difference,
        gamma=options.gamma,
        sigma=networks.smoothing_sigma(config),
        inside_brain=config.map.inside_brain,
    )


def process(config: config_dict.ConfigDict, predicts: str) -> partial_lib.Process:
    """The diffusion of `config.diffusion` on whole images."""
    c = config.diffusion
    return partial_lib.Process(
        schedule=schedule.make_schedule(c.schedule, c.timesteps),
        noise=noise_lib.Noise(c.noise, c.octaves, c.persistence, c.frequency),
        predicts=predicts,
    )


def _madad(config: config_dict.ConfigDict) -> madad.MadAd:
    c = config.methods.madad
    masking = {k: tuple(v) if isinstance(v, list) else v for k, v in c.masking.items()}
    score = madad.Score(
        **c.inference.score.to_dict(),
        sigma=networks.smoothing_sigma(config),
        inside_brain=config.map.inside_brain,
    )
    return madad.MadAd(
        denoiser=networks.denoiser(config),
        autoencoder=networks.autoencoder(config),
        schedule=schedule.make_schedule(config.diffusion.schedule, config.diffusion.timesteps),
        noise=config.diffusion.noise,
        synthesis=shapes.Options(**config.synthesis.to_dict()),
        masking=madad.Masking(**masking),
        loss_options=madad.Loss(**c.loss.to_dict()),
        sampler=madad.Sampler(**c.inference.sampler.to_dict()),
        score=score,
    )


def reverse(options: Any) -> partial_lib.Reverse:
    """Partial noising and the way back, from a method's `inference` part."""
    adaptive = None
    if options.adaptive_limit > 0:
        adaptive = partial_lib.Adaptive(options.adaptive_limit, options.adaptive_first)
    return partial_lib.Reverse(options.start, options.steps, options.eta, adaptive)


def _lpips(config: config_dict.ConfigDict) -> Params:
    """Weights of LPIPS where the method's section names a file."""
    path = config.methods[config.method].inference.lpips
    return {"lpips": networks.read_lpips_weights(path)} if path else {}


def _pixel(config: config_dict.ConfigDict) -> dict[str, Any]:
    """The parts that every diffusion on images has."""
    c = config.methods[config.method]
    return {
        "network": networks.pixel_unet(config),
        "process": process(config, c.predicts),
        "residual": residual(config, c.inference),
    }


def _ddpm(config: config_dict.ConfigDict) -> ddpm.Ddpm:
    return ddpm.Ddpm(**_pixel(config), reverse=reverse(config.methods.ddpm.inference))


def _anoddpm(config: config_dict.ConfigDict) -> anoddpm.AnoDdpm:
    return anoddpm.AnoDdpm(**_pixel(config), reverse=reverse(config.methods.anoddpm.inference))


def _pddpm(config: config_dict.ConfigDict) -> pddpm.PatchedDdpm:
    c = config.methods.pddpm
    return pddpm.PatchedDdpm(**_pixel(config), box=c.box, stride=c.stride, start=c.inference.start)


def _autoddpm(config: config_dict.ConfigDict) -> autoddpm.AutoDdpm:
    c = config.methods.autoddpm.inference
    return autoddpm.AutoDdpm(
        **_pixel(config),
        reverse=partial_lib.Reverse(c.start, c.steps, c.eta),
        inpainting=autoddpm.Inpainting(
            c.inpaint_start, c.inpaint_steps, c.resamplings, c.threshold, c.dilation
        ),
    )


def _thor(config: config_dict.ConfigDict) -> thor.Thor:
    c = config.methods.thor.inference
    return thor.Thor(
        **_pixel(config),
        reverse=partial_lib.Reverse(c.start, c.steps, c.eta),
        harmonise=tuple(c.harmonise),
        window=c.window,
    )


def _itermask2(config: config_dict.ConfigDict) -> itermask2.IterMask2:
    c = config.methods.itermask2.to_dict()
    inference = c.pop("inference")
    for key in ("difference", "gamma"):
        inference.pop(key)
    return itermask2.IterMask2(
        network=networks.pixel_unet(config),
        residual=residual(config, config.methods.itermask2.inference),
        options=itermask2.Options(**{**c, **inference, "sides": tuple(c["sides"])}),
    )


def _wolleb(config: config_dict.ConfigDict) -> wolleb.Wolleb:
    c = config.methods.wolleb
    if c.labels not in wolleb.LABELS:
        raise errors.UserError(
            f"methods.wolleb.labels: found {c.labels!r}, accepted: {', '.join(wolleb.LABELS)}"
        )
    return wolleb.Wolleb(
        **_pixel(config),
        classifier=networks.classifier(config, c.classifier),
        synthesis=shapes.Options(**config.synthesis.to_dict()),
        labels=c.labels,
        level=c.inference.start,
        steps=c.inference.steps,
        scale=c.inference.scale,
    )


def _filtered(config: config_dict.ConfigDict, options: Any) -> difference.Residual:
    """`residual` with the median filter and the eroded brain mask of some methods."""
    return dataclasses.replace(
        residual(config, options), median=options.median, erosion=options.erosion
    )


def _reconstructor(options: Any, variational: bool) -> image_networks.Reconstructor:
    return image_networks.reconstructor(**options.network.to_dict(), variational=variational)


def _ae(config: config_dict.ConfigDict) -> ae.Ae:
    c = config.methods.ae
    return ae.Ae(network=_reconstructor(c, False), residual=_filtered(config, c.inference))


def _vae(config: config_dict.ConfigDict) -> vae.Vae:
    c = config.methods.vae
    return vae.Vae(
        network=_reconstructor(c, True),
        residual=_filtered(config, c.inference),
        kl_weight=c.kl_weight,
    )


def _dae(config: config_dict.ConfigDict) -> dae.Dae:
    c = config.methods.dae
    return dae.Dae(
        network=networks.pixel_unet(config),
        residual=_filtered(config, c.inference),
        resolution=c.resolution,
        sigma=c.sigma,
        synthesis=shapes.Options(**config.synthesis.to_dict()),
    )


def _maediff(config: config_dict.ConfigDict) -> maediff.MaeDiff:
    c = config.methods.maediff
    return maediff.MaeDiff(
        network=networks.pixel_unet(config),
        encoder=image_networks.masked_autoencoder(**c.network.to_dict()),
        process=process(config, "x0"),
        box=c.box,
        stride=c.stride,
        mae_weight=c.mae_weight,
        start=c.inference.start,
        residual=_filtered(config, c.inference),
    )


def _fused(config: config_dict.ConfigDict, options: Any) -> fused.FusedScore:
    """Widths are given in pixels and cells of the published sizes, and used as they are."""
    keys = ("image_gamma", "image_sigma", "latent_gamma", "latent_sigma", "fusion", "reference")
    chosen = {k: options[k] for k in keys}
    return fused.FusedScore(**chosen, inside_brain=config.map.inside_brain)


def _deco_diff(config: config_dict.ConfigDict) -> deco_diff.DecoDiff:
    c = config.methods.deco_diff
    corruption = {k: tuple(v) if isinstance(v, list) else v for k, v in c.corruption.items()}
    return deco_diff.DecoDiff(
        denoiser=networks.denoiser(config),
        autoencoder=networks.autoencoder(config),
        schedule=schedule.make_schedule(config.diffusion.schedule, config.diffusion.timesteps),
        corruption=deco_diff.Corruption(**corruption),
        start=c.inference.start,
        score=_fused(config, c.inference),
        synthesis=shapes.Options(**config.synthesis.to_dict()),
    )


def _reflect(config: config_dict.ConfigDict) -> reflect.Reflect:
    c = config.methods.reflect
    return reflect.Reflect(
        denoiser=networks.denoiser(config),
        autoencoder=networks.autoencoder(config),
        corruption=reflect.Corruption(**c.corruption.to_dict()),
        steps=c.inference.steps,
        score=_fused(config, c.inference),
        synthesis=shapes.Options(**config.synthesis.to_dict()),
    )


METHODS = {
    "madad": Entry(_madad, latent=True),
    "ddpm": Entry(_ddpm),
    "anoddpm": Entry(_anoddpm),
    "pddpm": Entry(_pddpm),
    "autoddpm": Entry(_autoddpm, frozen=_lpips),
    "thor": Entry(_thor, frozen=_lpips),
    "itermask2": Entry(_itermask2),
    "wolleb": Entry(_wolleb),
    "ae": Entry(_ae),
    "vae": Entry(_vae),
    "dae": Entry(_dae),
    "maediff": Entry(_maediff),
    "deco_diff": Entry(_deco_diff, latent=True),
    "reflect": Entry(_reflect, latent=True),
}

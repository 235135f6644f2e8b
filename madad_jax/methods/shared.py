"""What the shared sections of an experiment give to every method, and settings as attributes.

A method's file has `build(shared, settings)`: `settings` is the method's own section, and
`shared` (implemented in `assembly`) makes what several methods have: networks, the diffusion,
the score. So a method reads no config, and knows no key but its own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from madad_jax.anomaly_maps import difference, fused
from madad_jax.anomaly_maps import healthy_groups as atlas
from madad_jax.core import errors
from madad_jax.diffusion import partial, schedule
from madad_jax.methods import pixel_mask as pixel_mask_lib
from madad_jax.models import image_networks, interfaces
from madad_jax.synthesis import acquisition, drawn, learned, shapes

_FUSED = ("image_gamma", "image_sigma", "latent_gamma", "latent_sigma", "fusion", "reference")


@dataclasses.dataclass(frozen=True)
class Features:
    """The network whose tokens a method compares.

    Attributes:
      encoder: gives them.
      image_size: side in pixels that slices are brought to first.
      trained: whether its weights were read or are trained here; else they are drawn.
    """

    encoder: image_networks.FeatureEncoder
    image_size: int
    trained: bool


@runtime_checkable
class Shared(Protocol):
    """The shared sections, as objects.

    Attributes:
      sigma: smoothing of every map in pixels of the image.
      inside_brain: maps are zeroed outside the brain mask.
      noise: kind of noise on latents.
      synthesis: how anomalies are drawn into training images.
      lesions: how those of a bank are pasted.
      atlas: of healthy slices, for masks at image resolution.
    """

    sigma: float
    inside_brain: bool
    noise: str
    synthesis: shapes.Options
    lesions: learned.Options
    atlas: atlas.Options

    def denoiser(self) -> interfaces.Denoiser:
        """The network of `config.denoiser` for latents, with its mask head."""
        ...

    def pixel_unet(self) -> interfaces.Denoiser:
        """The U-Net of `config.denoiser` for images: one output and no mask head."""
        ...

    def autoencoder(self) -> interfaces.Autoencoder:
        """The KL autoencoder."""
        ...

    def classifier(self, settings: Mapping[str, Any]) -> interfaces.Classifier:
        """A classifier of noised images."""
        ...

    def mask_network(self, settings: Mapping[str, Any]) -> image_networks.MaskNetwork:
        """A network from an image to a mask of its pixels."""
        ...

    def features(self) -> Features:
        """The network of `config.features`."""
        ...

    def schedule(self) -> schedule.Schedule:
        """The noise schedule."""
        ...

    def process(self, predicts: str) -> partial.Process:
        """The diffusion on whole images of a network that predicts `eps` or `x0`."""
        ...


class Settings:
    """A section of settings, read as attributes; sections within are `Settings` too.

    Args:
      values: nested tables of plain values; lists are read as tuples.
      key: of the section, for messages.
    """

    def __init__(self, values: Mapping[str, Any], key: str):
        self._values, self._key = values, key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"{self._key} has no {name!r}")
        value = self._values[name]
        if isinstance(value, Mapping):
            return Settings(value, f"{self._key}.{name}")
        return tuple(value) if isinstance(value, list) else value

    def table(self, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """{name: value} of the section's values, without the sections in it and those named."""
        names = (n for n, v in self._values.items() if not isinstance(v, Mapping))
        return {name: getattr(self, name) for name in names if name not in without}

    def choose(self, name: str, accepted: tuple[str, ...]) -> str:
        """The value of `name`. Raises UserError unless it is one of the accepted."""
        value = getattr(self, name)
        if value not in accepted:
            raise errors.UserError(
                f"{self._key}.{name}: found {value!r}, accepted: {', '.join(accepted)}"
            )
        return value


def residual(shared: Shared, inference: Settings) -> difference.Residual:
    """How a reconstruction becomes a map: `difference` and `gamma` of the method's `inference`
    part, smoothing and brain mask as for every row."""
    return difference.Residual(
        difference=inference.difference,
        gamma=inference.gamma,
        sigma=shared.sigma,
        inside_brain=shared.inside_brain,
    )


def filtered_residual(shared: Shared, inference: Settings) -> difference.Residual:
    """`residual` with the median filter and the eroded brain mask of some methods."""
    return dataclasses.replace(
        residual(shared, inference), median=inference.median, erosion=inference.erosion
    )


def fused_score(shared: Shared, inference: Settings) -> fused.FusedScore:
    """The score of image and latent differences together.

    Widths are given in pixels and cells of the published sizes, and used as they are.
    """
    chosen = {name: getattr(inference, name) for name in _FUSED}
    return fused.FusedScore(**chosen, inside_brain=shared.inside_brain)


def reverse(inference: Settings) -> partial.Reverse:
    """Partial noising and the way back."""
    adaptive = None
    if getattr(inference, "adaptive_limit", 0.0) > 0:
        adaptive = partial.Adaptive(inference.adaptive_limit, inference.adaptive_first)
    return partial.Reverse(inference.start, inference.steps, inference.eta, adaptive)


def token_parts(shared: Shared, name: str) -> dict[str, Any]:
    """The fields that every method on tokens has, and its name, which says where nothing but the
    seed made the network."""
    features = shared.features()
    return {
        "encoder": features.encoder,
        "image_size": features.image_size,
        "residual": difference.Residual(sigma=shared.sigma, inside_brain=shared.inside_brain),
        "name": name if features.trained else f"{name} (untrained backbone)",
    }


def pixel_parts(shared: Shared, settings: Settings) -> dict[str, Any]:
    """The fields that every diffusion on images has."""
    return {
        "network": shared.pixel_unet(),
        "process": shared.process(settings.predicts),
        "residual": residual(shared, settings.inference),
    }


def pixel_mask(shared: Shared, settings: Settings) -> pixel_mask_lib.PixelMask:
    """A mask network and what is drawn for it."""
    return pixel_mask_lib.PixelMask(
        network=shared.mask_network(settings.network.table()),
        drawn=drawn.Options(**settings.drawn.table()),
        appearance=acquisition.Options(**settings.appearance.table()),
        lesions=shared.lesions,
        dice_weight=settings.dice_weight,
        atlas=shared.atlas.groups > 0,
        # Configs of earlier versions do not have it.
        contralateral=getattr(settings, "contralateral", False),
    )

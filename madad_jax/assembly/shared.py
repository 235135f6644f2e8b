"""The shared sections of a config, for the methods (`methods/shared.py` says what they are)."""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from madad_jax.assembly import networks
from madad_jax.diffusion import noise as noise_lib
from madad_jax.diffusion import partial
from madad_jax.diffusion import schedule as schedule_lib
from madad_jax.methods import shared as shared_lib
from madad_jax.models import image_networks, interfaces
from madad_jax.synthesis import shapes


class ConfigShared:
    """`methods.shared.Shared` of a config."""

    def __init__(self, config: config_dict.ConfigDict):
        self._config = config
        self.sigma = networks.smoothing_sigma(config)
        self.inside_brain = config.map.inside_brain
        self.noise = config.diffusion.noise
        self.lesions = networks.lesion_options(config)
        self.synthesis = shapes.Options(**config.synthesis.to_dict(), lesions=self.lesions)
        self.atlas = networks.atlas_options(config)

    def denoiser(self) -> interfaces.Denoiser:
        """The network of `config.denoiser` for latents, with its mask head."""
        return networks.denoiser(self._config)

    def pixel_unet(self) -> interfaces.Denoiser:
        """The U-Net of `config.denoiser` for images. Raises UserError for another network."""
        return networks.pixel_unet(self._config)

    def autoencoder(self) -> interfaces.Autoencoder:
        """The KL autoencoder of `config.autoencoder`."""
        return networks.autoencoder(self._config)

    def classifier(self, settings: Mapping[str, Any]) -> interfaces.Classifier:
        """A classifier of noised images, computed in the denoiser's type."""
        return networks.classifier(self._config, settings)

    def mask_network(self, settings: Mapping[str, Any]) -> image_networks.MaskNetwork:
        """A network from an image to a mask, computed as the denoiser is."""
        c = self._config.denoiser
        return image_networks.mask_network(**settings, convolution=c.convolution, dtype=c.dtype)

    def features(self) -> shared_lib.Features:
        """The network of `config.features`."""
        return networks.features(self._config)

    def schedule(self) -> schedule_lib.Schedule:
        """The noise schedule of `config.diffusion`."""
        c = self._config.diffusion
        return schedule_lib.make_schedule(c.schedule, c.timesteps)

    def process(self, predicts: str) -> partial.Process:
        """The diffusion of `config.diffusion` on whole images."""
        c = self._config.diffusion
        return partial.Process(
            schedule=self.schedule(),
            noise=noise_lib.Noise(c.noise, c.octaves, c.persistence, c.frequency),
            predicts=predicts,
        )

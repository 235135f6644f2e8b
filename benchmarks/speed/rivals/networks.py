"""Networks of published PyTorch libraries at the sizes that a request gives.

    unet         MONAI DiffusionModelUNet
    dit          diffusers DiTTransformer2DModel
    autoencoder  diffusers AutoencoderKL (MONAI's decoder has a block less a level)

`way` is how attention is computed and whether the network is compiled:

    official   written-out attention, recomputed in the backward pass, float32
    sdpa       torch.nn.functional.scaled_dot_product_attention
    compiled   sdpa, through torch.compile
"""

import types

import torch
import torch.utils.checkpoint

WAYS = ("official", "sdpa", "compiled")


def parameters(network):
    """Number of trained numbers."""
    return sum(p.numel() for p in network.parameters())


def unet(size, way):
    """Latents [b, c, h, w] and steps [b] to c + 1 channels: clean latent and mask logit."""
    from monai.networks import nets

    channels = [size["model_channels"] * m for m in size["channel_mult"]]
    network = nets.DiffusionModelUNet(
        spatial_dims=2,
        in_channels=size["in_channels"],
        out_channels=size["in_channels"] + 1,
        num_res_blocks=size["num_res_blocks"],
        channels=channels,
        attention_levels=[2**i in size["attention_rates"] for i in range(len(channels))],
        norm_num_groups=size["num_groups"],
        norm_eps=1e-5,
        num_head_channels=[c // size["num_heads"] for c in channels],
        use_flash_attention=way != "official",
    )
    _awaken(network)
    for module in network.modules():
        kind = type(module).__name__
        if kind == "DiffusionUNetResnetBlock" and size["dropout"]:
            _drop_before(module.conv2, size["dropout"])
        if kind == "SpatialAttentionBlock" and way == "official":
            _recompute(module)
    return network


def dit(size, way):
    """As `unet`; the class label that the published network also takes has one value."""
    import diffusers
    from diffusers.models import attention_processor

    heads = size["num_heads"]
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=size["hidden_size"] // heads,
        in_channels=size["in_channels"],
        out_channels=size["in_channels"] + 1,
        num_layers=size["depth"],
        sample_size=size["side"],
        patch_size=size["patch_size"],
        dropout=size["dropout"],
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1,
    )
    _awaken(network)
    if way == "official":
        _set_processor(network, attention_processor.AttnProcessor())
        for block in network.transformer_blocks:
            _recompute(block.attn1)
    return Labelled(network)


class Labelled(torch.nn.Module):
    """A class-conditional transformer called as the U-Net is, with label 0."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, timesteps):
        """[b, c, h, w], [b] -> [b, c + 1, h, w]."""
        label = torch.zeros_like(timesteps)
        return self.network(x, timestep=timesteps, class_labels=label, return_dict=False)[0]


def autoencoder(size, way):
    """Images [b, 1, H, W] <-> latents, with `encode(x).latent_dist` and `decode(z).sample`."""
    import diffusers
    from diffusers.models import attention_processor

    channels = [size["channels"] * m for m in size["channel_mult"]]
    network = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=size["num_res_blocks"],
        latent_channels=size["latent_channels"],
        norm_num_groups=size["num_groups"],
        mid_block_add_attention=size["mid_attention"],
    )
    if way == "official" and size["mid_attention"]:
        _set_processor(network, attention_processor.AttnProcessor())
    return network


def _set_processor(network, processor):
    for module in network.modules():
        if type(module).__name__ == "Attention":
            module.set_processor(processor)


def _awaken(network):
    """Published networks start with zeros in some layers; no time may hang on that."""
    for p in network.parameters():
        if p.ndim > 1 and not p.any():
            torch.nn.init.normal_(p, std=0.01)


def _drop_before(module, rate):
    def drop(layer, inputs):
        return (torch.nn.functional.dropout(inputs[0], rate, layer.training),)

    module.register_forward_pre_hook(drop)


def _recompute(module):
    """The module's forward is done again in the backward pass, as the official code does."""
    plain = module.forward

    def forward(self, *arguments, **named):
        del self
        if not torch.is_grad_enabled():
            return plain(*arguments, **named)
        return torch.utils.checkpoint.checkpoint(plain, *arguments, use_reentrant=False, **named)

    module.forward = types.MethodType(forward, module)

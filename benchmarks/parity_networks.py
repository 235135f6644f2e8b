"""Parity of the networks: outputs, activations, sampling loops, gradients, AdamW steps."""

import pathlib
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.comparison import Row, largest, nhwc
from madad_jax.convert import autoencoder_kl_weights, unet_weights
from madad_jax.diffusion import losses, process, samplers, schedule
from madad_jax.models import interfaces, registry
from madad_jax.training import optimizer
from tests.models import official

NETWORK = 2e-5  # absolute; the official float32 code is 3e-6 to 6e-6 away from its own float64
MASK_WEIGHT = 0.001
# Its gradient is zero: each channel is its own GroupNorm group there, which removes any bias.
ZERO_GRADIENT = "output_blocks.8.0.emb_layers.1.bias"


def formula_weights(golden: pathlib.Path) -> Iterator[Row]:
    """The networks of `tests/fixtures`, with weights drawn by a rule."""
    name = "official_formula_weights"
    state = official.state(official.key_list("unet_xs_keys.txt"))
    x = nhwc(official.array("x", 2, 4, 32, 32))[:1]
    denoiser = registry.denoiser("unet", size="XS")
    x0, logit = jax.jit(denoiser.apply)(unet_weights.to_ours(state), x, np.int32([3]))[:2]
    yield Row(name, "U-Net XS, x0", largest(x0, official.expected("unet_xs_x0")), NETWORK)
    p_visible = jax.nn.sigmoid(logit)
    yield Row(
        name, "U-Net XS, mask", largest(p_visible, official.expected("unet_xs_mask")), NETWORK
    )

    state = official.state(official.key_list("vae_klf8_keys.txt"))
    params, autoencoder = autoencoder_kl_weights.to_ours(state), registry.autoencoder()
    image = nhwc(np.tanh(official.array("image", 1, 1, 64, 64)))
    latent = nhwc(official.array("latent", 1, 4, 8, 8))
    mean, logvar = jax.jit(autoencoder.encode)(params, image)
    decoded = jax.jit(autoencoder.decode)(params, latent)
    for part, value in (("mean", mean), ("logvar", logvar), ("decode", decoded)):
        error = largest(value, official.expected(f"klf8_{part}"))
        yield Row(name, f"kl-f8 (83.6M), {part}", error, NETWORK)


def tiny_unet(golden: pathlib.Path) -> tuple[interfaces.Denoiser, dict]:
    """The network of file a, which c and h use too."""
    with np.load(golden / "a_unet_tiny.npz") as file:
        state = {k.removeprefix("param/"): file[k] for k in file.files if k.startswith("param/")}
    config = unet_weights.infer_config(state)
    return registry.denoiser("unet", **config), unet_weights.to_ours(state, config)


def unet_layers(golden: pathlib.Path) -> Iterator[Row]:
    """File a: outputs at all time steps and activations of every block."""
    name = "a_unet_tiny"
    denoiser, params = tiny_unet(golden)
    file = np.load(golden / f"{name}.npz")
    apply = jax.jit(denoiser.apply)
    x0, logit = apply(params, nhwc(file["x_all"]), file["t_all"])[:2]
    yield Row(name, "x0, t = 0..9", largest(x0, nhwc(file["out_x0_all"])), NETWORK)
    p_visible = jax.nn.sigmoid(logit)
    yield Row(name, "mask, t = 0..9", largest(p_visible, nhwc(file["out_mask_all"])), NETWORK)

    @jax.jit
    def intermediates(x, t):
        variables = {"params": params}
        return denoiser._module.apply(variables, x, t, capture_intermediates=True)[1]

    found = intermediates(nhwc(file["x"]), file["t"])["intermediates"]
    worst, where = 0.0, ""
    for key in (k for k in file.files if k.startswith("act/") and k != "act/t_emb"):
        layer = key.removeprefix("act/")
        base = re.sub(r"_(resblock|attention|logits)$", "", layer).replace(".", "_")
        # A block's output is that of its last module.
        module = [m for m in (base, f"{base}_0", f"{base}_1", f"{base}_2") if m in found][-1]
        theirs = file[key] if file[key].ndim == 2 else nhwc(file[key])
        error = largest(found[module]["__call__"][0], theirs, max(1.0, np.abs(theirs).max()))
        worst, where = max((worst, where), (error, layer))
    yield Row(name, f"23 activations, relative to their largest; worst: {where}", worst, NETWORK)


def autoencoder_layers(golden: pathlib.Path) -> Iterator[Row]:
    """File d: posterior, decoder and activations of a small autoencoder.

    Values reach 28 here. Against a float64 run of the same network the stored mean is off by
    1.8e-5 and ours by 3.0e-5, so errors are relative to the largest value.
    """
    name = "d_vae_tiny"
    file = np.load(golden / f"{name}.npz")
    state = {k.removeprefix("param/"): file[k] for k in file.files if k.startswith("param/")}
    config = autoencoder_kl_weights.infer_config(state)
    params, autoencoder = (
        autoencoder_kl_weights.to_ours(state, config),
        registry.autoencoder(**config),
    )
    mean, logvar = jax.jit(autoencoder.encode)(params, nhwc(file["x"]))
    decode = jax.jit(autoencoder.decode)
    for part, value in (
        ("mean", mean),
        ("logvar", logvar),
        ("dec_z", decode(params, nhwc(file["z"]))),
        ("rec_mean", decode(params, mean)),
        ("sample", mean + jnp.exp(0.5 * logvar) * nhwc(file["eps"])),
    ):
        theirs = nhwc(file[part])
        error = largest(value, theirs, np.abs(theirs).max())
        yield Row(name, f"{part}, relative to its largest", error, NETWORK)

    module = autoencoder._module
    captured = {
        "encoder": module.apply(
            {"params": params}, nhwc(file["x"]), method="encode", capture_intermediates=True
        )[1],
        "decoder": module.apply(
            {"params": params}, nhwc(file["z"]), method="decode", capture_intermediates=True
        )[1],
    }
    worst, where = 0.0, ""
    for key in (k for k in file.files if k.startswith("act/")):
        side, _, layer = key.removeprefix("act/").partition(".")
        submodule = layer.replace(".", "_")
        found = captured[side]["intermediates"][side][submodule]["__call__"][0]
        theirs = nhwc(file[key])
        error = largest(found, theirs, max(1.0, np.abs(theirs).max()))
        worst, where = max((worst, where), (error, f"{side}.{layer}"))
    yield Row(name, f"11 activations, relative to their largest; worst: {where}", worst, NETWORK)


def sampling(golden: pathlib.Path) -> Iterator[Row]:
    """Files c: whole selective DDIM loops, and whether any cell was decided otherwise."""
    denoiser, params = tiny_unet(golden)
    full = schedule.make_schedule("cosine", 10)
    for steps in (10, 5, 2):
        for eta in (0.0, 0.5):
            name = f"c_ddim{steps}_eta{eta}"
            file = np.load(golden / f"{name}.npz")
            spaced = schedule.respace(full, steps)

            @jax.jit
            def sample(latent, noise, spaced=spaced, eta=eta):
                def denoise(x, t):
                    return denoiser.apply(params, x, t)

                return samplers.selective_ddim(denoise, latent, spaced, noise, eta=eta)

            ours = sample(nhwc(file["x_init"]), nhwc(file["noise"]))
            yield Row(name, "final latent", largest(ours["latent"], nhwc(file["final"])), NETWORK)
            theirs = file["mask_binary4"][:, :, 0].mean(0)
            flips = np.abs(np.asarray(ours["rewritten"]) - theirs).sum() * steps
            yield Row(name, "cells decided otherwise", float(np.round(flips, 3)), 0)


def training(golden: pathlib.Path) -> Iterator[Row]:
    """File h: one gradient and six AdamW steps on a fixed batch."""
    name = "h_train_step"
    file = np.load(golden / f"{name}.npz")
    denoiser, params = tiny_unet(golden)
    tables = schedule.make_schedule("cosine", 10)
    t, visible = file["t"], file["mask"][:, 0]
    x0 = nhwc(file["x_start"])
    x_t = process.q_sample(tables, x0, t, nhwc(file["noise"]), visible)
    tx, _ = make_optimizer()

    def loss(params):
        x0_hat, logit = denoiser.apply(params, x_t, t)[:2]
        mse = losses.latent_loss(x0, x0_hat, visible)
        mask = losses.mask_loss(visible, logit, "mse")
        return (mse + MASK_WEIGHT * mask).mean(), (mse, mask)

    @jax.jit
    def step(params, state):
        (value, parts), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, gradient, value, parts

    state, history = tx.init(params), []
    for i in range(6):
        params, state, gradient, value, (mse, mask) = step(params, state)
        history.append((value, mse.mean(), mask.mean()))
        if i == 0:
            for key, ours in (("mse", mse), ("mask_prediction", mask)):
                error = largest(np.asarray(ours) / file[key], np.ones(len(ours)))
                yield Row(name, f"{key}, relative", error, 1e-5)
            yield from _gradients(name, unet_weights.to_official(gradient), file)
        if i in (0, 5):
            yield _parameters(name, unet_weights.to_official(params), file, i + 1)
    ours = np.asarray(history, np.float64)
    error = largest(ours / file["losses_6steps"], np.ones_like(ours))
    yield Row(name, "losses of six AdamW steps, relative", error, 1e-5)


def make_optimizer():
    """The official AdamW: no warm-up in this comparison, all tensors decayed."""
    return optimizer.make_optimizer(
        name="adamw", lr=4e-5, schedule="constant", weight_decay=1e-4, decay_mask="all"
    )


def _gradients(name, gradient, file) -> Iterator[Row]:
    norms = np.array([np.sqrt(np.square(gradient[k]).sum()) for k in file["param_names"]])
    error = largest(norms, file["grad_l2_by_param"], file["grad_global_l2"])
    yield Row(name, "gradient norms of 310 tensors, relative to the whole", error, 1e-5)
    worst, where = 0.0, ""
    error = largest(gradient[ZERO_GRADIENT], file[f"grad/{ZERO_GRADIENT}"])
    yield Row(name, f"gradient that is zero ({ZERO_GRADIENT})", error, 1e-6)
    for key in (k for k in file.files if k.startswith("grad/")):
        tensor = key.removeprefix("grad/")
        if tensor == ZERO_GRADIENT:
            continue
        error = largest(gradient[tensor], file[key], np.abs(file[key]).max())
        worst, where = max((worst, where), (error, tensor))
    yield Row(name, f"10 gradients, relative to their largest; worst: {where}", worst, 1e-4)


def _parameters(name, params, file, step) -> Row:
    keys = [k for k in file.files if k.startswith(f"param_after{step}/")]
    error = max(largest(params[k.partition("/")[2]], file[k]) for k in keys)
    return Row(name, f"parameters after {step} AdamW steps", error, 4e-6)

"""Converted networks against numbers that the user computed with the original.

A `.npz` (or `.safetensors`) file of NCHW arrays:

- U-Net: `x` [b,c,h,w], `t` [b] -> `x0` [b,c,h,w], `mask` [b,1,h,w] (the probability);
- autoencoder: `image` [b,1,H,W] -> `mean`, `logvar` [b,z,h,w]; `latent` -> `decoded`.

Each group of inputs needs at least one of its outputs. Everything runs in float32 with matrix
products of the highest precision.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from madad_jax.convert import containers, conversion
from madad_jax.core import errors, messages
from madad_jax.models import registry

_Outputs = dict[str, jax.Array]


def largest_errors(converted: conversion.Converted, path: epath.PathLike) -> dict[str, float]:
    """{array: largest absolute difference}; nan where either side is not finite.

    Raises:
        UserError: no such file, arrays missing, or of another shape than the network's.
    """
    arrays = containers.read_arrays(path, "--verify")
    groups = _groups(converted)
    found: dict[str, float] = {}
    with jax.default_matmul_precision("highest"):
        for inputs, outputs, function in groups:
            wanted = [name for name in outputs if name in arrays]
            if not wanted or not all(name in arrays for name in inputs):
                continue
            _check_inputs(path, arrays, inputs)
            values = [_nhwc(arrays[name]) for name in inputs]
            try:
                results = jax.jit(function)(converted.params, *values)
            except (TypeError, ValueError) as error:
                shapes = ", ".join(f"{n} {arrays[n].shape}" for n in inputs)
                reason = messages.shorten(" ".join(str(error).split()), 120)
                raise errors.UserError(f"{path}: {shapes}: do not fit: {reason}") from error
            for name in wanted:
                found[name] = _difference(path, name, arrays[name], results[name])
    if not found:
        needed = "; ".join(
            f"{', '.join(inputs)} with {' or '.join(outputs)}" for inputs, outputs, _ in groups
        )
        held = messages.shorten(", ".join(arrays), 200) or "nothing"
        raise errors.UserError(f"{path}: holds {held}; needed: {needed}")
    return found


def _groups(
    converted: conversion.Converted,
) -> list[tuple[dict[str, int], tuple[str, ...], Callable[..., _Outputs]]]:
    """(inputs and their channels, outputs, function of parameters and NHWC inputs)."""
    if converted.kind == "autoencoder":
        autoencoder = registry.autoencoder(**converted.settings)

        def encode(params: Any, image: jax.Array) -> _Outputs:
            mean, logvar = autoencoder.encode(params, image)
            return {"mean": mean, "logvar": logvar}

        def decode(params: Any, latent: jax.Array) -> _Outputs:
            return {"decoded": autoencoder.decode(params, latent)}

        return [
            ({"image": 1}, ("mean", "logvar"), encode),
            ({"latent": autoencoder.latent_channels}, ("decoded",), decode),
        ]
    denoiser = registry.denoiser(converted.kind, **converted.settings)
    if converted.kind == "unet":
        channels = converted.params["input_blocks_0_0"]["kernel"].shape[2]
    else:
        cells = converted.settings["patch_size"] ** 2
        channels = converted.params["x_embedder"]["kernel"].shape[0] // cells

    def denoise(params: Any, x: jax.Array, t: jax.Array) -> _Outputs:
        x0, logit = denoiser.apply(params, x, t)[:2]
        return {"x0": x0, "mask": jax.nn.sigmoid(logit)}

    return [({"x": channels, "t": 0}, ("x0", "mask"), denoise)]


def _check_inputs(path: Any, arrays: dict[str, np.ndarray], inputs: dict[str, int]) -> None:
    """Raises `UserError` unless images are [b, channels, h, w] and `t` is [b]."""
    for name, channels in inputs.items():
        shape = arrays[name].shape
        found = f"{path}: {name} has shape {messages.shorten(shape)}"
        if channels and (len(shape) != 4 or shape[1] != channels or 0 in shape):
            raise errors.UserError(f"{found}, expected (batch, {channels}, height, width)")
        if not channels and shape != arrays["x"].shape[:1]:
            raise errors.UserError(
                f"{path}: {name} has shape {messages.shorten(shape)}, expected one per image"
            )


def _nhwc(array: np.ndarray) -> np.ndarray:
    if array.ndim != 4:
        return array.astype(np.int32)
    return np.ascontiguousarray(array.astype(np.float32).transpose(0, 2, 3, 1))


def _difference(path: Any, name: str, wanted: np.ndarray, result: jax.Array) -> float:
    got = np.asarray(result).transpose(0, 3, 1, 2)
    if got.shape != wanted.shape:
        raise errors.UserError(
            f"{path}: {name} has shape {wanted.shape}, the network gives {got.shape}"
        )
    return float(np.max(np.abs(got.astype(np.float64) - wanted.astype(np.float64))))

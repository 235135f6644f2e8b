"""Configs of the GPU rows: the paper's sizes, or tiny ones for a rehearsal."""

import functools
import sys
from typing import Any

import jax
from etils import epath

from benchmarks.speed import ceilings, rival
from benchmarks.speed import context as context_lib
from configs import default

# Of a rehearsal; every network keeps its kind and its layers' shapes in small.
_TINY = {
    "unet": {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 8},
    "dit": {"hidden_size": 64, "depth": 2, "num_heads": 2},
}


def config(network: str, dtype: str, attention: str, dry: bool, *, batch: int = 1) -> Any:
    """A config of the published detector.

    Args:
      network: "unet L", "dit L/2", "dit XL/2".
      dtype: that the denoiser computes in; the autoencoder too.
      attention: cudnn, xla or chunked.
      dry: tiny sizes.
      batch: of training steps and of maps.
    """
    found = default.get_config("official")
    found.data.latents = "cached"
    if dry:
        found.data.image_size = 64
        found.autoencoder.update(channels=32, channel_mult=(1, 2, 2, 2), num_res_blocks=1)
        batch = min(batch, 2)
    found = context_lib.with_network(found, network)
    if dry:
        found.denoiser.update(_TINY[found.denoiser.name])
    # Blocks in a loop compile once; in a row they would take the minutes that there are.
    found.denoiser.scan = found.denoiser.name == "dit"
    for section in (found.denoiser, found.autoencoder):
        section.update(dtype=dtype, attention=attention)
    found.benchmark.update(
        networks=("own",),
        batch_size=batch,
        sample_batch_size=batch,
        sampler_steps=(2 if dry else 10,),
        repeats=2 if dry else 5,
        seconds=20.0,
    )
    return found


def context(found: Any, out: epath.PathLike, ways: tuple[str, ...], other: Any) -> Any:
    """What the suites of benchmarks.speed take; `other` is a running rival or None."""
    found.benchmark.rivals = ways
    why = "" if other else "torch, monai or diffusers is not installed"
    made = context_lib.Context(found, epath.Path(out), (), other if ways else None, why)
    made.ceilings = ceilings_of(found.denoiser.dtype)
    return made


@functools.cache
def ceilings_of(dtype: str) -> ceilings.Ceilings:
    """What the first device gives at best, measured once."""
    return ceilings.measure(dtype, jax.devices()[0])


def start_rival() -> Any:
    """This interpreter with PyTorch's networks, or None where a library is missing."""
    other = rival.Rival(sys.executable)
    if all(other.versions.get(name) for name in rival.LIBRARIES):
        return other
    print("no rival:", other.versions)
    other.close()
    return None

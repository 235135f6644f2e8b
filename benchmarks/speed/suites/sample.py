"""Suite `sample`: image to anomaly map in one call.

The rival works the official way: encode, N calls of the network, decode twice, difference, filter.
"equal" rows are ours under the official options at the same number of steps, with the same
networks. "own" rows are the config's own way, whatever it is (the paper's preset decodes once; a
light one has a smaller autoencoder and fewer steps), beside the official way whole: kl-f8, 10
steps, two decodes.
"""

import functools
from typing import Any

from benchmarks.speed import context as context_lib
from benchmarks.speed import ours, results
from madad_jax.assembly import methods, networks


def rows(context: context_lib.Context) -> context_lib.Rows:
    """Networks of `benchmark.networks` at 10 and 2 steps, equal; and as the config has it."""
    found: context_lib.Rows = {}
    o = context.options
    if methods.stands_on_latents(context.config):
        for network in o.networks:
            label = context_lib.label(context.config, network)
            for steps in o.sampler_steps:
                name = f"{label}, equal, {steps} steps, batch {o.sample_batch_size}"
                found[name] = functools.partial(_equal, context, name, network, steps)
    for network in o.networks if methods.stands_on_latents(context.config) else ("own",):
        label = context_lib.label(context.config, network)
        name = f"{label}, own options, batch {o.sample_batch_size}"
        found[name] = functools.partial(_own, context, name, network)
    return found


def official(config: Any, steps: int) -> Any:
    """The config with the official code's inference."""
    config = config.copy_and_resolve_references()
    inference = config.methods.madad.inference
    inference.sampler.update(
        steps=steps, spacing="official", eta=0.5, rewrite="threshold", inside_brain=False
    )
    inference.score.update(difference="l1", reference="autoencoded", gamma=0.25)
    config.map.inside_brain = False
    config.ensemble.update(draws=1, flips=False, combine="none")
    return config


def _equal(context: context_lib.Context, name: str, network: str, steps: int) -> results.Row:
    config = official(context_lib.with_network(context.config, network), steps)
    return _pair(context, name, config, steps)


def published(config: Any) -> Any:
    """The config with the published kl-f8 for autoencoder."""
    config = config.copy_and_resolve_references()
    config.autoencoder.update(
        patch=1,
        channels=128,
        channel_mult=(1, 2, 4, 4),
        num_res_blocks=2,
        decoder_channels=0,
        decoder_channel_mult=(),
        decoder_num_res_blocks=-1,
        latent_channels=4,
        num_groups=32,
        mid_attention=True,
    )
    return config


def _own(context: context_lib.Context, name: str, network: str) -> results.Row:
    config = context_lib.with_network(context.config, network)
    row = _pair(context, name, config, 10, published(config))
    row.notes.append("the rival has kl-f8, takes 10 steps and decodes twice, whatever we do")
    return row


def _pair(
    context: context_lib.Context, name: str, config: Any, steps: int, theirs: Any = None
) -> results.Row:
    """`theirs`: config of the rival's networks, where they are not ours."""
    batch, theirs = context.options.sample_batch_size, theirs or config
    why = f"method={config.method} is none that the official code has"
    request = None
    if config.method == "madad":
        size, why = context_lib.denoiser_size(theirs)
        autoencoder, why_autoencoder = context_lib.autoencoder_size(theirs)
        why = why or why_autoencoder
        if not why:
            request = context_lib.request(
                theirs,
                batch,
                job="sample",
                denoiser=size,
                autoencoder=autoencoder,
                steps=steps,
                eta=0.5,
                sigma=networks.smoothing_sigma(theirs),
            )
    return context.pair(name, lambda: ours.anomaly_map(config, batch), request, why)

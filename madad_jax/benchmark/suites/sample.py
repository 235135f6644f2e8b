"""Suite `sample`: image to anomaly map in one call.

The rival works the official way: encode, N calls of the network, decode twice, difference, filter.
"equal" rows are ours under the official options at the same number of steps, "own" ones under the
config's own (the paper's preset compares with the input and so decodes once), both against the
same rival.
"""

import functools
from typing import Any

from madad_jax import build_methods, build_networks
from madad_jax.benchmark import context as context_lib
from madad_jax.benchmark import ours, results


def rows(context: context_lib.Context) -> context_lib.Rows:
    """Networks of `benchmark.networks` at 10 and 2 steps, equal; and as the config has it."""
    found: context_lib.Rows = {}
    o = context.options
    if build_methods.uses_latents(context.config):
        for network in o.networks:
            label = context_lib.label(context.config, network)
            for steps in o.sampler_steps:
                name = f"{label}, equal, {steps} steps, batch {o.sample_batch_size}"
                found[name] = functools.partial(_equal, context, name, network, steps)
    for network in o.networks if build_methods.uses_latents(context.config) else ("own",):
        label = context_lib.label(context.config, network)
        name = f"{label}, own options, batch {o.sample_batch_size}"
        found[name] = functools.partial(_own, context, name, network)
    return found


def official(config: Any, steps: int) -> Any:
    """The config with the official code's inference."""
    config = config.copy_and_resolve_references()
    config.sampler.update(
        steps=steps, spacing="official", eta=0.5, rewrite="threshold", inside_brain=False
    )
    config.score.update(difference="l1", reference="autoencoded", gamma=0.25, inside_brain=False)
    config.ensemble.update(draws=1, flips=False, combine="none")
    return config


def _equal(context: context_lib.Context, name: str, network: str, steps: int) -> results.Row:
    config = official(context_lib.with_network(context.config, network), steps)
    return _pair(context, name, config, steps)


def _own(context: context_lib.Context, name: str, network: str) -> results.Row:
    config = context_lib.with_network(context.config, network)
    row = _pair(context, name, config, 10)
    row.notes.append("the rival takes 10 steps and decodes twice, whatever our options are")
    return row


def _pair(context: context_lib.Context, name: str, config: Any, steps: int) -> results.Row:
    batch = context.options.sample_batch_size
    why = f"method={config.method} is none that the official code has"
    request = None
    if config.method == "madad":
        size, why = context_lib.denoiser_size(config)
        autoencoder, why_autoencoder = context_lib.autoencoder_size(config)
        why = why or why_autoencoder
        if not why:
            request = context_lib.request(
                config,
                batch,
                job="sample",
                denoiser=size,
                autoencoder=autoencoder,
                steps=steps,
                eta=0.5,
                sigma=build_networks.smoothing_sigma(config),
            )
    return context.pair(name, lambda: ours.anomaly_map(config, batch), request, why)

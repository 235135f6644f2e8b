"""Suite `train`: one optimiser step of the denoiser, from cached latents and live.

The rival's step does the same work the official way: with `live`, its autoencoder encodes every
batch; ours encodes each slice once and reads the cache. The row "cached against live" is that
difference: our cached step beside the rival's live one.
"""

import functools

from benchmarks.speed import context as context_lib
from benchmarks.speed import ours, results
from madad_jax.assembly import methods


def rows(context: context_lib.Context) -> context_lib.Rows:
    """Every network of `benchmark.networks`, each cached and live."""
    found: context_lib.Rows = {}
    if not methods.stands_on_latents(context.config):
        name = f"{context.config.method} {context.config.denoiser.name}, on images"
        found[name] = functools.partial(_images, context, name)
        return found
    o = context.options
    for network in o.networks:
        label = context_lib.label(context.config, network)
        ways = (("cached", "cached", o.batch_size), ("live", "live", o.live_batch_size))
        for ours_way, rival_way, batch in (*ways, ("cached", "live", o.live_batch_size)):
            way = ours_way if ours_way == rival_way else "cached against live"
            name = f"{label}, {way}, batch {batch}"
            found[name] = functools.partial(
                _pair, context, name, network, ours_way, rival_way, batch
            )
    return found


def _pair(
    context: context_lib.Context,
    name: str,
    network: str,
    ours_way: str,
    rival_way: str,
    batch: int,
) -> results.Row:
    config = context_lib.with_network(context.config, network)
    config.data.latents = ours_way
    config.train.accum_steps = 1
    if ours_way == "cached":
        config.synthesis.share = 0.0  # needs images
    size, why = context_lib.denoiser_size(config)
    autoencoder = None
    if rival_way == "live":
        autoencoder, why_autoencoder = context_lib.autoencoder_size(config)
        why = why or why_autoencoder
    request = None
    if not why:
        live = rival_way == "live"
        request = context_lib.request(config, batch, job="train", denoiser=size, live=live)
        request["autoencoder"] = autoencoder
    row = context.pair(name, lambda: ours.train_step(config, batch), request, why)
    if config.denoiser.name == "dit" and row.rivals:
        row.notes.append(
            "diffusers embeds the time step in every block anew, which is what its transformer "
            "has more in parameters; per token the work is the same"
        )
    return row


def _images(context: context_lib.Context, name: str) -> results.Row:
    batch = context.options.live_batch_size
    why = f"method={context.config.method} works on images"
    return context.pair(name, lambda: ours.train_step(context.config, batch), None, why)

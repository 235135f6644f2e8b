"""Suite `encode`: the config's autoencoder alone, image to posterior and latent to image."""

import functools

from benchmarks.speed import context as context_lib
from benchmarks.speed import ours, results


def rows(context: context_lib.Context) -> context_lib.Rows:
    """`encode` and `decode` at each of `benchmark.encode_batch_sizes`."""
    found: context_lib.Rows = {}
    for batch in context.options.encode_batch_sizes:
        for part in ("encode", "decode"):
            name = f"{part}, {context.config.data.image_size} px, batch {batch}"
            found[name] = functools.partial(_pair, context, name, part, batch)
    return found


def _pair(context: context_lib.Context, name: str, part: str, batch: int) -> results.Row:
    config = context.config
    size, why = context_lib.autoencoder_size(config)
    request = None
    if not why:
        request = context_lib.request(config, batch, job=part, autoencoder=size)
        request["dtype"] = config.autoencoder.dtype
    return context.pair(name, lambda: ours.autoencoder(config, part, batch), request, why)

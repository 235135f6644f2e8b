"""What all suites share: config, options, the rival, measured ceilings; and how a pair is timed."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from benchmarks.speed import ceilings as ceilings_lib
from benchmarks.speed import ours, results, rival, timing
from madad_jax.assembly import networks as networks_lib
from madad_jax.core import units

_LOG = logging.getLogger(__name__)

Rows = dict[str, Callable[[], results.Row]]  # name -> what measures it

# What each way of the rival is, for the table's readers.
WAYS = ("official", "sdpa", "compiled")


@dataclasses.dataclass
class Context:
    """One benchmark.

    Attributes:
      config: of the run, whole.
      folder: where results stand, and where suites may put what they need.
      config_flags: `--config...` as they were given, for suites that start the command itself.
      networks: PyTorch's side, or None.
      why_not: one line that says why there is none.
    """

    config: Any
    folder: epath.Path
    config_flags: tuple[str, ...] = ()
    networks: rival.Rival | None = None
    why_not: str = ""

    @property
    def options(self) -> Any:
        """`config.benchmark`."""
        return self.config.benchmark

    @functools.cached_property
    def ceilings(self) -> ceilings_lib.Ceilings:
        """Measured once, when first asked for."""
        found = ceilings_lib.measure(self.config.denoiser.dtype, jax.devices()[0])
        _LOG.info(
            "ceilings: %.0f GFLOP/s, %.1f GB/s, %.1f us a kernel",
            found.compute / 1e9,
            found.memory / 1e9,
            found.launch * 1e6,
        )
        return found

    def pair(
        self, name: str, make: Callable[[], ours.Job], request: dict[str, Any] | None, why: str = ""
    ) -> results.Row:
        """A row: our job beside the rival's, in every way that is asked for.

        Args:
          name: of the row.
          make: compiles our job.
          request: the rival's job (rivals/serve.py) without `way`; None: it has none.
          why: then, the reason.
        """
        row = results.Row(name)
        roofs = self.ceilings
        job = make()
        first = job.compile_seconds + job.timed().seconds
        sides: dict[str, Callable[[], timing.Sample]] = {"ours": job.timed}
        if request is None or self.networks is None:
            row.notes.append(f"no rival: {why or self.why_not}")
        else:
            for way in self.options.rivals:
                self._add(row, sides, way, request)
        taken = self._timed(row, sides)
        row.ours = {"first_seconds": first, **timing.summary(taken["ours"])}
        for way in row.rivals:
            row.rivals[way] |= timing.summary(taken[way])
            row.rivals[way]["ratio"] = timing.ratio(taken["ours"], taken[way])
            self.networks.ask(do="drop", key=way)
        if row.rivals:
            peak = self.networks.ask(do="memory")["peak_bytes"]
            row.figures["rival's process peak"] = units.human(peak)
        row.program = results.costs(job, row.ours["seconds"]["median"], roofs)
        return row

    def _timed(self, row: results.Row, sides: dict[str, Any]) -> dict[str, list[timing.Sample]]:
        """Rounds over all sides, or over ours alone when the rival fails on the way."""
        o = self.options
        try:
            return timing.interleave(
                sides, repeats=o.repeats, settle=int(len(sides) > 1), limit=o.seconds
            )
        except rival.RivalError as error:
            row.notes.append(f"no rival: it failed on the way: {error}")
            row.rivals.clear()
            return timing.interleave({"ours": sides["ours"]}, repeats=o.repeats, limit=o.seconds)

    def _add(self, row: results.Row, sides: dict[str, Any], way: str, request: Any) -> None:
        try:
            made = self.networks.ask(do="make", key=way, way=way, **request)
        except rival.RivalError as error:
            row.notes.append(f"{way}: the rival cannot: {error}")
            return
        row.rivals[way] = {
            "first_seconds": made["first_seconds"],
            "parameters": {
                key.removesuffix("_parameters"): value
                for key, value in made.items()
                if key.endswith("_parameters")
            },
        }
        sides[way] = lambda: self.networks.run(way)


def with_network(config: Any, network: str) -> Any:
    """A copy of the config with the denoiser `network`: "unet XS", "dit S/2", ... or "own"."""
    config = config.copy_and_resolve_references()
    if network != "own":
        name, _, size = network.partition(" ")
        plain = {"hidden_size": 0, "depth": 0, "num_heads": 0, "model_channels": 0}
        plain |= {"num_res_blocks": 0, "num_groups": 0, "patch": 0, "sspcab": 0.0}
        config.denoiser.update(
            name=name, size=size, channel_mult=(), attention_rates=(), residual_x0=False, **plain
        )
        config.denoiser.dropout = 0.4 if name == "unet" else 0.0
    return config


def label(config: Any, network: str) -> str:
    """What a network of `benchmark.networks` is called in the tables."""
    own = f"own ({config.denoiser.name} {config.denoiser.size})"
    return own if network == "own" else network


def denoiser_size(config: Any) -> tuple[dict[str, Any] | None, str]:
    """(sizes of `config.denoiser` for the rival, "") or (None, why it has no such network)."""
    size = dict(networks_lib.denoiser(config).settings)
    if size.get("patch", 1) > 1 or size.get("sspcab"):
        return None, "no library has this network (patches folded into channels, or SSPCAB)"
    latent = latent_shape(config)
    return size | {"in_channels": latent[2], "side": latent[0]}, ""


def autoencoder_size(config: Any) -> tuple[dict[str, Any] | None, str]:
    """As `denoiser_size`, of `config.autoencoder`."""
    size = networks_lib.autoencoder(config).settings
    plain = (
        size["patch"] == 1
        and size["decoder_channels"] == size["channels"]
        and tuple(size["decoder_channel_mult"]) == tuple(size["channel_mult"])
        and size["decoder_num_res_blocks"] == size["num_res_blocks"]
    )
    if not plain:
        return None, "no library has this autoencoder (folded patches, or a lighter decoder)"
    return dict(size), ""


def latent_shape(config: Any) -> tuple[int, int, int]:
    """(rows, columns, channels) of the config's latents."""
    network = networks_lib.autoencoder(config)
    side = config.data.image_size // network.factor
    return side, side, network.latent_channels


def request(config: Any, batch: int, **more: Any) -> dict[str, Any]:
    """What every job of the rival is told."""
    return {
        "batch": batch,
        "dtype": config.denoiser.dtype,
        "image_size": config.data.image_size,
        "latent": latent_shape(config),
        "network": config.denoiser.name,
        **more,
    }

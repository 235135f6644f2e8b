"""One experiment in one working directory: what its stages share.

Each stage leaves `<workdir>/<stage>/config.json` (the config keys that its result depends on)
and, when finished, `complete.json`. The same command again finds them; a config that would
have made something else is refused, by the names of the keys that differ, and nothing is
overwritten.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from madad_jax.assembly import methods, parts
from madad_jax.core import atomic_files, errors, version
from madad_jax.core.types import Batch, Params
from madad_jax.data import registry as data_registry
from madad_jax.data.sources import labelled
from madad_jax.devices import mesh
from madad_jax.runtime import agreement
from madad_jax.runtime import stop as stop_lib
from madad_jax.training import loop, metric_log
from madad_jax.training import trainer as trainer_lib

_LOG = logging.getLogger(__name__)

# What a stage's result depends on. Evaluation keys are not among them: another threshold
# or sampler needs no training.
AUTOENCODER_KEYS = ("seed", "data", "autoencoder", "log", "mesh", "matmul_precision")
# How latents reach the denoiser is none of the autoencoder's business: both ways share one.
_LATENT_KEYS = ("data.latents", "data.latent_draws")
DENOISER_KEYS = (
    *AUTOENCODER_KEYS,
    *_LATENT_KEYS,
    *("method", "denoiser", "diffusion", "synthesis", "masking", "loss", "optim", "train"),
)
_INFERENCE = "inference"  # the part of a method's own section that no training reads
# Free to change between two starts of the same run: where and how fast, not what.
_FREE = (
    *("data.cache_dir", "data.latents_dir", "data.num_threads", "data.root", "mesh"),
    *("log.every_steps", "log.validate_batches"),
    *("autoencoder.chunk", "autoencoder.convolution", "denoiser.convolution"),
)


class Run:
    """One experiment in one working directory."""

    def __init__(
        self,
        config: Any,
        workdir: str,
        stop: stop_lib.GracefulStop,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.config = config
        self.workdir = epath.Path(workdir)
        # Where weights lie: another run's, when its variants are evaluated here.
        self.trained = epath.Path(config.eval.run or workdir)
        self.stop = stop
        self.mesh = mesh.make_mesh(**config.mesh.to_dict(), devices=devices)
        self.primary = jax.process_index() == 0
        self._sources: dict[str, Any] = {}
        self.latents: dict[str, Any] = {}  # `train` and `val` of the cache, where one is used
        _make_writable(self.workdir)

    @property
    def denoiser_keys(self) -> tuple[str, ...]:
        """What the trained detector depends on: the method's own section too, and nothing of
        the autoencoder where the method works on images."""
        latent = methods.uses_latents(self.config)
        keys = tuple(k for k in DENOISER_KEYS if latent or k != "autoencoder")
        own = self.config.method in self.config.methods
        return (*keys, f"methods.{self.config.method}") if own else keys

    # Parts that stages share.

    def source(self, split: str) -> Any:
        """One split, opened once."""
        if split not in self._sources:
            self._sources[split] = parts.source(self.config, split)
            _LOG.info("%s: %s", split, self._sources[split].describe())
        return self._sources[split]

    def healthy_source(self, name: str) -> Any:
        """The healthy companion of a test set, when there is one."""
        companion = f"{name}_healthy"
        c = self.config.data
        known = data_registry.has_split(companion, name=c.source, root=c.root, modality=c.modality)
        return self.source(companion) if known else None

    def complete(self, stage: str, keys: Sequence[str]) -> bool:
        """Whether the stage was finished with this config. Every process must call it.

        Raises UserError when the folder holds the stage of another config.
        """
        return agreement.from_first(lambda: self._complete(stage, keys))

    def _complete(self, stage: str, keys: Sequence[str]) -> bool:
        marker = self.trained / stage / "config.json"
        now = flat(self.config, keys)
        if marker.exists():
            then = json.loads(marker.read_text())
            differ = [k for k in now if k not in then or then[k] != now[k]]
            if differ:
                shown = ", ".join(f"{k}: {then.get(k)!r} -> {now[k]!r}" for k in differ[:5])
                raise errors.UserError(
                    f"{self.trained / stage} was made with another config ({shown}); "
                    "choose another --workdir, or remove that folder"
                )
        else:
            atomic_files.write_text(marker, json.dumps(now, indent=1, sort_keys=True))
        return (self.trained / stage / "complete.json").exists()

    def mark(self, stage: str, keys: Sequence[str], **facts: Any) -> None:
        """Records that a stage is finished."""
        if self.primary:
            text = json.dumps(flat(self.config, keys), sort_keys=True)
            facts |= {
                "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "version": version.VERSION,
            }
            atomic_files.write_text(
                self.trained / stage / "complete.json", json.dumps(facts, indent=1)
            )

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage recorded. Every process must call it.

        Raises UserError when it is not finished.
        """
        return agreement.from_first(lambda: self.facts_here(stage))

    def facts_here(self, stage: str) -> dict[str, Any]:
        """`facts` as this process alone sees them: what process 0 has just written others may
        not see yet."""
        path = self.trained / stage / "complete.json"
        if not path.exists():
            raise errors.UserError(
                f"{self.trained} has no finished stage '{stage}'; run --mode=run on it first"
            )
        return json.loads(path.read_text())

    def train_stage(
        self,
        stage: str,
        method: Any,
        section: Any,
        optim_section: Any,
        frozen: Params,
        first: Params | None = None,
        *,
        spec: Batch,
        cached: dict[str, Any] | None = None,
    ) -> int:
        """Trains a method, from the weights `first` or from its own, to the end of its budget;
        returns the number of steps. Batches are of the shapes `spec`, from the latents `cached`
        or from the images."""
        data, val = ((cached or {}).get(s) or self.source(s) for s in ("train", "val"))
        if "unhealthy" in spec:
            data = labelled.Labelled(data, self.source(labelled.ABNORMAL_SPLIT))
            val = labelled.Labelled(val)
        planned = parts.budget(section, len(data))
        tx, lr_fn = parts.optimizer(optim_section, planned)
        options = parts.train_options(self.config, section, stage, planned.steps)
        trainer = trainer_lib.Trainer(
            method,
            tx,
            options,
            batch_spec=spec,
            mesh=self.mesh,
            seed=self.config.seed,
        )
        iterator = parts.train_iterator(self.config, section, data, self.mesh)
        with metric_log.MetricWriter(self.trained, self.primary) as writer:
            loop.train(
                trainer,
                frozen,
                iterator,
                lambda: self._validation(val, section.batch_size, tuple(spec)),
                loop.Outputs(self.trained / stage, json.loads(self.config.to_json()), writer),
                lr_fn=lr_fn,
                stop=self.stop,
                first=first,
            )
        return planned.steps

    def _validation(self, val: Any, batch_size: int, keys: Sequence[str]) -> Any:
        limit = self.config.log.validate_batches
        for i, batch in enumerate(parts.eval_batches(self.config, val, batch_size, self.mesh)):
            if limit and i >= limit:
                return
            yield {k: batch[k] for k in keys}

    def batches_of(self, data: Any) -> Any:
        """Evaluation batches of a source."""
        return parts.eval_batches(self.config, data, self.config.eval.batch_size, self.mesh)


def _make_writable(workdir: epath.Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{jax.process_index()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise errors.UserError(
            f"--workdir={workdir}: {error.strerror or error}; give a folder that can be written"
        ) from error


def flat(config: Any, keys: Sequence[str]) -> dict[str, Any]:
    """The named sections as {dotted key: plain value}, without what is free to change."""
    out: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if prefix in _FREE or (prefix in _LATENT_KEYS and prefix not in keys):
            return
        if isinstance(value, dict):
            if prefix.startswith("methods."):
                value = {k: v for k, v in value.items() if k != _INFERENCE}
            for k, v in value.items():
                walk(f"{prefix}.{k}", v)
        else:
            out[prefix] = list(value) if isinstance(value, tuple) else value

    tree = json.loads(config.to_json())
    for key in keys:
        section, *leaf = key.split(".")
        walk(key, tree[section][leaf[0]] if leaf else tree[section])
    return out

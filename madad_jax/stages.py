"""The run: autoencoder, latents, denoiser, evaluate, report. Skips what is done, resumes
what is not.

Each stage leaves `<workdir>/<stage>/complete.json` with a digest of the config that made
it. The same command again finds the markers; a config that would have made something else
is refused, by the names of the keys that differ, and nothing is overwritten.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from madad_jax import (
    build,
    checkpoint,
    errors,
    evaluate,
    metric_writer,
    report,
    runtime,
    sharding,
    train,
    version,
    visualize,
)
from madad_jax.evaluation import tables
from madad_jax.typing import Params

_LOG = logging.getLogger(__name__)

# What a stage's result depends on. Evaluation keys are not among them: another threshold
# or sampler needs no training.
_AUTOENCODER_KEYS = ("seed", "data", "autoencoder", "log", "mesh", "matmul_precision")
_DENOISER_KEYS = (
    *_AUTOENCODER_KEYS,
    *("method", "denoiser", "diffusion", "masking", "loss", "optim", "train"),
)
# Free to change between two starts of the same run: where and how fast, not what.
_FREE = (
    *("data.cache_dir", "data.num_threads", "data.root", "mesh", "log.every_steps"),
    "log.validate_batches",
)
SYNTHETIC = (
    "All slices are synthetic: the embedded cohort is drawn from a brain template. These figures "
    "show that the program works; they say nothing about patients."
)


class Run:
    """One experiment in one working directory."""

    def __init__(self, config: Any, workdir: str, stop: runtime.GracefulStop):
        self.config = config
        self.workdir = epath.Path(workdir)
        self.stop = stop
        self.mesh = sharding.make_mesh(**config.mesh.to_dict())
        self.primary = jax.process_index() == 0
        self._sources: dict[str, Any] = {}
        _make_writable(self.workdir)

    # Parts that stages share.

    def source(self, split: str) -> Any:
        """One split, opened once."""
        if split not in self._sources:
            self._sources[split] = build.source(self.config, split)
            _LOG.info("%s: %s", split, self._sources[split].describe())
        return self._sources[split]

    def complete(self, stage: str, keys: Sequence[str]) -> bool:
        """Whether the stage was finished with this config.

        Raises UserError when the folder holds the stage of another config.
        """
        marker = self.workdir / stage / "config.json"
        now = _flat(self.config, keys)
        if marker.exists():
            then = json.loads(marker.read_text())
            differ = [k for k in now if k not in then or then[k] != now[k]]
            if differ:
                shown = ", ".join(f"{k}: {then.get(k)!r} -> {now[k]!r}" for k in differ[:5])
                raise errors.UserError(
                    f"{self.workdir / stage} was made with another config ({shown}); "
                    "choose another --workdir, or remove that folder"
                )
        elif self.primary:
            _write(marker, json.dumps(now, indent=1, sort_keys=True))
        return (self.workdir / stage / "complete.json").exists()

    def mark(self, stage: str, keys: Sequence[str], **facts: Any) -> None:
        """Records that a stage is finished."""
        if self.primary:
            text = json.dumps(_flat(self.config, keys), sort_keys=True)
            facts |= {
                "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "version": version.VERSION,
            }
            _write(self.workdir / stage / "complete.json", json.dumps(facts, indent=1))

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage recorded. Raises UserError when it is not finished."""
        path = self.workdir / stage / "complete.json"
        if not path.exists():
            raise errors.UserError(
                f"{self.workdir} has no finished stage '{stage}'; run --mode=run on it first"
            )
        return json.loads(path.read_text())

    def train_stage(
        self, stage: str, method: Any, section: Any, optim_section: Any, frozen: Params
    ) -> int:
        """Trains a method to the end of its budget; returns the number of steps."""
        data, val = self.source("train"), self.source("val")
        planned = build.budget(section, len(data))
        tx, lr_fn = build.optimizer(optim_section, planned)
        options = build.train_options(self.config, section, stage, planned.steps)
        trainer = train.Trainer(
            method,
            tx,
            options,
            batch_spec=train.image_spec(section.batch_size, self.config.data.image_size),
            mesh=self.mesh,
            seed=self.config.seed,
        )
        iterator = build.train_iterator(self.config, section, data, self.mesh)
        with metric_writer.MetricWriter(self.workdir, self.primary) as writer:
            train.train(
                trainer,
                frozen,
                iterator,
                lambda: self._validation(val, section.batch_size),
                directory=self.workdir / stage,
                config=json.loads(self.config.to_json()),
                writer=writer,
                lr_fn=lr_fn,
                stop=self.stop,
            )
        return planned.steps

    def _validation(self, val: Any, batch_size: int) -> Any:
        limit = self.config.log.validate_batches
        for i, batch in enumerate(build.eval_batches(self.config, val, batch_size, self.mesh)):
            if limit and i >= limit:
                return
            yield {k: batch[k] for k in ("image", "brain_mask")}

    def batches_of(self, data: Any) -> Any:
        """Evaluation batches of a source."""
        return build.eval_batches(self.config, data, self.config.eval.batch_size, self.mesh)


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


def _write(path: epath.Path, text: str) -> None:
    """Whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".new")
        scratch.write_text(text)
        scratch.replace(path)
    except OSError as error:
        raise errors.UserError(f"{path}: {error.strerror or error}") from error


def _flat(config: Any, keys: Sequence[str]) -> dict[str, Any]:
    """The named sections as {dotted key: plain value}, without what is free to change."""
    out: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if prefix in _FREE:
            return
        if isinstance(value, dict):
            for k, v in value.items():
                walk(f"{prefix}.{k}", v)
        else:
            out[prefix] = list(value) if isinstance(value, tuple) else value

    tree = json.loads(config.to_json())
    for key in keys:
        walk(key, tree[key])
    return out


# The stages.


def train_autoencoder(run: Run) -> None:
    """The KL autoencoder, unless a trained one is named."""
    if run.config.autoencoder.checkpoint or run.complete("autoencoder", _AUTOENCODER_KEYS):
        _LOG.info("autoencoder: complete")
        return
    c = run.config.autoencoder
    frozen = {}
    if c.lpips:
        frozen["lpips"] = build.lpips_weights(c.lpips)
    else:
        _LOG.warning("autoencoder: perceptual term off (autoencoder.lpips names no weights)")
    method = build.autoencoder_training(run.config)
    steps = run.train_stage("autoencoder", method, c.train, c.optim, frozen)
    run.mark("autoencoder", _AUTOENCODER_KEYS, steps=steps)


def autoencoder_weights(run: Run) -> tuple[Any, Params]:
    """(network, its averaged weights) of this run or of `autoencoder.checkpoint`."""
    network = build.autoencoder(run.config)
    method = build.autoencoder_training(run.config)
    spec = train.image_spec(1, run.config.data.image_size)
    abstract = jax.eval_shape(lambda: method.init(jax.random.key(0), spec))
    whole = sharding.replicated(run.mesh)
    abstract = sharding.with_shardings(abstract, jax.tree.map(lambda _: whole, abstract))
    other = run.config.autoencoder.checkpoint
    folder = epath.Path(other) if other else run.workdir
    params, _ = checkpoint.restore_ema(folder / "autoencoder" / "checkpoints", abstract)
    return network, params["autoencoder"]


def measure_latents(run: Run) -> dict[str, Any]:
    """The frozen part of the detector: autoencoder weights and the scaling factor.

    A factor of 0 in the config is measured: 1 / the posterior's spread over brain cells of
    the training slices, so that the noise schedule meets latents of unit variance.
    """
    network, params = autoencoder_weights(run)
    factor = run.config.autoencoder.scaling_factor
    if factor <= 0:
        path = run.workdir / "latents" / "complete.json"
        if run.complete("latents", _AUTOENCODER_KEYS) and path.exists():
            factor = run.facts("latents")["scaling_factor"]
        else:
            factor = _measure(run, network, params)
            run.mark("latents", _AUTOENCODER_KEYS, scaling_factor=factor)
        _LOG.info("latents: scaling factor %.5f (measured)", factor)
    return {"autoencoder": params, "scaling_factor": np.float32(factor)}


def _measure(run: Run, network: Any, params: Params) -> float:
    @jax.jit
    def moments(params: Params, image: jax.Array, brain: jax.Array):
        mean, logvar = network.encode(params, image)
        h, w = mean.shape[1:3]
        b = brain.reshape(len(brain), h, network.factor, w, network.factor).mean((2, 4))
        weight = (b > 0.5)[..., None] * jax.numpy.ones_like(mean)
        power = jax.numpy.square(mean) + jax.numpy.exp(logvar)
        return weight.sum(), (weight * mean).sum(), (weight * power).sum()

    total = np.zeros(3)
    limit = max(1, 2048 // run.config.eval.batch_size)  # 2,048 slices settle two digits more
    for i, batch in enumerate(run.batches_of(run.source("train"))):
        if i >= limit:
            break
        part = sharding.global_batch(run.mesh, {k: batch[k] for k in ("image", "brain_mask")})
        sums = moments(params, part["image"], part["brain_mask"])
        total += np.array([float(v) for v in sums])
    count, mean, power = total
    if not count:
        raise errors.UserError("data.train: no brain in any slice; look at the brain masks")
    return float(1.0 / np.sqrt(max(power / count - (mean / count) ** 2, 1e-12)))


def train_denoiser(run: Run) -> None:
    """The masked denoiser on the frozen autoencoder's latents."""
    if run.complete("denoiser", _DENOISER_KEYS):
        _LOG.info("denoiser: complete")
        return
    frozen = measure_latents(run)
    method = build.detector(run.config)
    steps = run.train_stage("denoiser", method, run.config.train, run.config.optim, frozen)
    run.mark("denoiser", _DENOISER_KEYS, steps=steps)


def evaluate_run(run: Run) -> list[dict[str, Any]]:
    """Scores every set of `eval.sets`; returns and stores the rows."""
    run.complete("denoiser", _DENOISER_KEYS)
    trained = run.facts("denoiser")
    frozen = measure_latents(run)
    method = build.detector(run.config)
    spec = train.image_spec(1, run.config.data.image_size)
    abstract = jax.eval_shape(lambda: method.init(jax.random.key(0), spec))
    whole = sharding.replicated(run.mesh)
    params, _ = checkpoint.restore_ema(
        run.workdir / "denoiser" / "checkpoints",
        sharding.with_shardings(abstract, jax.tree.map(lambda _: whole, abstract)),
        run.config.eval.checkpoint,
    )
    c = run.config
    scorer = evaluate.Scorer(method, params, frozen, run.mesh, c.seed)
    options = evaluate.Options(
        image_size=c.data.image_size,
        sigma=build.smoothing_sigma(c),
        false_positive_rate=c.eval.false_positive_rate,
        band=c.eval.mean_image_band,
        bootstrap=c.eval.bootstrap,
        panels=c.eval.panels,
        seed=c.seed,
    )
    evaluation = evaluate.Evaluation(scorer, options, run.batches_of)
    evaluation.fit_floor(run.source("train"))
    evaluation.choose_thresholds(run.source("val"))
    rows = []
    for name in c.eval.sets:
        extra = {"preset": c.preset, "name": c.name, "step": trained["steps"]}
        extra |= {"modality": c.data.modality, "synthetic": c.data.source == "cohort"}
        extra |= {"run_seed": c.seed, "version": version.VERSION}
        rows += evaluation.score_set(
            name, run.source(name), _healthy(run, name), run.workdir / "eval" / name, extra
        )
    if run.primary:
        for row in rows:
            report.append_result(run.workdir / "results.jsonl", row)
    return rows


def _healthy(run: Run, name: str) -> Any:
    """The healthy companion of a test set, when there is one."""
    companion = f"{name}_healthy"
    c = run.config.data
    if c.source == "cohort":
        return run.source(companion) if companion == "test_healthy" else None
    return run.source(companion) if (epath.Path(c.root) / companion).is_dir() else None


def write_report(run: Run) -> None:
    """`report.md` from what the run has left behind, and the curves."""
    if not run.primary:
        return
    rows = report.read_results(run.workdir / "results.jsonl")
    if not rows:
        raise errors.UserError(f"{run.workdir} has no results.jsonl; run --mode=evaluate first")
    curves = run.workdir / "curves.png"
    drawn = visualize.training_curves(curves, run.workdir / "metrics.jsonl")
    pictures = sorted((run.workdir / "eval").glob("*/panels/*.png"))
    thresholds = sorted((run.workdir / "eval").glob("*/dice_over_thresholds.png"))
    c = run.config
    report.write_report(
        run.workdir / "report.md",
        title=f"MAD-AD: {c.name}",
        rows=rows,
        panels=pictures,
        curves=[*([curves] if drawn else []), *thresholds],
        config_summary={
            "preset": c.preset,
            "seed": c.seed,
            "modality": c.data.modality,
            "image size": c.data.image_size,
            "denoiser": f"{c.denoiser.name} {c.denoiser.size}",
            "denoiser steps": run.facts("denoiser")["steps"],
            "DDIM steps, eta": f"{c.sampler.steps}, {c.sampler.eta}",
            "score": f"{c.score.difference} against {c.score.reference}, gamma {c.score.gamma}",
            "machine": runtime.device_line(),
        },
        cohort_note=SYNTHETIC if c.data.source == "cohort" else "",
        notes=[c.note] if c.note else [],
    )
    _LOG.info("report: %s", run.workdir / "report.md")


def print_table(workdir: str) -> None:
    """The main table of every set on standard output."""
    if jax.process_index():
        return
    folder = epath.Path(workdir)
    rows = report.read_results(folder / "results.jsonl")
    for name in dict.fromkeys(str(row["set"]) for row in rows):
        part = [row for row in rows if row["set"] == name]
        kind = "synthetic, embedded cohort" if part[0].get("synthetic") else "slices from disk"
        print(f"\nset {name} ({kind}), preset {part[0]['preset']}, seed {part[0]['run_seed']}")
        print(tables.markdown(report.floor_first(part), tables.MAIN))
    print(f"report: {folder / 'report.md'}")


def check(config: Any) -> None:
    """Shapes and options of every network, before hours are spent or a file is written.

    Raises UserError for the first that does not fit.
    """
    spec = train.image_spec(1, config.data.image_size)
    for method in (build.autoencoder_training(config), build.detector(config)):
        jax.eval_shape(lambda method=method: method.init(jax.random.key(0), spec))


STAGES: dict[str, tuple[Callable[[Run], Any], ...]] = {
    "run": (train_autoencoder, train_denoiser, evaluate_run, write_report),
    "train_autoencoder": (train_autoencoder,),
    "train": (train_autoencoder, train_denoiser),
    "evaluate": (evaluate_run, write_report),
    "report": (write_report,),
}


def execute(config: Any, workdir: str, mode: str, stop: runtime.GracefulStop) -> Run:
    """Runs the stages of `mode` in `workdir`. Raises UserError for what the user can mend."""
    check(config)
    run = Run(config, workdir, stop)
    for stage in STAGES[mode]:
        stage(run)
    return run

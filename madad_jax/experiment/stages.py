"""The stages of a run: autoencoder, latents, denoiser, evaluate, report. Each skips what is
done and resumes what is not (`run.py` says how it knows).
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from madad_jax.assembly import methods, networks, parts, preset_changes
from madad_jax.checkpoints import digests
from madad_jax.core import atomic_files, errors, json_digest, version
from madad_jax.core.types import Params
from madad_jax.data import provenance
from madad_jax.devices import batches
from madad_jax.evaluation import calibrate, report, runner, tables
from madad_jax.evaluation import scorer as scorer_lib
from madad_jax.experiment import latent_cache, preflight, trained_weights
from madad_jax.experiment.workdir import AUTOENCODER_KEYS, Run
from madad_jax.metrics import scan_stacks
from madad_jax.runtime import startup
from madad_jax.runtime import stop as stop_lib
from madad_jax.training import batch_specs

_LOG = logging.getLogger(__name__)

_TITLES = {"madad": "MAD-AD"}  # of reports; other methods go by their names
SYNTHETIC = (
    "All slices are synthetic: the embedded cohort is drawn from a brain template. These figures "
    "show that the program works; they say nothing about patients."
)


def train_autoencoder(run: Run) -> None:
    """The KL autoencoder, unless a trained one is named or the method works on images."""
    if not methods.uses_latents(run.config):
        return
    if run.config.autoencoder.checkpoint or run.complete("autoencoder", AUTOENCODER_KEYS):
        _LOG.info("autoencoder: complete")
        return
    c = run.config.autoencoder
    frozen = {}
    if c.lpips:
        frozen["lpips"] = networks.lpips_weights(c.lpips)
    else:
        _LOG.warning("autoencoder: perceptual term off (autoencoder.lpips names no weights)")
    method = parts.autoencoder_training(run.config)
    spec = batch_specs.image_spec(c.train.batch_size, run.config.data.image_size)
    steps = run.train_stage("autoencoder", method, c.train, c.optim, frozen, spec=spec)
    run.mark("autoencoder", AUTOENCODER_KEYS, steps=steps)


def frozen_part(run: Run) -> dict[str, Any]:
    """What the method reads and does not train."""
    frozen = methods.frozen(run.config)
    return frozen | (measure_latents(run) if methods.uses_latents(run.config) else {})


def measure_latents(run: Run) -> dict[str, Any]:
    """The frozen part of a latent method: autoencoder weights and the scaling factor.

    A factor of 0 in the config is measured: 1 / the posterior's spread over brain cells of
    the training slices, so that the noise schedule meets latents of unit variance.
    """
    network, params = trained_weights.autoencoder(run.config, run.trained, run.mesh)
    factor = run.config.autoencoder.scaling_factor
    if factor <= 0:
        if run.complete("latents", AUTOENCODER_KEYS):
            factor = run.facts("latents")["scaling_factor"]
        else:
            factor = _measure(run, network, params)
            run.mark("latents", AUTOENCODER_KEYS, scaling_factor=factor)
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
        part = batches.global_batch(run.mesh, {k: batch[k] for k in ("image", "brain_mask")})
        sums = moments(params, part["image"], part["brain_mask"])
        total += np.array([float(v) for v in sums])
    count, mean, power = total
    if not count:
        raise errors.UserError("data.train: no brain in any slice; look at the brain masks")
    return float(1.0 / np.sqrt(max(power / count - (mean / count) ** 2, 1e-12)))


def cache_latents(run: Run) -> None:
    """Every training and validation slice encoded once, where `data.latents` asks for it."""
    if run.config.data.latents == "cached" and not run.complete("denoiser", run.denoiser_keys):
        run.latents = latent_cache.prepare(
            run, *trained_weights.autoencoder(run.config, run.trained, run.mesh)
        )


def train_denoiser(run: Run) -> None:
    """The method itself, on images or on the frozen autoencoder's latents."""
    if run.complete("denoiser", run.denoiser_keys):
        _LOG.info("denoiser: complete")
        return
    frozen = frozen_part(run)
    method = parts.detector(run.config)
    first = _initial_weights(run, method) if run.config.denoiser.init else None
    if run.latents:
        frozen.pop("autoencoder")  # the devices keep its memory for the denoiser
    steps = run.train_stage(
        "denoiser",
        method,
        run.config.train,
        run.config.optim,
        frozen,
        first,
        spec=parts.detector_spec(run.config, run.config.train.batch_size),
        cached=run.latents,
    )
    run.mark("denoiser", run.denoiser_keys, steps=steps)


def _initial_weights(run: Run, method: Any) -> Params:
    """The averaged denoiser of the run that `denoiser.init` names."""
    folder = trained_weights.checkpoints_of(run.config, "denoiser", "init")
    return trained_weights.denoiser(run.config, folder, run.mesh, method)


def evaluate_run(run: Run) -> list[dict[str, Any]]:
    """Scores every set of `eval.sets`; returns and stores the rows."""
    run.complete("denoiser", run.denoiser_keys)
    trained = run.facts("denoiser")
    sets = {name: (run.source(name), run.healthy_source(name)) for name in run.config.eval.sets}
    frozen = frozen_part(run)
    method = parts.detector(run.config)
    params = trained_weights.denoiser(
        run.config,
        run.trained / "denoiser" / "checkpoints",
        run.mesh,
        method,
        run.config.eval.checkpoint,
    )
    c = run.config
    scorer = scorer_lib.Scorer(method, params, frozen, run.mesh, c.seed)
    options = runner.Options(
        image_size=c.data.image_size,
        sigma=networks.smoothing_sigma(c),
        false_positive_rate=c.eval.false_positive_rate,
        band=c.eval.mean_image_band,
        bootstrap=c.eval.bootstrap,
        panels=c.eval.panels,
        seed=c.seed,
        volumes=_volumes(c),
        smooth_slices=_smooth_slices(c),
    )
    evaluation = runner.Evaluation(scorer, options, run.batches_of)
    evaluation.fit_baselines(run.source("train"))
    maps, brain = evaluation.choose_thresholds(run.source("val"))
    _calibrate(run, maps, brain, params)
    rows = []
    for name, (test, healthy) in sets.items():
        extra = {"preset": preset_changes.label(c), "name": c.name, "step": trained["steps"]}
        extra |= {"modality": c.data.modality, "synthetic": c.data.source == "cohort"}
        extra |= {"run_seed": c.seed, "version": version.VERSION}
        rows += evaluation.score_set(name, test, healthy, run.workdir / "eval" / name, extra)
    if run.primary:
        for row in rows:
            report.append_result(run.workdir / "results.jsonl", row)
    return rows


def _volumes(c: Any) -> runner.Volumes | None:
    """How whole scans are judged, when they are.

    Raises UserError when nobody says how far apart slices and pixels are.
    """
    if c.eval.protocol == "slices":
        return None
    spacing = tuple(float(v) for v in c.eval.spacing_mm)
    if not all(spacing):
        preparation = parts.preparation(c)
        if preparation is None:
            raise errors.UserError(
                f"eval.spacing_mm: found {spacing}, and the slices do not say how they were made; "
                "with eval.protocol=both give mm between slices, rows and columns"
            )
        geometry = preparation.geometry
        step = preparation.numbers[2] if preparation.numbers else 1
        known = (step * geometry.level_step, geometry.pixel, geometry.pixel)
        spacing = tuple(s or k for s, k in zip(spacing, known, strict=True))
    return runner.Volumes(spacing, scan_stacks.PRESETS[c.eval.postprocess])


def _smooth_slices(c: Any) -> float:
    """`ensemble.smooth_slices` in steps of the slice number."""
    preparation = parts.preparation(c)
    return c.ensemble.smooth_slices / (preparation.geometry.level_step if preparation else 1.0)


def _calibrate(run: Run, maps: dict[str, Any], brain: Any, params: Params) -> None:
    """Keeps what healthy validation scans score, for operating points on new scans."""
    if run.config.ensemble.smooth_slices > 0:
        _LOG.info("no calibration for whole scans: prediction does not smooth over slices")
        return
    preparation = parts.preparation(run.config)
    if preparation is None:
        _LOG.info("no calibration for whole scans: the slices do not say where they lie")
        return
    facts = {
        "config": json.loads(run.config.to_json()),
        "weights": json_digest.json_digest(digests.tree_digests(params)),
        "preparation": preparation.to_dict(),
        "source": "healthy validation subjects of the run",
        "version": version.VERSION,
    }
    records = run.source("val").records
    if run.primary:
        found = calibrate.from_slices(maps, brain, records, preparation.geometry, facts)
        calibrate.save(run.workdir, found)


def _keep_preparation(run: Run) -> None:
    """Says in the run how its slices were made; its data may be elsewhere when scans come."""
    preparation = parts.preparation(run.config)
    path = run.workdir / provenance.FILE
    if run.primary and preparation is not None and not path.exists():
        numbers: dict[str, list[int]] = {}
        for record in run.source("train").records:
            numbers.setdefault(record.subject, []).append(record.slice)
        found = calibrate.stack_numbers(list(numbers.values()))
        preparation = dataclasses.replace(preparation, numbers=found)
        text = json.dumps(preparation.to_dict(), indent=1) + "\n"
        atomic_files.write_text(path, text)


def _method_summary(c: Any) -> dict[str, Any]:
    """What of the config says how maps were made."""
    if c.method in c.methods:
        own = c.methods[c.method].to_dict()
        inference = own.pop("inference", {})
        return {"method": c.method, "its settings": own, "its inference": inference}
    return {
        "DDIM steps, eta": f"{c.sampler.steps}, {c.sampler.eta}",
        "score": f"{c.score.difference} against {c.score.reference}, gamma {c.score.gamma}",
    }


def write_report(run: Run) -> None:
    """`report.md` from what the run has left behind, and the curves."""
    if not run.primary:
        return
    rows = report.read_results(run.workdir / "results.jsonl")
    if not rows:
        raise errors.UserError(f"{run.workdir} has no results.jsonl; run --mode=evaluate first")
    from madad_jax.evaluation import pictures as pictures_lib  # as in `panels`

    curves = run.workdir / "curves.png"
    drawn = pictures_lib.training_curves(curves, run.trained / "metrics.jsonl")
    pictures = sorted((run.workdir / "eval").glob("*/panels/*.png"))
    names = ("dice_over_thresholds.png", "froc.png")
    of_sets = [p for name in names for p in sorted((run.workdir / "eval").glob(f"*/{name}"))]
    c = run.config
    report.write_report(
        run.workdir / "report.md",
        title=f"{_TITLES.get(c.method, c.method)}: {c.name}",
        rows=rows,
        panels=pictures,
        curves=[*([curves] if drawn else []), *of_sets],
        config_summary={
            "preset": preset_changes.label(c),
            "changed (the preset says)": "; ".join(preset_changes.changes(c)) or "nothing",
            "seed": c.seed,
            "modality": c.data.modality,
            "image size": c.data.image_size,
            "denoiser": f"{c.denoiser.name} {c.denoiser.size}",
            "denoiser steps": run.facts_here("denoiser")["steps"],
            **_method_summary(c),
            "machine": startup.device_line(),
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
        print(tables.markdown(report.put_baselines_first(part), tables.MAIN))
    print(f"report: {folder / 'report.md'}")


STAGES: dict[str, tuple[Callable[[Run], Any], ...]] = {
    "run": (train_autoencoder, cache_latents, train_denoiser, evaluate_run, write_report),
    "train_autoencoder": (train_autoencoder,),
    "train": (train_autoencoder, cache_latents, train_denoiser),
    "evaluate": (evaluate_run, write_report),
    "report": (write_report,),
}


def execute(
    config: Any,
    workdir: str,
    mode: str,
    stop: stop_lib.GracefulStop,
    devices: Sequence[jax.Device] | None = None,
) -> Run:
    """Runs the stages of `mode` in `workdir`, on all devices or the given ones.

    Raises UserError for what the user can mend.
    """
    known = mode == "report" or preflight.passed(config, workdir)
    if not known:
        preflight.check(config)
    run = Run(config, workdir, stop, devices)
    if not known and run.primary:
        preflight.remember(config, workdir)
    if mode != "report":
        preflight.check_inputs(run, mode)
        _keep_preparation(run)
    for stage in STAGES[mode]:
        stage(run)
    return run

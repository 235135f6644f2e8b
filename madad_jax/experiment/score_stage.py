"""Scoring the test sets of a run, and the calibration that comes with it."""

import dataclasses
import json
import logging
from typing import Any

import jax
import numpy as np

from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import digests
from madad_jax.core import atomic_files, version
from madad_jax.data import provenance
from madad_jax.data.sources import record as record_lib
from madad_jax.evaluation import calibrate, report, runner
from madad_jax.evaluation import scorer as scorer_lib
from madad_jax.experiment import contrast_views, frozen_weights, healthy_only, trained_weights
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import workdir as workdir_lib

_LOG = logging.getLogger(__name__)


def score_sets(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    frozen: frozen_weights.FrozenWeights,
    steps: int,
) -> list[dict[str, Any]]:
    """Scores every set of `eval.sets` with weights trained for `steps`; returns and stores rows.

    A cohort of healthy people alone has none, and is calibrated all the same.

    Raises UserError when a set is missing, or there is no checkpoint.
    """
    plan = parts.evaluation
    # Opened first: a set that is missing is found before anything is scored.
    names = healthy_only.sets_to_score(parts)
    for name in names:
        inputs.source(name)
        inputs.healthy_source(name)
    params = trained_weights.restore_denoiser(
        parts, workdir.checkpoints("denoiser"), inputs.mesh, plan.checkpoint
    )
    scorer = scorer_lib.Scorer(parts.method, params, frozen.values, inputs.mesh, parts.seed)
    weights = digests.weights_digest(params)
    made_with = {"weights": weights, "frozen": frozen.digests()}
    facts = {
        "preset": parts.preset,
        "name": parts.name,
        "step": steps,
        "modality": parts.data.modality,
        "synthetic": parts.data.synthetic,
        "run_seed": parts.seed,
        "weights": weights[:16],
        "parameters": frozen.count() + sum(np.size(leaf) for leaf in jax.tree.leaves(params)),
        "version": version.VERSION,
    }
    rows = []
    for view in contrast_views.views(parts, inputs):
        rows += _score_view(parts, workdir, view, names, (scorer, made_with, facts))
    if workdir.primary and rows:
        report.append_results(workdir.folder / "results.jsonl", rows)
    return rows


def _score_view(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    view: contrast_views.View,
    names: tuple[str, ...],
    scored_with: tuple[scorer_lib.Scorer, dict[str, Any], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Rows of the sets `names` with the contrasts of a view, and its calibration.

    `scored_with`: the detector, digests of what made the maps, facts for every row.
    """
    scorer, made_with, facts = scored_with
    preparation = parts.data.preparation()
    options = dataclasses.replace(parts.evaluation.options(preparation), channel=view.channel)
    evaluation = runner.Evaluation(scorer, options, view.inputs.eval_batches)
    # Thresholds come from healthy validation slices, before any test slice is scored.
    if names:
        evaluation.fit_baselines(view.source("train"))
        maps, brain = evaluation.choose_thresholds(view.source("val"))
    else:
        maps, brain = evaluation.score_healthy(view.source("val"))
    val = view.source("val")
    found = measure_healthy(parts, val, preparation, maps, brain, made_with | view.facts)
    # Every process has all maps by now; one writes.
    if workdir.primary and found is not None:
        calibrate.save(workdir.folder, found, view.calibration)
    rows = []
    for name in names:
        shown, healthy = view.name(name), view.healthy_source(name)
        folder = workdir.folder / "eval" / shown
        rows += evaluation.score_set(shown, view.source(name), healthy, folder, facts | view.facts)
    return rows


def calibrate_weights(
    parts: parts_lib.Parts,
    inputs: inputs_lib.Inputs,
    scorer: scorer_lib.Scorer,
    preparation: provenance.SourcePreparation | None,
    made_with: dict[str, Any],
) -> calibrate.Calibration | None:
    """A calibration of weights other than a run's own, as those of a file that rounds them.

    Args:
      parts, inputs: of the run, whose healthy validation slices are scored.
      scorer: with the weights.
      preparation, made_with: as `measure_healthy` takes them.

    Raises UserError where the slices are not there.
    """
    options = parts.evaluation.options(preparation)
    evaluation = runner.Evaluation(scorer, options, inputs.eval_batches)
    maps, brain = evaluation.score_healthy(inputs.source("val"))
    val = inputs.source("val")
    return measure_healthy(parts, val, preparation, maps, brain, made_with)


def measure_healthy(
    parts: parts_lib.Parts,
    val: record_lib.Source,
    preparation: provenance.SourcePreparation | None,
    maps: dict[str, np.ndarray],
    brain: np.ndarray,
    made_with: dict[str, Any],
) -> calibrate.Calibration | None:
    """What healthy validation scans score, for operating points on new scans; None where a scan
    could not be scored alike.

    Args:
      parts: of the run.
      val: its healthy validation slices.
      preparation: how its slices were made.
      maps: of the healthy validation slices, by signal [n, H, W].
      brain: their brain masks [n, H, W].
      made_with: `weights` and `frozen`, digests of what made the maps; of several contrasts those
        that were there.
    """
    if parts.evaluation.smooth_slices_mm > 0:
        _LOG.info("no calibration for whole scans: prediction does not smooth over slices")
        return None
    if preparation is None:
        _LOG.info("no calibration for whole scans: the slices do not say where they lie")
        return None
    facts = {
        "config": parts.record,
        **made_with,
        "preparation": preparation.to_dict(),
        "source": "healthy validation subjects of the run",
        "version": version.VERSION,
    }
    return calibrate.from_slices(maps, brain, val.records, preparation.geometry, facts, slices=val)


def keep_preparation(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, inputs: inputs_lib.Inputs
) -> None:
    """Says in the run how its slices were made; its data may be elsewhere when scans come."""
    preparation, path = parts.data.preparation(), workdir.folder / provenance.FILE
    if workdir.primary and preparation is not None and not path.exists():
        numbers: dict[str, list[int]] = {}
        for record in inputs.source("train").records:
            numbers.setdefault(record.subject, []).append(record.slice)
        found = calibrate.stack_numbers(list(numbers.values()))
        preparation = dataclasses.replace(preparation, numbers=found)
        atomic_files.write_text(path, json.dumps(preparation.to_dict(), indent=1) + "\n")

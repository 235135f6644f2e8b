"""A score beyond the paper's: every candidate on development data, the chosen one on test data.

    python benchmarks/score.py --run=runs/demo --set=val_lesion --subjects=30
    python benchmarks/score.py --run=runs/demo --set=test --only="flips, geometric"

Each candidate changes the score of one trained run and nothing else. A line tells AP and pooled max
Dice (oracle) and the paired difference to the run's own score with its 95 % bootstrap interval
over subjects. Choose on `val_lesion` (which no report shows), then look at `test` once.
"""

import argparse
import copy
import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from configs import default
from madad_jax.assembly import config_record
from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import saver
from madad_jax.devices import mesh as mesh_lib
from madad_jax.evaluation import across_slices
from madad_jax.evaluation import scorer as scorer_lib
from madad_jax.experiment import frozen_weights, inputs, trained_weights, workdir
from madad_jax.methods.wrappers import ensemble
from madad_jax.metrics import bootstrap, evaluator
from madad_jax.runtime import startup


@dataclasses.dataclass(frozen=True)
class Candidate:
    """`looks`: what the device computes; `signal` scored, or how signals are combined; `smooth`
    sigma in mm over neighbouring slices."""

    name: str
    looks: str = "one"
    signal: str = "map"
    smooth: float = 0.0


LOOKS = {
    "one": {},
    "flips": {"ensemble.flips": True},
    "draws": {"ensemble.draws": 4, "methods.madad.inference.sampler.eta": 0.5},
    "spread": {"ensemble.flips": True, "ensemble.combine": "mahalanobis"},
}
OWN = "the run's own score"
CANDIDATES = (
    Candidate(OWN),
    Candidate("latent difference", signal="latent_map"),
    Candidate("mask head", signal="mask_map"),
    Candidate("mean of signals", signal="mean"),
    Candidate("geometric mean of signals", signal="geometric"),
    Candidate("largest of signals", signal="max"),
    Candidate("flips", looks="flips"),
    Candidate("4 draws at eta 0.5", looks="draws"),
    Candidate("mahalanobis over flips", looks="spread", signal="combined_map"),
    Candidate("smooth 2 mm", smooth=2.0),
    Candidate("smooth 4 mm", smooth=4.0),
    Candidate("smooth 8 mm", smooth=8.0),
    Candidate("flips, geometric", looks="flips", signal="geometric"),
    Candidate("flips, smooth 4 mm", looks="flips", smooth=4.0),
    Candidate("flips, geometric, smooth 4 mm", "flips", "geometric", 4.0),
    Candidate("flips, geometric, smooth 8 mm", "flips", "geometric", 8.0),
)


class Score:
    """The run's weights, and maps of a set under any looks."""

    def __init__(self, config: Any, folder: str, split: str, subjects: int):
        self._config = copy.deepcopy(config)
        if subjects:  # how many are drawn touches no other split
            self._config.data.cohort[split] = subjects
        parts = parts_lib.assemble(self._config)
        self._workdir = workdir.Workdir(folder)
        self._mesh = mesh_lib.make_mesh(**parts.mesh)
        self._inputs = inputs.Inputs(parts.data, self._mesh, parts.evaluation.batch_size)
        self._source = self._inputs.source(split)
        weights = frozen_weights.FrozenWeights.restore(parts, self._workdir, self._mesh)
        self._frozen = weights.values
        self._kept: dict[str, list] = {}
        preparation = parts.data.preparation()
        self._step = preparation.geometry.level_step if preparation else 1.0

    def pairs(self, looks: str) -> list:
        """(batch, maps) of the whole set; kept, as several candidates share them."""
        if looks not in self._kept:
            config = copy.deepcopy(self._config)
            config.update_from_flattened_dict(LOOKS[looks])
            parts = parts_lib.assemble(config)
            folder = self._workdir.checkpoints("denoiser")
            params = trained_weights.restore_denoiser(parts, folder, self._mesh)
            scorer = scorer_lib.Scorer(parts.method, params, self._frozen, self._mesh, parts.seed)
            batches = self._inputs.eval_batches(self._source)
            self._kept[looks] = list(scorer_lib.score_batches(scorer, batches, looks))
        return [(batch, dict(out)) for batch, out in self._kept[looks]]

    def evaluate(self, candidate: Candidate) -> tuple[dict, dict]:
        """(result row, sums by subject)."""
        pairs = self.pairs(candidate.looks)
        for _, out in pairs:
            if candidate.signal in ensemble.COMBINE:
                signals = [out[n] for n in ("map", "latent_map", "mask_map") if n in out]
                out["map"] = np.array(
                    ensemble.combine_maps(jnp.stack(signals), candidate.signal), np.float32
                )
            else:
                out["map"] = out[candidate.signal]
        if candidate.smooth:
            sigma = candidate.smooth / self._step
            pairs = across_slices.smooth(pairs, self._source.records, sigma)
        ev = evaluator.Evaluator(draws=1000)
        for batch, out in pairs:
            ev.add(
                np.clip(out["map"], 0.0, 1.0),
                *(batch[k] for k in ("segmentation", "brain_mask", "has_segmentation")),
                [self._source.records[i] for i in batch["index"]],
            )
        return ev.result(method=candidate.name), ev.subjects.sums


def main() -> None:
    """Prints the table of one set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--set", default="val_lesion")
    parser.add_argument("--only", default="", help="one candidate beside the run's own score")
    parser.add_argument("--subjects", type=int, default=0, help="of the cohort's set; 0: the run's")
    parser.add_argument("--draws", type=int, default=1000)
    flags = parser.parse_args()
    stored = saver.read_config(epath.Path(flags.run) / "denoiser" / "checkpoints")
    config = default.get_config()
    config.update(config_record.rename(stored))
    startup.start(distributed=False)
    score = Score(config, flags.run, flags.set, flags.subjects)
    wanted = [c for c in CANDIDATES if not flags.only or c.name in (OWN, flags.only)]
    print("| Score | AP | Difference | Pooled max Dice† | Difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    own, found = {}, []
    for candidate in wanted:
        row, sums = score.evaluate(candidate)
        own = own or {"sums": sums, **row}
        paired = bootstrap.paired_difference(sums, own["sums"], draws=flags.draws)
        cells = [candidate.name]
        for key in ("ap", "pooled_max_dice"):
            gain = f"{100 * (row[key] - own[key]):+.1f}"
            low, high = paired.get(key, (0.0, 0.0))
            cells += [f"{100 * row[key]:.1f}", f"{gain} [{100 * low:+.1f}, {100 * high:+.1f}]"]
        print("| " + " | ".join(cells) + " |", flush=True)
        found.append({"name": candidate.name, "ap": row["ap"]})
    best = max(found, key=lambda f: f["ap"])
    print(f"\n{own['n_subjects']} subjects, {own['n_slices']} slices. Best by AP: {best['name']}")
    print(json.dumps({"set": flags.set, "run": flags.run, "seed": config.seed}))


if __name__ == "__main__":
    main()

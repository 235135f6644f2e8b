"""What each person adds to a set, kept after the set is scored: the unit of every interval.

Two methods scored on the same subjects are compared over the same draws of them, also when they
were scored by different runs: the sums are stored beside the results as one `.npz` of plain
arrays, and reading it runs nothing.

Past `MAX_UNITS` subjects memory must not grow: people are then gathered, by a digest of their
name, into so many bundles, and a bundle is what the bootstrap draws.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from madad_jax.core import errors
from madad_jax.metrics import archives, bootstrap, threshold_counts

# Subjects: 2,048 of 66 KiB are 130 MiB a row of the report.
MAX_UNITS = 2048
FORMAT = 1

Sums = dict[str, bootstrap.SubjectSums]


class Subjects:
    """Sums by subject, or by bundle of subjects once there are too many."""

    def __init__(self, max_units: int = MAX_UNITS):
        self._max_units = max_units
        self.bundled = False
        self.sums: Sums = {}

    def add(self, subject: str, scores: np.ndarray, dice: np.ndarray) -> None:
        """Adds a slice of a person: histograms [2, N_BINS] and its Dice curve [k]."""
        name = self._unit(subject)
        if name not in self.sums and len(self.sums) >= self._max_units:
            # Once and for all: people who came before are bundled by the same digest.
            self._gather()
            name = self._unit(subject)
        sums = self.sums.setdefault(name, bootstrap.empty_sums(len(dice)))
        bootstrap.add_slice(sums, scores, dice)

    def _unit(self, subject: str) -> str:
        if not self.bundled:
            return subject
        # crc32 and not hash(), which Python seeds anew in every process.
        return f"bundle {zlib.crc32(subject.encode()) % self._max_units:04d}"

    def _gather(self) -> None:
        old, self.sums, self.bundled = self.sums, {}, True
        for subject, sums in old.items():
            mine = self.sums.setdefault(self._unit(subject), bootstrap.empty_sums(len(sums.dice)))
            mine.scores += sums.scores
            mine.dice += sums.dice
            mine.slices += sums.slices


def rows(sums: Sums) -> list[dict[str, Any]]:
    """Figures of each subject by itself, for a table: its AP and both maximum Dice (its own best
    threshold, which saw the truth)."""
    out = []
    for name in sorted(sums):
        one = sums[name]
        figures = bootstrap.draw_figures([one], np.ones((1, 1)))
        found = {k: float(v[0]) for k, v in figures.items()}
        lesion = int(one.scores[0].sum())
        if not lesion:
            found["ap"] = found["pooled_max_dice"] = None
        out.append({"subject": name, "n_slices": one.slices, "lesion_pixels": lesion, **found})
    return out


def add_differences(
    entries: Sequence[tuple[dict[str, Any], Sums]], *, draws: int = 200, seed: int = 0
) -> None:
    """Adds to each learned row its paired difference to the best baseline by AP, in place.

    `row["difference"] = {"to": name, "ap": [low, high], ...}`: 95 % intervals of the row's figure
    minus the other's, over the same draws of subjects. Nothing is added where either is missing.
    """
    baselines = [e for e in entries if not e[0]["learns"] and e[0]["ap"] is not None]
    if not baselines:
        return
    best, theirs = max(baselines, key=lambda e: e[0]["ap"])
    for row, mine in entries:
        if row["learns"] and row["ap"] is not None:
            found = bootstrap.paired_difference(mine, theirs, draws=draws, seed=seed)
            row["difference"] = {"to": best["method"], **found}


def to_bytes(methods: Mapping[str, Sums], facts: Mapping[str, Any]) -> bytes:
    """The content of a file with the sums of several methods on one set."""
    arrays, entries = {}, []
    for i, (method, sums) in enumerate(methods.items()):
        # The order in the file must not depend on which batch came first.
        names = sorted(sums)
        entries.append({"method": method, "subjects": names})
        shapes = {
            "scores": (2, bootstrap.N_BINS),
            "dice": (threshold_counts.N_THRESHOLDS,),
            "slices": (),
        }
        for field, shape in shapes.items():
            parts = [getattr(sums[name], field) for name in names]
            arrays[f"{field}_{i}"] = np.array(parts).reshape(len(names), *shape)
    meta = {"format": FORMAT, "entries": entries, "facts": dict(facts)}
    return archives.to_bytes(meta, arrays)


def from_bytes(content: bytes, name: str) -> tuple[dict[str, Sums], dict[str, Any]]:
    """The inverse of `to_bytes`; `name` is the file's, for messages.

    Raises:
      UserError: damaged, or of another format.
    """
    with archives.open_bytes(content, name, "readable per-subject sums") as (meta, arrays):
        if meta["format"] != FORMAT:
            raise errors.UserError(
                f"{name}: per-subject sums of format {meta['format']}, this version reads {FORMAT}"
            )
        out = {}
        for i, entry in enumerate(meta["entries"]):
            scores, dice, slices = (arrays[f"{f}_{i}"] for f in ("scores", "dice", "slices"))
            names = entry["subjects"]
            if (
                scores.shape != (len(names), 2, bootstrap.N_BINS)
                or dice.shape != (len(names), threshold_counts.N_THRESHOLDS)
                or slices.shape != (len(names),)
            ):
                raise ValueError("entries of different lengths")
            for values in (scores, dice, slices):
                if values.dtype.kind not in "iuf" or not (values >= 0).all():
                    raise ValueError("found numbers below 0, or NaN")
            # An infinite sum is above 0 too.
            if not np.isfinite(dice).all():
                raise ValueError("found an infinite sum of Dice")
            out[entry["method"]] = {
                n: bootstrap.SubjectSums(scores[k], dice[k], int(slices[k]))
                for k, n in enumerate(names)
            }
        return out, meta["facts"]

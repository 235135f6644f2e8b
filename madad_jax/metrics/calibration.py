"""Operating points without labels: what healthy scans score, kept beside the weights.

For each signal and post-processing the calibration holds, per healthy scan: a histogram of the
map's scored voxels, the scan's score, and the number of candidates at every threshold
(`stacks.count_curve`). From these a threshold follows from the rate of false positives that a
user can bear, with an interval over the scans, as a person is the unit of chance.

Beside them stands what the scans look like (`scan_look`), so that a scan of another contrast is
told. Files of before have no looks, and nothing is said.

Stored as one `.npz` of plain arrays and one JSON text; reading it runs nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from madad_jax.core import errors
from madad_jax.metrics import (
    archives,
    bootstrap,
    calibration_checks,
    intervals,
    scan_look,
    scan_stacks,
)
from madad_jax.metrics import histogram as histogram_lib

FORMAT = 1
# The same bins as the evaluator's, so that shares here and rates there agree.
N_BINS = bootstrap.N_BINS
_EDGES = np.array([histogram_lib.lower_edge(i, N_BINS) for i in range(N_BINS)])


@dataclasses.dataclass(frozen=True)
class Scan:
    """One healthy scan: `histogram` int [N_BINS] of its voxels, and `stacks.count_curve`."""

    subject: str
    score: float
    histogram: np.ndarray
    levels: np.ndarray
    counts: np.ndarray

    def share_above(self, threshold: float) -> float:
        """Share of its voxels in bins from the threshold's own on, within a bin of the truth."""
        if threshold >= 1.0:
            return 0.0
        first = max(1, int(np.searchsorted(_EDGES, threshold)))  # bin 0 is exactly 0
        return float(self.histogram[first:].sum() / max(1, self.histogram.sum()))


def measure(
    subject: str,
    maps: np.ndarray,
    brain: np.ndarray,
    spacing: scan_stacks.Spacing,
    options: scan_stacks.Options,
) -> Scan:
    """A healthy scan's entry; maps float32 and brain bool [z, h, w]."""
    maps, inside = scan_stacks.process_stack(maps, brain, spacing, options)
    return measure_processed(subject, maps, inside, spacing, options)


def measure_processed(
    subject: str,
    maps: np.ndarray,
    inside: np.ndarray,
    spacing: scan_stacks.Spacing,
    options: scan_stacks.Options,
) -> Scan:
    """`measure` of what `scan_stacks.process_stack` gave for these options."""
    bins = histogram_lib.bin_of(maps[inside], N_BINS)
    levels, counts = scan_stacks.count_curve(maps, spacing, options)
    return Scan(
        subject=subject,
        score=scan_stacks.score(maps, inside),
        histogram=np.bincount(bins, minlength=N_BINS).astype(np.int64),
        levels=levels,
        counts=counts,
    )


@dataclasses.dataclass(frozen=True)
class Point:
    """A threshold and how it was chosen: `chosen_by` voxel_fpr, false_positives_per_scan or
    threshold, and the value asked for."""

    threshold: float
    chosen_by: str
    asked: float


@dataclasses.dataclass(frozen=True)
class Healthy:
    """The healthy scans under one signal and one post-processing."""

    scans: tuple[Scan, ...]

    def by_voxel_fpr(self, rate: float) -> Point:
        """The lowest threshold that a share of at most `rate` of healthy voxels lies above.

        Raises:
          UserError: a rate outside (0, 1), or no voxel that was scored.
        """
        if not 0.0 < rate < 1.0:
            raise errors.UserError(f"voxel_fpr: found {rate}, accepted: between 0 and 1")
        if not any(s.histogram.any() for s in self.scans):
            raise errors.UserError(
                "voxel_fpr: found no scored voxel in the healthy scans; calibrate with scans whose "
                "brain masks are larger than erode_mm"
            )
        # Scans count alike whatever their size: the rate is that of a scan to come.
        shares = np.mean([s.histogram / max(1, s.histogram.sum()) for s in self.scans], axis=0)
        # The tolerance is for the sum of thousands of shares, which may pass `rate` by rounding.
        above = shares[::-1].cumsum()[::-1]  # share in bins >= i
        fits = np.flatnonzero(above <= rate + 1e-12)
        first = int(fits[0]) if len(fits) else N_BINS
        threshold = 1.0
        if first < N_BINS:
            # The last bin is exactly 1: what lies above a threshold just below.
            threshold = float(min(_EDGES[first], np.nextafter(np.float32(1.0), np.float32(0.0))))
        return Point(threshold, "voxel_fpr", rate)

    def by_false_positives(self, rate: float) -> Point:
        """The lowest threshold from which on healthy scans have at most `rate` candidates each.

        Raises:
          UserError: a rate that so few scans cannot tell from none, or past their curves.
        """
        least = 1.0 / len(self.scans)
        if not rate >= least:
            raise errors.UserError(
                f"false_positives_per_scan: found {rate}, accepted: {least:.3g} or more; "
                f"{len(self.scans)} healthy scans cannot tell less from none, calibrate with more"
            )
        at, means = self._mean_counts()
        if not len(means) or means.max() <= rate:
            raise errors.UserError(
                f"false_positives_per_scan: found {rate}, but healthy scans never have so many; "
                f"accepted: below {means.max() if len(means) else 0:.3g}"
            )
        crossed = int(np.flatnonzero(means > rate)[0])
        # Constant between levels: just at the level above the first that has too many.
        threshold = float(at[crossed - 1]) if crossed else 1.0
        return Point(threshold, "false_positives_per_scan", rate)

    def by_most_false_positives(self) -> Point:
        """The threshold at which healthy scans have the most candidates; below, they merge.

        The lowest threshold of use for whoever bears more false positives than scans ever have.
        `asked` is their number. Where no scan has a candidate at all the threshold is 0.
        """
        at, means = self._mean_counts()
        if not len(means):
            return Point(0.0, "false_positives_per_scan", 0.0)
        most = int(np.flatnonzero(means == means.max())[-1])
        return Point(float(at[most]), "false_positives_per_scan", float(means[most]))

    def _mean_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(thresholds, falling; candidates a scan at each) wherever every curve knows them."""
        # Counts change at levels only. At a threshold equal to a level it is not counted yet.
        at = np.unique(np.concatenate([s.levels for s in self.scans]))[::-1]
        at = at[at >= np.float32(self._reach())]
        means = np.mean([scan_stacks.counts_at(s.levels, s.counts, at) for s in self.scans], axis=0)
        return at, means

    def _reach(self) -> float:
        """The lowest threshold that every scan's curve knows the number at."""
        return max(float(s.levels[-1]) if len(s.levels) else 0.0 for s in self.scans)

    def count_candidates(self, threshold: float) -> np.ndarray:
        """Candidates of each healthy scan above a threshold, int64 [scans]."""
        return np.array([scan_stacks.count_at(s.levels, s.counts, threshold) for s in self.scans])

    def false_positives(self, threshold: float) -> float:
        """Candidates per healthy scan above a threshold."""
        return float(self.count_candidates(threshold).mean())

    def expected(self, threshold: float) -> dict[str, Any]:
        """What a threshold does on healthy scans: two rates with 95 % intervals over scans.

        An interval is None where one scan alone is known. `next_scan` says how many candidates a
        healthy scan to come has at most, at a chance of `intervals.NEXT_CHANCE`; None where there
        are too few scans for it.
        """
        counts = self.count_candidates(threshold).astype(np.float64)
        shares = np.array([s.share_above(threshold) for s in self.scans])
        out: dict[str, Any] = {"healthy_scans": len(self.scans)}
        out["voxel_fpr"] = float(shares.mean())
        # A share cannot pass 1, which caps an interval from few scans.
        out["voxel_fpr_interval"] = intervals.mean_interval(shares, at_most=1.0)
        out["false_positives_per_scan"] = out["false_positives_per_scan_interval"] = None
        out["next_scan"] = None
        # Below the curves' reach the number is not known, and is not guessed.
        if threshold >= self._reach():
            out["false_positives_per_scan"] = float(counts.mean())
            out["false_positives_per_scan_interval"] = intervals.mean_interval(counts)
            most = intervals.bound_next_value(counts)
            if most is not None:
                chance = intervals.NEXT_CHANCE
                out["next_scan"] = {"false_positives_at_most": int(most), "chance": chance}
        return out

    def percentile(self, score: float) -> float:
        """Where a score stands among the healthy scans', 0 to 100; ties count half."""
        below = np.mean([s.score < score for s in self.scans])
        return 100.0 * float(below + 0.5 * np.mean([s.score == score for s in self.scans]))


Key = tuple[str, str]  # signal, name of the post-processing


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Every signal and post-processing that was calibrated.

    Attributes:
      healthy: the scans by (signal, post-processing).
      options: post-processing by name.
      facts: JSON-able; what the maps were made with: `config`, `step`, `spacing` (mm),
        `numbers` (slice numbers of the stack), `source` (which healthy scans).
      looks: what the scans look like on these slices; None: not measured.
    """

    healthy: dict[Key, Healthy]
    options: dict[str, scan_stacks.Options]
    facts: dict[str, Any]
    looks: scan_look.HealthyLooks | None = None

    def select(self, signal: str, postprocess: str) -> Healthy:
        """The scans of one choice.

        Raises:
          UserError: it was not calibrated; says what was, and how to.
        """
        found = self.healthy.get((signal, postprocess))
        if found is None:
            have = ", ".join(sorted(f"{s} with {p}" for s, p in self.healthy))
            raise errors.UserError(
                f"signal '{signal}' with post-processing '{postprocess}' has no calibration; "
                f"found: {have}"
            )
        return found


def to_bytes(calibration: Calibration) -> bytes:
    """The file's content."""
    arrays, entries = {}, []
    for i, ((signal, name), healthy) in enumerate(calibration.healthy.items()):
        scans = healthy.scans
        entries.append(
            {"signal": signal, "postprocess": name, "subjects": [s.subject for s in scans]}
        )
        # Numbered and not named: signals and post-processings are free text, array names are file
        # names inside the archive.
        arrays[f"scores_{i}"] = np.array([s.score for s in scans], np.float64)
        arrays[f"histograms_{i}"] = np.stack([s.histogram for s in scans]).astype(np.int64)
        arrays[f"ends_{i}"] = np.cumsum([len(s.levels) for s in scans]).astype(np.int64)
        arrays[f"levels_{i}"] = np.concatenate([s.levels for s in scans]).astype(np.float32)
        arrays[f"counts_{i}"] = np.concatenate([s.counts for s in scans]).astype(np.int64)
    if (looks := calibration.looks) is not None:
        arrays["look_deciles"], arrays["look_likeness"] = looks.deciles, looks.likeness
        # Of a mean of brightness three digits are enough.
        arrays["look_mean"] = looks.mean.astype(np.float16)
    meta = {
        "format": FORMAT,
        "entries": entries,
        "options": {k: dataclasses.asdict(v) for k, v in calibration.options.items()},
        "facts": calibration.facts,
    }
    return archives.to_bytes(meta, arrays)


def from_bytes(content: bytes, name: str) -> Calibration:
    """The inverse of `to_bytes`; `name` is the file's, for messages.

    Raises:
      UserError: damaged, of another format, or with numbers that no measurement gives.
    """
    with archives.open_bytes(content, name, "a readable calibration") as (meta, arrays):
        if meta["format"] != FORMAT:
            raise errors.UserError(
                f"{name}: calibration format {meta['format']}, this version reads {FORMAT}"
            )
        options = {k: scan_stacks.Options(**v) for k, v in meta["options"].items()}
        healthy = {}
        for i, entry in enumerate(meta["entries"]):
            name_of = entry["postprocess"]
            found = _read_healthy(arrays, i, entry["subjects"], options[name_of].erode_mm > 0)
            healthy[entry["signal"], name_of] = found
        if not healthy:
            raise ValueError("found no signal")
        calibration_checks.check_facts(meta["facts"])
        return Calibration(healthy, options, meta["facts"], _read_looks(arrays))


def _read_looks(arrays: Mapping[str, np.ndarray]) -> scan_look.HealthyLooks | None:
    if "look_deciles" not in arrays:
        return None
    found = tuple(arrays[f"look_{name}"] for name in ("deciles", "likeness", "mean"))
    calibration_checks.check_looks(*found)
    deciles, likeness, mean = found
    return scan_look.HealthyLooks(deciles, likeness, mean.astype(np.float32))


def _read_healthy(arrays: Mapping[str, Any], i: int, names: Any, eroded: bool) -> Healthy:
    subjects = calibration_checks.check_names(names)
    # Curves differ in length: they lie end to end in one array, and `ends` cuts them.
    ends, levels, counts = (arrays[f"{name}_{i}"] for name in ("ends", "levels", "counts"))
    scores, histograms = arrays[f"scores_{i}"], arrays[f"histograms_{i}"]
    calibration_checks.check_scores(scores, len(subjects))
    calibration_checks.check_histograms(histograms, len(subjects), N_BINS, eroded=eroded)
    calibration_checks.check_curves(ends, levels, counts, len(subjects))
    cuts = [0, *ends.tolist()]
    return Healthy(
        tuple(
            Scan(subject, float(scores[k]), histograms[k], levels[a:b], counts[a:b])
            for k, (subject, a, b) in enumerate(zip(subjects, cuts[:-1], cuts[1:], strict=True))
        )
    )

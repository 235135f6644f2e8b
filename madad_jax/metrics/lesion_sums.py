"""Lesions found at a number of false positives a scan that a user can bear.

The thresholds are chosen on healthy validation scans (`choose_points`): the lowest at which they
have so many candidates a scan. Nothing of the scored set enters, unlike the points of an FROC
curve. What each scan of the set then adds is a few counts (`LesionSums`), from which all figures,
their intervals over subjects, and paired differences between methods follow.

A lesion is found when at least a tenth of its voxels lie in candidates; a false positive is a
candidate that touches no lesion.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from madad_jax.core import errors
from madad_jax.metrics import archives, bootstrap, calibration, intervals

FORMAT = 1
# Upper ends in ml, by what a radiologist would call them.
VOLUMES = (("below 0.1 ml", 0.1), ("0.1 to 1 ml", 1.0), ("1 to 10 ml", 10.0), ("10 ml up", np.inf))
# The two upper bands together: what a reader must not miss.
LARGE, LARGE_ML = "1 ml up", 1.0
UNKNOWN = "unknown"  # kind of a lesion that nobody named
# Fields of the figures that hold groups of lesions.
GROUPS = ("by_volume", "by_kind", "by_kind_and_volume")
ALL = ("", "all")

Group = tuple[str, str]  # one of GROUPS or "", name within it


@dataclasses.dataclass(frozen=True)
class Point:
    """A threshold for a number of false positives a scan.

    Attributes:
      asked: candidates that a healthy scan may have.
      threshold: None where healthy scans cannot tell it.
      known: candidates of each healthy validation scan above it, int [scans].
      note: why there is no threshold, or why it gives fewer than asked; "" for neither.
    """

    asked: float
    threshold: float | None
    known: np.ndarray
    note: str = ""


def choose_points(healthy: calibration.Healthy, asked: Sequence[float]) -> tuple[Point, ...]:
    """A point for each number of false positives a scan, rising; healthy validation scans alone.

    A number that is more than scans ever have gives the threshold where they have the most.
    """
    out = []
    most = healthy.by_most_false_positives()
    for rate in sorted(set(asked)):
        least = 1.0 / len(healthy.scans)
        if rate < least:
            note = f"{len(healthy.scans)} healthy scans cannot tell less than {least:.3g}"
            out.append(Point(rate, None, np.zeros(0, np.int64), note))
            continue
        chosen, note = most, ""
        if most.asked > rate:
            chosen = healthy.by_false_positives(rate)
        elif most.asked < rate:
            note = f"healthy scans have at most {most.asked:.3g}"
        known = healthy.count_candidates(chosen.threshold)
        out.append(Point(rate, chosen.threshold, known, note))
    return tuple(out)


@dataclasses.dataclass(frozen=True)
class LesionSums:
    """What each scan adds: s scans with known truth, k points, g groups of lesions.

    Attributes:
      scans: names, sorted.
      asked: false positives a scan of each point that has a threshold.
      groups: of lesions; the first is `ALL`.
      lesions: lesions of each group.
      found: those of them that were found at each point.
      false: candidates that touch no lesion, at each point.
    """

    scans: tuple[str, ...]
    asked: tuple[float, ...]
    groups: tuple[Group, ...]
    lesions: Int[np.ndarray, "s g"]
    found: Int[np.ndarray, "s k g"]
    false: Int[np.ndarray, "s k"]


@dataclasses.dataclass(frozen=True)
class Judged:
    """One scan: volume in ml and kind of each lesion; `found` bool [k, lesions] and `false` int [k]
    at the points that have a threshold."""

    name: str
    lesions: Sequence[tuple[float, str]]
    found: np.ndarray
    false: np.ndarray


def add_up(scans: Sequence[Judged], points: Sequence[Point]) -> LesionSums:
    """The sums of a set; kinds are grouped where any is known."""
    scans = sorted(scans, key=lambda s: s.name)
    asked = tuple(p.asked for p in points if p.threshold is not None)
    kinds = sorted({kind for s in scans for _, kind in s.lesions})
    kinds = kinds if set(kinds) - {"", UNKNOWN} else []
    bands = [*(name for name, _ in VOLUMES), LARGE]
    groups = [ALL, *(("by_volume", b) for b in bands), *(("by_kind", k) for k in kinds)]
    groups += [("by_kind_and_volume", f"{k}, {b}") for k in kinds for b in bands]
    lesions = np.zeros((len(scans), len(groups)), np.int64)
    found = np.zeros((len(scans), len(asked), len(groups)), np.int64)
    for i, scan in enumerate(scans):
        for j, (volume_ml, kind) in enumerate(scan.lesions):
            mine = _list_groups(volume_ml, kind)
            member = np.array([group in mine for group in groups])
            lesions[i] += member
            found[i] += np.outer(scan.found[:, j], member)
    false = np.array([s.false for s in scans], np.int64).reshape(len(scans), len(asked))
    return LesionSums(tuple(s.name for s in scans), asked, tuple(groups), lesions, found, false)


def _list_groups(volume_ml: float, kind: str) -> set[Group]:
    bands = [next(name for name, end in VOLUMES if volume_ml < end)]
    bands += [LARGE] if volume_ml >= LARGE_ML else []
    both = (("by_kind_and_volume", f"{kind}, {band}") for band in bands)
    return {ALL, ("by_kind", kind), *(("by_volume", band) for band in bands), *both}


def list_figures(
    sums: LesionSums, points: Sequence[Point], *, draws: int, seed: int
) -> list[dict[str, Any]]:
    """Plain, JSON-able figures of each point; `None` where nothing was there.

    Each entry has the threshold and what it does on the validation scans (`expected`), what it
    does on this set's scans without and with lesions, whether the number asked for lies inside
    the interval of what it does (`keeps`), and the share of lesions found, by group.
    """
    sick = sums.lesions[:, 0] > 0
    weights = _draw(len(sums.scans), draws, seed)
    return [_list_point(sums, point, sick, weights) for point in points]


def _list_point(
    sums: LesionSums, point: Point, sick: np.ndarray, weights: np.ndarray
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "asked": point.asked,
        "threshold": point.threshold,
        "note": point.note,
        "n_validation_scans": len(point.known),
        "expected": _mean(point.known),
        "n_healthy_scans": int((~sick).sum()),
        "false_positives_per_healthy_scan": None,
        # None: without an interval nothing can be said.
        "keeps": None,
        "n_lesion_scans": int(sick.sum()),
        "false_positives_per_lesion_scan": None,
        "n_lesions": int(sums.lesions[:, 0].sum()),
        "n_found": None,
        "sensitivity": None,
        "intervals": {},
        **{field: {} for field in GROUPS},
    }
    if point.threshold is None:
        return entry
    k = sums.asked.index(point.asked)
    healthy, beside = (sums.false[rows, k].astype(np.float64) for rows in (~sick, sick))
    entry["false_positives_per_healthy_scan"] = _mean(healthy)
    entry["false_positives_per_lesion_scan"] = _mean(beside)
    interval = _realised_interval(healthy, point.known)
    if interval is not None:
        # Fewer than asked is all that these scans have: no promise was made.
        kept = interval[0] <= point.asked <= interval[1]
        entry["keeps"] = None if point.note else kept
        entry["intervals"]["false_positives_per_healthy_scan"] = list(interval)
    of_sick = intervals.mean_interval(beside) if len(beside) else None
    if of_sick is not None:
        entry["intervals"]["false_positives_per_lesion_scan"] = list(of_sick)
    for g, (field, name) in enumerate(sums.groups):
        found = _list_group(sums, k, g, weights)
        if (field, name) == ALL:
            entry["intervals"] |= found.pop("intervals")
            entry |= found
        elif found["n_lesions"]:
            entry[field][name] = found
    return entry


def _list_group(sums: LesionSums, k: int, g: int, weights: np.ndarray) -> dict[str, Any]:
    lesions, found = int(sums.lesions[:, g].sum()), int(sums.found[:, k, g].sum())
    sensitivity = found / lesions if lesions else None
    out = {"n_lesions": lesions, "n_found": found, "sensitivity": sensitivity, "intervals": {}}
    drawn = _percentiles(_share(sums, k, g, weights))
    if drawn is not None:
        out["intervals"]["sensitivity"] = drawn
    return out


def _draw(scans: int, draws: int, seed: int) -> np.ndarray:
    """Weights of the draws; none where scans are too few for an interval."""
    if scans < bootstrap.MIN_SUBJECTS or draws < 1:
        return np.zeros((0, scans))
    return bootstrap.draw_weights(scans, draws, seed)


def _share(sums: LesionSums, k: int, g: int, weights: np.ndarray) -> np.ndarray:
    """Share of a group's lesions found in each draw; NaN in a draw that has none of them."""
    lesions = weights @ sums.lesions[:, g]
    with np.errstate(invalid="ignore"):
        return (weights @ sums.found[:, k, g]) / np.where(lesions > 0, lesions, np.nan)


def _percentiles(values: np.ndarray) -> list[float] | None:
    values = values[np.isfinite(values)]
    return [float(v) for v in np.percentile(values, (2.5, 97.5))] if len(values) else None


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _realised_interval(fresh: np.ndarray, known: np.ndarray) -> tuple[float, float] | None:
    if len(fresh) < 2:
        return None
    # Two draws of people: those who set the threshold, and those who meet it.
    both = intervals.fresh_mean_interval(fresh, known.astype(np.float64))
    return both if both is not None else intervals.mean_interval(fresh)


def list_differences(
    mine: LesionSums, theirs: LesionSums, *, draws: int = 200, seed: int = 0
) -> dict[float, dict[Group, dict[str, Any]]]:
    """Paired differences of sensitivity by the number asked for, then by group.

    Over the scans, points and groups that both hold, with the same draws of scans for both:
    `{"sensitivity": mine - theirs, "interval": 95 % or None}`. Nothing for a group without lesions.
    """
    names = sorted(set(mine.scans) & set(theirs.scans))
    if not names:
        return {}
    one, two = (_take(sums, names) for sums in (mine, theirs))
    # The first row takes everybody once: it is the value.
    weights = np.concatenate([np.ones((1, len(names))), _draw(len(names), draws, seed)])
    out: dict[float, dict[Group, dict[str, Any]]] = {}
    for asked in one.asked:
        for group in one.groups if asked in two.asked else ():
            if group not in two.groups:
                continue
            shares = [
                _share(s, s.asked.index(asked), s.groups.index(group), weights) for s in (one, two)
            ]
            gap = shares[0] - shares[1]
            if np.isfinite(gap[0]):
                entry = {"sensitivity": float(gap[0]), "interval": _percentiles(gap[1:])}
                out.setdefault(asked, {})[group] = entry
    return out


def add_differences(
    entries: Sequence[tuple[dict[str, Any], LesionSums]], *, draws: int = 200, seed: int = 0
) -> None:
    """Adds to each learned row, at each point, its paired difference to the best baseline there.

    In place, as `entry["difference"] = {"to": name, "sensitivity", "interval", "by_kind"}` of the
    entries of `row["volumes"]["at_false_positives"]`. The best baseline is the one that finds the
    most lesions at that point. Nothing is added where either is missing.
    """
    for row, mine in entries:
        for k, entry in enumerate(row["volumes"]["at_false_positives"] if row["learns"] else ()):
            rivals = [
                (at["sensitivity"], other["method"], theirs)
                for other, theirs in entries
                if not other["learns"]
                and (at := other["volumes"]["at_false_positives"][k])["sensitivity"] is not None
            ]
            if not rivals or entry["sensitivity"] is None:
                continue
            _, to, theirs = max(rivals, key=lambda rival: rival[0])
            found = list_differences(mine, theirs, draws=draws, seed=seed)[entry["asked"]]
            kinds = {name: v for (field, name), v in found.items() if field == "by_kind"}
            entry["difference"] = {"to": to, **found[ALL], "by_kind": kinds}


def _take(sums: LesionSums, names: Sequence[str]) -> LesionSums:
    rows = [sums.scans.index(name) for name in names]
    parts = {key: getattr(sums, key)[rows] for key in ("lesions", "found", "false")}
    return dataclasses.replace(sums, scans=tuple(names), **parts)


def to_bytes(methods: Mapping[str, LesionSums], facts: Mapping[str, Any]) -> bytes:
    """The content of a file with the sums of several methods on one set."""
    arrays, entries = {}, []
    for i, (method, sums) in enumerate(methods.items()):
        entries.append(
            {
                "method": method,
                "scans": list(sums.scans),
                "asked": list(sums.asked),
                "groups": [list(group) for group in sums.groups],
            }
        )
        for field in ("lesions", "found", "false"):
            arrays[f"{field}_{i}"] = getattr(sums, field).astype(np.int64)
    return archives.to_bytes({"format": FORMAT, "entries": entries, "facts": dict(facts)}, arrays)


def from_bytes(content: bytes, name: str) -> tuple[dict[str, LesionSums], dict[str, Any]]:
    """The inverse of `to_bytes`; `name` is the file's, for messages.

    Raises:
      UserError: damaged, or of another format.
    """
    with archives.open_bytes(content, name, "readable sums of lesions") as (meta, arrays):
        if meta["format"] != FORMAT:
            raise errors.UserError(
                f"{name}: sums of lesions of format {meta['format']}, this version reads {FORMAT}"
            )
        out = {}
        for i, entry in enumerate(meta["entries"]):
            sums = LesionSums(
                tuple(str(n) for n in entry["scans"]),
                tuple(float(a) for a in entry["asked"]),
                tuple((str(field), str(group)) for field, group in entry["groups"]),
                *(arrays[f"{field}_{i}"] for field in ("lesions", "found", "false")),
            )
            _check(sums)
            out[entry["method"]] = sums
        return out, meta["facts"]


def _check(sums: LesionSums) -> None:
    s, k, g = len(sums.scans), len(sums.asked), len(sums.groups)
    parts = {"lesions": (s, g), "found": (s, k, g), "false": (s, k)}
    for field, shape in parts.items():
        values = getattr(sums, field)
        if values.shape != shape or values.dtype.kind not in "iu" or (values < 0).any():
            raise ValueError(f"{field}: accepted: counts {list(shape)}")
    if (sums.found > sums.lesions[:, None]).any():
        raise ValueError("found: more lesions than there are")

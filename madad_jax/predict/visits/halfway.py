"""Two visits in the space halfway between them, and what differs there.

Scans, maps and masks are resampled once, straight from their own grids, by half of the motion each.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from madad_jax.core import errors
from madad_jax.metrics import change_spread, visit_changes
from madad_jax.predict import regions
from madad_jax.predict.visits import visit as visit_lib
from madad_jax.scans import geometry, head_pair, intensity, resample, rigid_motion

FINEST = 0.7  # mm: maps are coarser by far, and half the side is eight times the voxels
# Correlation of folds (`head_pair.measure_likeness`). Two people's heads reach 0.67 at most, one
# head moved, with noise and another coil, 0.97 (docs/visits.md).
USUAL_LIKENESS, LEAST_LIKENESS = 0.85, 0.7
MOST_DISAGREEMENT = 1.0  # mm between the ways there and back
_LEAST_COMMON = 0.8  # of either visit's scored brain


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two visits on one grid [X, Y, Z], first and second.

    Attributes:
      visits: as they were read.
      match: the motion between the heads.
      half: mm of the first -> mm halfway, and from there -> mm of the second.
      grid: of the space halfway.
      scans: in their own units.
      scales: of the scans, for pictures: the scored brain's 1st and 99th percentile.
      maps: of either visit.
      difference: second - first where both were scored.
      numbers: of the place, 0 for none.
      places: by number.
      likeness: correlation of the folds.
      warnings: sentences.
    """

    visits: tuple[visit_lib.Visit, visit_lib.Visit]
    match: head_pair.Match
    half: Float64[np.ndarray, "4 4"]
    grid: geometry.VoxelGrid
    scans: tuple[Float32[np.ndarray, "X Y Z"], Float32[np.ndarray, "X Y Z"]]
    scales: tuple[intensity.Scale, intensity.Scale]
    maps: tuple[visit_changes.VisitMaps, visit_changes.VisitMaps]
    difference: Float32[np.ndarray, "X Y Z"]
    numbers: Int[np.ndarray, "X Y Z"]
    places: list[visit_changes.Place]
    likeness: float
    warnings: list[str]

    @property
    def both(self) -> Bool[np.ndarray, "X Y Z"]:
        """Where both visits were scored."""
        return self.maps[0].scored & self.maps[1].scored

    @property
    def side(self) -> float:
        """Side of a voxel, mm."""
        return float(self.grid.affine[0, 0])

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return self.side**3 / 1000.0

    def count(self, change: str) -> int:
        """How many places changed so."""
        return sum(place.change == change for place in self.places)

    def to_spread(self) -> change_spread.Pair:
        """What this pair adds to a healthy spread."""
        new, gone = (self.count(name) for name in (visit_changes.NEW, visit_changes.GONE))
        return change_spread.measure(self.difference, self.both, new, gone)

    def to_visits(self) -> tuple[Float64[np.ndarray, "4 4"], Float64[np.ndarray, "4 4"]]:
        """mm halfway -> mm of the first, and of the second."""
        return rigid_motion.invert(self.half), self.half


def compare(
    first: visit_lib.Visit,
    second: visit_lib.Visit,
    names: tuple[str, str] = ("--first", "--second"),
    *,
    allow_unlike: bool = False,
) -> Comparison:
    """Brings two visits together and compares them.

    Args:
      first, second: the visits, in the order of time.
      names: of the two in messages.
      allow_unlike: heads that do not match are a warning and no error.

    Raises:
      UserError: other models or settings, or heads that do not match or do not meet.
    """
    visit_lib.check_alike(first.identity, second.identity, names)
    heads = first.head, second.head
    match = head_pair.register(*heads)
    half = rigid_motion.halve(match.motion)
    voxels = [*first.volume.voxel_mm, *second.volume.voxel_mm]
    side = round(max(FINEST, float(min(voxels))), 4)
    grid = head_pair.make_grid(*heads, half, side)
    ways = (rigid_motion.invert(half), half)
    pairs = list(zip((first, second), ways, strict=True))
    scans = tuple(_see(visit, visit.volume.data, grid, way, 1) for visit, way in pairs)
    maps = tuple(_see_maps(visit, grid, way) for visit, way in pairs)
    both = maps[0].scored & maps[1].scored
    likeness = head_pair.measure_likeness(*scans, both, side)
    warnings = _find_doubts(names, (first, second), match, likeness, maps, allow_unlike)
    numbers, places = visit_changes.find_places(*maps)
    return Comparison(
        visits=(first, second),
        match=match,
        half=half,
        grid=grid,
        scans=scans,
        scales=(_find_scale(first), _find_scale(second)),
        maps=maps,
        difference=visit_changes.subtract(*maps),
        numbers=numbers,
        places=places,
        likeness=likeness,
        warnings=warnings,
    )


def _see(visit: visit_lib.Visit, array, grid: geometry.VoxelGrid, way, order: int) -> np.ndarray:
    """An array of a visit on the grid halfway; `way`: mm halfway -> mm of the visit."""
    return resample.resample(array, visit.head.grid, grid, way, order=order)


def _see_maps(visit: visit_lib.Visit, grid, way) -> visit_changes.VisitMaps:
    scored = _see(visit, visit.scored, grid, way, 0)
    # Linear interpolation reaches half a voxel beyond the brain, where nothing was scored.
    anomaly = np.where(scored, _see(visit, visit.anomaly, grid, way, 1), np.float32(0.0))
    mask = _see(visit, visit.mask, grid, way, 0) & scored
    return visit_changes.VisitMaps(np.clip(anomaly, 0.0, 1.0), mask, scored)


def _find_scale(visit: visit_lib.Visit) -> intensity.Scale:
    data, black, _ = intensity.lay_zero(visit.volume.data, visit.scored)
    scale = intensity.find_scale(data, visit.scored)
    return intensity.Scale(scale.low + black, scale.high + black)


def _find_doubts(names, visits, match, likeness: float, maps, allow_unlike: bool) -> list[str]:
    """Why the comparison may mean little, in sentences. Raises UserError for two heads."""
    doubts = []
    if not likeness >= USUAL_LIKENESS:
        text = (
            f"after registration the folds of the two brains correlate by {likeness:.2f}; visits "
            f"of one head reach {USUAL_LIKENESS} and more, two people's heads stay below "
            f"{LEAST_LIKENESS}"
        )
        if not likeness >= LEAST_LIKENESS and not allow_unlike:
            raise errors.UserError(
                f"{names[0]} and {names[1]} do not show one head: {text}; accepted: two visits of "
                "one person, or --allow_unlike to compare them all the same"
            )
        doubts.append(f"DO THE HEADS MATCH? {text}: look at the pictures before all else")
    if match.disagreement_mm > MOST_DISAGREEMENT:
        doubts.append(
            f"registration there and back differ by {match.disagreement_mm:.1f} mm on the average "
            f"(usual: below {MOST_DISAGREEMENT:g}); changes at edges may be misplaced tissue"
        )
    common = int((maps[0].scored & maps[1].scored).sum())
    for name, part in zip(names, maps, strict=True):
        share = common / max(1, int(part.scored.sum()))
        if share < _LEAST_COMMON:
            doubts.append(f"{share:.0%} of the brain scored in {name} were scored in both visits")
    if visits[0].volume.sha256 == visits[1].volume.sha256:
        doubts.append("both visits are the same scan")
    if visits[0].summary.get("settings_sha256") != visits[1].summary.get("settings_sha256"):
        doubts.append(
            "model, threshold and post-processing agree, but the visits were scored with other "
            "settings that the summaries do not name (slices, brain masks, the model's folder)"
        )
    return doubts


def list_places(
    comparison: Comparison, spread: change_spread.Spread | None
) -> list[dict[str, Any]]:
    """A row for each place, JSON-able; see the columns of `visits_table`."""
    c, rows = comparison, []
    to_first, to_second = c.to_visits()
    for number, place in enumerate(c.places, start=1):
        point = (c.grid.affine @ np.array([*place.voxel, 1.0]))[:3]
        seen = [rigid_motion.move(way, point[None])[0] for way in (to_first, to_second)]
        template = _to_template(c, seen)
        known = template is not None
        ml = [n * c.voxel_ml for n in place.voxels]
        beyond = None
        if spread is not None:
            inside = (c.numbers == number) & c.both
            beyond = change_spread.share_beyond(c.difference[inside], spread.quantile())
        rows.append(
            {
                "place": number,
                "change": place.change,
                "first_ml": round(ml[0], 4),
                "second_ml": round(ml[1], 4),
                "change_ml": round(ml[1] - ml[0], 4),
                "first_parts": place.parts[0],
                "second_parts": place.parts[1],
                "first_peak": round(place.peaks[0], 4),
                "second_peak": round(place.peaks[1], 4),
                "first_mean": round(place.means[0], 4),
                "second_mean": round(place.means[1], 4),
                "mean_difference": round(place.difference, 4),
                "share_beyond_healthy": None if beyond is None else round(beyond, 4),
                "scored_in_first": round(place.scored[0], 4),
                "scored_in_second": round(place.scored[1], 4),
                "halfway_voxel": list(place.voxel),
                "halfway_mm": _round(point),
                "first_mm": _round(seen[0]),
                "second_mm": _round(seen[1]),
                "mni_mm": _round(template) if known else None,
                "region": regions.describe(tuple(map(float, template)))["name"] if known else None,
            }
        )
    return rows


def _to_template(c: Comparison, seen: list[np.ndarray]) -> np.ndarray | None:
    """ICBM152 mm of a point, the middle of what both visits' registrations say; None: neither."""
    found = [
        (visit.to_template @ np.array([*point, 1.0]))[:3]
        for visit, point in zip(c.visits, seen, strict=True)
        if visit.to_template is not None
    ]
    return np.mean(found, axis=0) if found else None


def _round(point: np.ndarray) -> list[float]:
    # + 0.0: a minus before a zero says nothing.
    return [round(float(v), 1) + 0.0 for v in point]

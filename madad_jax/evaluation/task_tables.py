"""Figures of tasks that were learned one after another, for people and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from madad_jax.metrics import forgetting

FIGURES = {
    "ap": "AP over all pixels",
    "pooled_dice_healthy": "pooled Dice at the healthy threshold",
    "false_alarm_pixels_healthy": "healthy brain pixels above it",
}
_SUMMARISED = ("ap", "pooled_dice_healthy")  # those of which more is better
_WAYS = {
    "update": "projection of the update",
    "gradient": "projection of the gradient (published)",
    "none": "plain fine-tuning",
    "joint": "joint training",
}
_LINES = (
    ("average", "average after the last"),
    ("forgetting", "forgetting (FM)"),
    ("worst_drop", "worst drop"),
    ("backward_transfer", "backward transfer"),
)


@dataclasses.dataclass(frozen=True)
class TaskTable:
    """Result rows by task.

    Attributes:
      tasks: names, in the order in which they were learned.
      ways: {way to train: [after a task][on a task] result row, None where nothing was scored};
        one line for joint training.
      bases: {run: {layer: [rank, dimensions]}} of what was kept.
    """

    tasks: Sequence[str]
    ways: Mapping[str, Sequence[Sequence[Mapping[str, Any] | None]]]
    bases: Mapping[str, Mapping[str, Sequence[int]]]

    def matrix(self, way: str, figure: str) -> np.ndarray:
        """The figure [after, on], NaN where it is not known."""
        rows = [[_value(cell, figure) for cell in line] for line in self.ways[way]]
        return np.array(rows, float)

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON holds them, shares from 0 to 1."""
        out: dict[str, Any] = {"tasks": list(self.tasks), "figures": {}, "bases": dict(self.bases)}
        for figure in FIGURES:
            of_ways = out["figures"][figure] = {}
            for way in self.ways:
                matrix = self.matrix(way, figure)
                lines = [[None if np.isnan(x) else x for x in line] for line in matrix.tolist()]
                of_ways[way] = {"matrix": lines}
                if figure in _SUMMARISED:
                    of_ways[way] |= _summary(matrix)
        return out

    def markdown(self, name: str, note: str = "") -> str:
        """The report; `note` stands above everything."""
        out = [f"# {name}: {' → '.join(self.tasks)}", ""]
        if note:
            out += ["> [!WARNING]", f"> **Synthetic data.** {note}", ""]
        out += [
            "Percent, one seed. All go on from the same first task and the same autoencoder. "
            "Thresholds are those of each task's own healthy validation slices. Forgetting is the "
            "best figure of an earlier task so far less that after the last (lower is better).",
            "",
        ]
        for figure, title in FIGURES.items():
            out += [f"## {title[0].upper()}{title[1:]}", "", *self._matrix_lines(figure), ""]
            if figure in _SUMMARISED:
                out += [*self._summary_lines(figure), ""]
        return "\n".join([*out, *self._basis_lines()]).rstrip() + "\n"

    def _matrix_lines(self, figure: str) -> list[str]:
        lines = [_line("training", "after", *(f"on {task}" for task in self.tasks))]
        lines.append(_line("---", "---", *("---:" for _ in self.tasks)))
        for way in self.ways:
            matrix = self.matrix(way, figure)
            after = self.tasks if len(matrix) == len(self.tasks) else ["all"]
            for task, values in zip(after, matrix, strict=True):
                lines.append(_line(_WAYS[way], task, *map(_percent, values)))
        return lines

    def _summary_lines(self, figure: str) -> list[str]:
        lines = [_line("training", *(label for _, label in _LINES))]
        lines.append(_line("---", *("---:" for _ in _LINES)))
        for way in self.ways:
            found = _summary(self.matrix(way, figure))
            lines.append(_line(_WAYS[way], *(_percent(found[key]) for key, _ in _LINES)))
        return lines

    def _basis_lines(self) -> list[str]:
        if not self.bases:
            return []
        lines = ["## Directions that are kept", "", _line("after", "layers", "share of directions")]
        lines.append(_line("---", "---:", "---:"))
        for run, layers in self.bases.items():
            shares = [100 * rank / size for rank, size in layers.values()]
            words = f"{min(shares):.0f} to {max(shares):.0f}, median {np.median(shares):.0f}"
            lines.append(_line(run, str(len(layers)), words))
        return lines


def _value(cell: Mapping[str, Any] | None, figure: str) -> float:
    found = None if cell is None else cell.get(figure)
    return float("nan") if found is None else float(found)


def _summary(matrix: np.ndarray) -> dict[str, float | None]:
    """As `forgetting.summarise`; None where figures are missing, or nothing came before."""
    # Joint training is one line, before which nothing was learned.
    found = forgetting.summarise(matrix)
    return {k: None if v is None or np.isnan(v) else v for k, v in found.items()}


def _percent(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{100 * value:.1f}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"

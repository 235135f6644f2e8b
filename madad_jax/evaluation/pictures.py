"""Pictures: anomaly panels, training curves, Dice over thresholds. PNG, no display needed.

Dark ground, because the eye reads grey brains and a heat map against black as a radiologist
does. Every file is one atomic write.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Float32
from matplotlib import ticker
from matplotlib.backends import backend_agg
from matplotlib.figure import Figure

from madad_jax.core import atomic_files, errors, json_file

_GROUND, _TEXT, _FAINT = "#0e1116", "#e8eaed", "#5f6670"
# Apart for the colour-blind too: amber, blue, red.
_PREDICTED, _TRUE, _MISSED = "#ffb000", "#4cc9f0", "#ff4d52"
_LINES = ("#58a6ff", "#ffb000", "#35d07f", "#ff7ab6", "#b392f0", "#79e2f2")
_COLUMNS = ("input", "reconstruction", "anomaly map", "above the threshold", "truth")
_RESERVED = frozenset({"stage", "split", "step", "time"})
_NO_CURVES = ("goodput",)  # rows of whole starts
_SMOOTH_FROM = 60  # points; a shorter curve is drawn as it is
_STYLE = {
    "figure.facecolor": _GROUND,
    "axes.facecolor": _GROUND,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _TEXT,
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "grid.color": _FAINT,
    "grid.alpha": 0.35,
    "legend.frameon": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
}


def panels(
    path: epath.PathLike,
    images: Float32[np.ndarray, "n H W 1"],
    reconstructions: Float32[np.ndarray, "n H W 1"],
    maps: Float32[np.ndarray, "n H W"],
    threshold: float,
    segmentations: Bool[np.ndarray, "n H W"] | None,
    titles: Sequence[str],
    *,
    threshold_name: str = "healthy threshold",
) -> None:
    """One row a slice: input, reconstruction, anomaly map, thresholded, truth.

    Images and reconstructions in [-1, 1]; maps in [0, 1] share one colour scale, on whose bar
    the threshold is marked. What is above it is drawn in amber; of the truth, what was found in
    blue and what was missed in red. Without `segmentations` the last column is left out. The
    empty margin that all slices share is cut off.

    Raises:
      ValueError: no slices.
    """
    if not len(images):
        raise ValueError("panels: no slices to show")
    known = segmentations is not None
    names = _COLUMNS if known else _COLUMNS[:-1]
    n = len(images)
    captions = [
        _dice_text(maps[i] > np.float32(threshold), segmentations[i]) if known else ""
        for i in range(n)
    ]  # of the whole slice, so before the margin is cut
    rows, columns = _crop(images)
    images, reconstructions, maps, segmentations = (
        None if a is None else a[:, rows, columns]
        for a in (images, reconstructions, maps, segmentations)
    )
    # One scale for all rows, or maps could not be compared. The quantile leaves single pixels out,
    # and the threshold must be on the bar to be marked.
    top = min(1.0, float(max(np.quantile(maps, 0.9995), threshold * 1.25, 1e-3)))
    with matplotlib.rc_context(_STYLE):
        figure, grid, height = _panel_grid(n, len(names))
        for i in range(n):
            axes = [figure.add_subplot(grid[i, j]) for j in range(len(names))]
            truth = segmentations[i] if known else None
            grey = (images[i, ..., 0], reconstructions[i, ..., 0])
            heat = _panel_row(axes, grey, maps[i], threshold, truth, top)
            axes[0].set_ylabel(titles[i], fontsize=7.5, color=_TEXT, labelpad=6)
            at = axes[3].transAxes
            axes[3].text(0.97, 0.03, captions[i], transform=at, ha="right", va="bottom", size=7.5)
            if i == 0:
                for axis, name in zip(axes, names, strict=True):
                    axis.set_title(name, fontsize=10, pad=6)
        _colour_bar(figure, grid, heat, threshold, n)
        legend = f"above the {threshold_name} ({threshold:.3g})"
        figure.text(0.075, 0.14 / height, legend, color=_PREDICTED, fontsize=8)
        if known:
            figure.text(0.50, 0.14 / height, "lesion, found", color=_TRUE, fontsize=8)
            figure.text(0.63, 0.14 / height, "lesion, missed", color=_MISSED, fontsize=8)
        _save(figure, path)


def _crop(images: np.ndarray) -> tuple[slice, slice]:
    """The square that holds every slice's foreground and a small margin."""
    height, width = images.shape[1:3]
    # Background is -1; 0.02 leaves room for the rounding of 8-bit images.
    filled = (images[..., 0] > -0.98).any(axis=0)
    if not filled.any():
        return slice(None), slice(None)
    (top, bottom), (left, right) = (np.flatnonzero(filled.any(axis=a))[[0, -1]] for a in (1, 0))
    # Square, so that pixels stay square in square axes; 8 % so that no brain touches the edge.
    side = min(int(1.08 * max(bottom - top, right - left)) + 2, height, width)
    first_row = int(np.clip((top + bottom - side + 1) // 2, 0, height - side))
    first_column = int(np.clip((left + right - side + 1) // 2, 0, width - side))
    return slice(first_row, first_row + side), slice(first_column, first_column + side)


def _panel_grid(n_rows: int, n_columns: int) -> tuple[Figure, Any, float]:
    """(figure, grid with a narrow last column for the colour bar, height in inches)."""
    # Inches: a title of 7.5 points fits beside a row.
    cell = 1.9
    height = cell * n_rows + 0.9
    figure = Figure(figsize=(cell * n_columns + 1.6, height), dpi=130)
    grid = figure.add_gridspec(
        n_rows,
        n_columns + 1,
        width_ratios=[1.0] * n_columns + [0.06],
        wspace=0.03,
        hspace=0.04,
        left=0.075,
        right=0.93,
        top=1 - 0.38 / height,
        bottom=0.42 / height,
    )
    return figure, grid, height


def _panel_row(
    axes: Sequence[Any],
    grey: tuple[np.ndarray, np.ndarray],
    values: np.ndarray,
    threshold: float,
    truth: np.ndarray | None,
    top: float,
) -> Any:
    """Draws one slice into its axes; returns the heat map for the colour bar."""
    predicted = values > np.float32(threshold)
    # Two images for more axes: the rest are drawn below.
    for axis, image in zip(axes, grey, strict=False):
        axis.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="bilinear")
    heat = axes[2].imshow(values, cmap="inferno", vmin=0, vmax=top, interpolation="bilinear")
    layers = [[(predicted, _PREDICTED)]]
    if truth is not None:
        layers.append([(truth & predicted, _TRUE), (truth & ~predicted, _MISSED)])
    for axis, painted in zip(axes[3:], layers, strict=True):
        # Nearest: a smoothed mask would have edges that the detector never drew.
        axis.imshow(_overlay(grey[0], painted), interpolation="nearest")
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
    return heat


def _dice_text(predicted: np.ndarray, truth: np.ndarray) -> str:
    if not truth.any():
        return "healthy" if not predicted.any() else f"{int(predicted.sum())} px, healthy"
    return f"Dice {2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()):.2f}"


def _overlay(image: np.ndarray, layers: Sequence[tuple[np.ndarray, str]]) -> np.ndarray:
    """The grey image with masks painted on at 65 %, RGB in [0, 1]."""
    rgb = np.repeat(np.clip((image + 1.0) / 2.0, 0, 1)[..., None], 3, axis=-1)
    for mask, colour in layers:
        paint = np.array(matplotlib.colors.to_rgb(colour))
        rgb[mask] = 0.35 * rgb[mask] + 0.65 * paint
    return rgb


def _colour_bar(figure: Figure, grid: Any, heat: Any, threshold: float, n: int) -> None:
    middle = slice(0, n) if n < 3 else slice(n // 2 - 1, n // 2 + 2)
    bar = figure.colorbar(heat, cax=figure.add_subplot(grid[middle, -1]))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2)
    # White on black, to be seen on any colour of the map.
    bar.ax.axhline(threshold, color="black", linewidth=4.0)
    bar.ax.axhline(threshold, color="white", linewidth=1.8)
    bar.set_label("anomaly score", fontsize=8)


def training_curves(path: epath.PathLike, metrics_jsonl: epath.PathLike) -> bool:
    """Every metric of every stage over its steps, train and validation in one plot.

    Returns whether there was anything to draw. A torn last line is skipped; of two lines for
    one step (a run that was resumed) the later counts; null is a gap.
    """
    curves = _read_curves(metrics_jsonl)
    if not curves:
        return False
    width = min(4, max(len(metrics) for metrics in curves.values()))
    blocks = [(stage, math.ceil(len(m) / width), m) for stage, m in curves.items()]
    n_rows = sum(rows for _, rows, _ in blocks)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.4 * width + 0.4, 2.5 * n_rows + 0.4), layout="constrained")
        grid = figure.add_gridspec(n_rows, width)
        start = 0
        for stage, rows, metrics in blocks:
            for i, (name, splits) in enumerate(metrics.items()):
                axis = figure.add_subplot(grid[start + i // width, i % width])
                _curve(axis, f"{stage} · {name}", splits)
            start += rows
        _save(figure, path)
    return True


def _read_curves(
    path: epath.PathLike,
) -> dict[str, dict[str, dict[str, dict[int, float]]]]:
    """stage -> metric -> split -> {step: value}, in order of first appearance."""
    path = epath.Path(path)
    curves: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    for line in atomic_files.read_bytes(path).splitlines() if path.exists() else []:
        try:
            row = json_file.parse_object(line, "a line")
            stage, split, step = str(row["stage"]), str(row["split"]), int(row["step"])
        except (errors.UserError, ValueError, KeyError, TypeError, OverflowError):
            continue  # The torn tail of a killed run.
        if split in _NO_CURVES:
            continue
        for name, value in row.items():
            if name in _RESERVED or isinstance(value, bool | str):
                continue
            if isinstance(value, int | float) and math.isfinite(value):
                splits = curves.setdefault(stage, {}).setdefault(name, {})
                splits.setdefault(split, {})[step] = float(value)
    return curves


def _curve(axis: Any, title: str, splits: Mapping[str, Mapping[int, float]]) -> None:
    low, high = math.inf, -math.inf
    for (split, points), colour in zip(splits.items(), _LINES * 9, strict=False):
        steps = np.array(sorted(points))
        values = np.array([points[s] for s in steps])
        low, high = min(low, values.min()), max(high, values.max())
        if len(steps) >= _SMOOTH_FROM:
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            # The width grows with the curve, so that a long run is as smooth as a short one.
            values = _running_mean(values, len(values) // 30)
        marker = "o" if len(steps) < 30 else None
        axis.plot(steps, values, color=colour, linewidth=1.5, marker=marker, ms=2.5, label=split)
    # Losses fall by orders at the start; on a linear axis the rest would be a flat line.
    if low > 0 and high / low > 20:
        axis.set_yscale("log")
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("step", fontsize=8)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    axis.tick_params(labelsize=7.5)
    axis.grid(True)
    axis.spines[["top", "right"]].set_visible(False)
    if len(splits) > 1 or next(iter(splits)) != "train":
        axis.legend(fontsize=7.5)


def _running_mean(values: np.ndarray, half: int) -> np.ndarray:
    """Mean over up to `half` neighbours on each side, shorter at the ends."""
    # Differences of a running sum: linear in the points, whatever the width.
    total = np.concatenate([[0.0], values.cumsum()])
    index = np.arange(len(values))
    left, right = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[right] - total[left]) / (right - left)


def threshold_curve(
    path: epath.PathLike,
    curves: Mapping[str, tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]],
    *,
    healthy_thresholds: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Mean per-slice Dice over thresholds, one line a method.

    Args:
      path: the PNG.
      curves: method -> (thresholds, Dice), as `Evaluator.dice_curve` gives.
      healthy_thresholds: method -> threshold chosen on healthy slices, marked by a diamond; the
        largest Dice, which needs the truth to be found, is marked by a ring.
      title: above the plot.
    """
    healthy_thresholds = healthy_thresholds or {}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.8), dpi=130, layout="constrained")
        axis = figure.add_subplot()
        for (name, (grid, dice)), colour in zip(curves.items(), _LINES * 9, strict=False):
            best = int(np.argmax(dice))
            axis.plot(grid, 100 * dice, color=colour, linewidth=1.7, label=name)
            axis.plot(grid[best], 100 * dice[best], "o", ms=9, mfc="none", mec=colour, mew=1.6)
            if (healthy := healthy_thresholds.get(name)) is not None:
                at = 100 * np.interp(healthy, grid, dice)
                axis.plot(healthy, at, "D", ms=6, color=colour, mec=_GROUND)
        # The two marks, explained once, in no method's colour.
        axis.plot([], [], "o", ms=9, mfc="none", mec=_TEXT, mew=1.6, label="best (needs the truth)")
        if healthy_thresholds:
            axis.plot([], [], "D", ms=6, color=_TEXT, label="chosen on healthy slices")
        axis.set(xlabel="threshold", ylabel="mean Dice per slice, %", title=title, ylim=(0, None))
        axis.grid(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8)
        _save(figure, path)


def froc(path: epath.PathLike, curves: Mapping[str, tuple[Sequence, Sequence]]) -> None:
    """Share of lesions found against false positives a scan, one line a method.

    Args:
      path: the PNG.
      curves: method -> (false positives per scan [k], sensitivity [k]).
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.8), dpi=130, layout="constrained")
        axis = figure.add_subplot()
        for (name, (false, found)), colour in zip(curves.items(), _LINES * 9, strict=False):
            # Past their most, components merge and there are fewer again: not a working point.
            last = int(np.argmax(false)) + 1
            share = 100 * np.asarray(found[:last])
            axis.plot(false[:last], share, color=colour, linewidth=1.7, label=name)
        axis.set(xlabel="false positives a scan", ylabel="lesions found, %", ylim=(0, None))
        # Linear up to one false positive, so that 0 of them can be drawn; decades after it.
        axis.set_xscale("symlog", linthresh=1.0)
        axis.set_xlim(0, None)
        axis.grid(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8)
        _save(figure, path)


def _save(figure: Figure, path: epath.PathLike) -> None:
    """PNG through memory and a neighbour file, so that a reader sees all of it or none."""
    buffer = io.BytesIO()
    # No software version in the file: the same picture is the same bytes.
    backend_agg.FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    atomic_files.write_bytes(path, buffer.getvalue())

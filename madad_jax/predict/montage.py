"""Pictures of the page that need no viewer: axial slices, and where the scan stands."""

import html as html_lib
import io
from typing import Any

import numpy as np

_COLUMNS, _ROWS = 4, 2


def draw_slices(result: Any) -> bytes:
    """PNG of axial slices with candidates outlined in black on white, readable without colour.

    Slices of the largest candidates first, then even ones, in order of height.
    """
    import matplotlib

    # Servers have no display; a notebook that chose its backend keeps it.
    matplotlib.use("Agg", force=False)
    from matplotlib import figure

    data, labels = result.volume.data, result.labels
    levels = _choose_levels(result, _COLUMNS * _ROWS)
    x, y, _ = result.volume.voxel_mm
    canvas = figure.Figure(figsize=(3 * _COLUMNS, 3.4 * _ROWS), layout="constrained")
    some = data[data != 0]
    low, high = min(0.0, float(some.min())), float(np.percentile(some, 99.5))
    for place in range(_COLUMNS * _ROWS):
        axes = canvas.add_subplot(_ROWS, _COLUMNS, place + 1)
        axes.set_axis_off()
        if place >= len(levels):
            continue
        k = levels[place]
        axes.imshow(data[:, :, k].T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=y / x)
        inside = labels[:, :, k].T > 0
        if inside.any() and not inside.all():
            # White on black shows on any grey, and to who cannot tell colours.
            axes.contour(inside, [0.5], colors="black", linewidths=2.6)
            axes.contour(inside, [0.5], colors="white", linewidths=1.0)
        numbers = np.unique(labels[:, :, k])[1:]
        title = f"slice {k + 1}" + (
            f": candidate {', '.join(map(str, numbers[:6]))}" * bool(len(numbers))
        )
        axes.set_title(title, fontsize=9)
    content = io.BytesIO()
    canvas.savefig(content, format="png", dpi=90)
    return content.getvalue()


def _choose_levels(result: Any, count: int) -> list[int]:
    """Slices of the scan's canonical grid to show, rising."""
    # Candidates come largest first, and several may lie on one slice.
    chosen = list(dict.fromkeys(p["voxel"][2] for p in result.candidates))[:count]
    scored = np.flatnonzero((result.reconstruction != 0).any(axis=(0, 1)))
    if len(scored) and len(chosen) < count:
        even = scored[np.linspace(0, len(scored) - 1, count).round().astype(int)].tolist()
        chosen += [k for k in even if k not in chosen][: count - len(chosen)]
    return sorted(set(chosen))


def draw_healthy_range(healthy: Any, score: dict[str, Any]) -> str:
    """An SVG with the healthy scans' scores, a dot each, and this scan's as a triangle."""
    if healthy is None:
        return (
            "<p>The run is not calibrated: nothing is known of healthy scans. Evaluate the run on "
            "prepared slices, or calibrate it with healthy scans of your own.</p>"
        )
    values = np.sort([s.score for s in healthy.scans])
    own = score["score"]
    low, high = min(values[0], own), max(values[-1], own)
    # Equal scores would leave an axis without length.
    margin = 0.06 * (high - low) + 1e-3
    low, high = max(0.0, low - margin), high + margin

    def x_of(value: float) -> float:
        return 30 + 640 * (value - low) / (high - low)

    dots = "".join(
        f'<circle cx="{x_of(v):.1f}" cy="{62 - 7 * (i % 4)}" r="4" fill="none" stroke="#16181d"/>'
        for i, v in enumerate(values)
    )
    ticks = "".join(
        f'<line x1="{x_of(t):.1f}" y1="74" x2="{x_of(t):.1f}" y2="80" stroke="#16181d"/>'
        f'<text x="{x_of(t):.1f}" y="95" text-anchor="middle">{t:.3f}</text>'
        for t in np.linspace(low, high, 5)
    )
    caption = (
        f"Scores of {len(values)} healthy scans, {values[0]:.3f} to {values[-1]:.3f}; this scan "
        f"{own:.3f}, percentile {score['percentile']:.0f} among them"
    )
    x, side = x_of(own), "end" if x_of(own) > 500 else "start"
    return (
        f'<svg role="img" viewBox="0 0 700 104" width="700" font-size="13" '
        f'aria-label="{html_lib.escape(caption)}">'
        f'<line x1="30" y1="74" x2="670" y2="74" stroke="#16181d"/>{ticks}{dots}'
        f'<path d="M{x:.1f} 72 l-8 -16 h16 z" fill="#16181d"/>'
        f'<line x1="{x:.1f}" y1="56" x2="{x:.1f}" y2="22" stroke="#16181d"/>'
        f'<text x="{x + (-6 if side == "end" else 6):.1f}" y="20" text-anchor="{side}" '
        f'font-weight="700">this scan: {own:.3f}</text></svg>'
        f"<p>{html_lib.escape(caption)}. Circles: healthy scans.</p>"
    )

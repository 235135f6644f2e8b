"""A sheet of small pictures on black, for a person's eye."""

import dataclasses
import io

import numpy as np
from jaxtyping import Bool, Float32

COLUMNS, ROWS = 6, 4
_INCHES, _TITLE = 2.1, 0.3


@dataclasses.dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
      image: over [0, 1].
      title: one or two lines above it.
      outlines: (mask, colour) drawn around; masks that are empty or full are not drawn.
      sides: letters at the left, the right and the top edge; "" = none.
      colour: of the title.
    """

    image: Float32[np.ndarray, "H W"]
    title: str
    outlines: tuple[tuple[Bool[np.ndarray, "H W"], str], ...] = ()
    sides: tuple[str, str, str] = ("", "", "")
    colour: str = "white"


def draw_panels(panels: list[Panel]) -> bytes:
    """All panels, six a row, as a PNG; b"" for none. The same panels give the same bytes."""
    if not panels:
        return b""
    # Here and not above: the processes that prepare scans draw nothing.
    import matplotlib
    from matplotlib import figure

    count = -(-len(panels) // COLUMNS)
    height = _INCHES + _TITLE
    # Not pyplot, which keeps every figure and asks for a display.
    sheet = figure.Figure(figsize=(COLUMNS * _INCHES, count * height), facecolor="black")
    for k, panel in enumerate(panels):
        row, column = divmod(k, COLUMNS)
        place = (column / COLUMNS, 1 - ((row + 1) * height - 0.02) / (count * height))
        axis = sheet.add_axes((*place, 0.97 / COLUMNS, _INCHES * 0.97 / (count * height)))
        axis.set_axis_off()
        axis.imshow(panel.image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for mask, colour in panel.outlines:
            # matplotlib warns at the contour of a constant.
            if mask.any() and not mask.all():
                axis.contour(mask, levels=[0.5], colors=colour, linewidths=0.7)
        axis.set_title(panel.title, color=panel.colour, fontsize=6, pad=2, parse_math=False)
        for text, x, y in zip(panel.sides, (0.05, 0.95, 0.5), (0.5, 0.5, 0.97), strict=True):
            axis.text(x, y, text, color="#ffd24a", fontsize=6, transform=axis.transAxes,
                      ha="center", va="center")  # fmt: skip
    content = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 130}):
        # Without the library's version in it: the same slices give the same bytes.
        sheet.savefig(content, format="png", facecolor="black", metadata={"Software": None})
    return content.getvalue()


def shorten_name(name: str) -> str:
    """A name as a title holds it: 24 characters, the middle left out."""
    return name if len(name) <= 24 else f"{name[:11]}..{name[-11:]}"

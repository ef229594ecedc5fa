"""Plots of lines by matplotlib, which is imported where something is drawn and not before."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from maskflow_jax.io.files import write_with

Line = tuple[Sequence[float], Sequence[float]]
"""Places along the axis, and values."""

_SIZE = (4.2, 2.8)  # of a panel, in inches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """A plot.

    Attributes:
        title: Title.
        x_label: Label of the axis.
        lines: Lines by label.
        log: Whether values are shown on a logarithmic scale, where all are positive and the largest
            is many times the smallest.
        ordered: Whether the lines have an order, which their colours then show.
        level: A value that is drawn as a dashed line.
        level_label: What that value is.
    """

    title: str
    x_label: str
    lines: Mapping[str, Line]
    log: bool = False
    ordered: bool = False
    level: float | None = None
    level_label: str = ""


def import_figure() -> ModuleType:
    """Returns matplotlib's module of figures; ImportError with the fix where it is missing."""
    try:
        from matplotlib import figure
    except ImportError as error:
        raise ImportError(
            "curves are drawn by matplotlib, which is not installed: pip install "
            "'maskflow_jax[report]' (or '.[report]' in a checkout)"
        ) from error
    return figure


def write_panels(path: str | Path, panels: Sequence[Panel], *, columns: int = 3) -> None:
    """Writes panels as one PNG.

    Args:
        path: The file.
        panels: At least one panel.
        columns: Largest number of panels beside each other.

    Raises:
        ImportError: if matplotlib is missing.
    """
    figures = import_figure()
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = figures.Figure(figsize=(_SIZE[0] * columns, _SIZE[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, axis in zip(panels, axes, strict=False):
        _draw(panel, axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    write_with(path, lambda part: figure.savefig(part, format="png", dpi=110))


def panel_svg(panel: Panel) -> str:
    """Returns a panel as SVG, the same text for the same panel.

    Raises:
        ImportError: if matplotlib is missing.
    """
    figures = import_figure()
    import matplotlib

    # Text is drawn as shapes, so that no font has to be there.
    with matplotlib.rc_context({"svg.hashsalt": "maskflow", "svg.fonttype": "path"}):
        figure = figures.Figure(figsize=_SIZE, layout="constrained")
        _draw(panel, figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _draw(panel: Panel, axis) -> None:
    """Draws the lines of a panel."""
    import matplotlib

    count = len(panel.lines)
    colours = matplotlib.colormaps["viridis"]
    for place, (label, (x, y)) in enumerate(panel.lines.items()):
        colour = colours(0.9 * place / max(1, count - 1)) if panel.ordered else None
        marker = "." if len(x) < 40 else None
        axis.plot(x, y, label=label, color=colour, lw=1.2, marker=marker)
    if panel.level is not None:
        axis.axhline(panel.level, color="grey", ls="--", lw=1, label=panel.level_label)
    values = [value for _, y in panel.lines.values() for value in y]
    # Within less than a decade a linear axis is easier to read.
    if panel.log and min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(panel.x_label, fontsize=8)
    axis.tick_params(labelsize=8, which="both")
    axis.grid(alpha=0.25)
    if count > 4:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 4}
        axis.legend(fontsize=7, frameon=False, **below)
    elif count + (panel.level is not None) > 1:
        axis.legend(fontsize=7)

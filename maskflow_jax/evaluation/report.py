"""Tables and curves from receipts, and the drift report of one set of samples."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from maskflow_jax.evaluation.drift import Row
from maskflow_jax.evaluation.receipts import read_receipt
from maskflow_jax.io.files import write_text, write_with
from maskflow_jax.io.plots import import_figure

Point = tuple[int, float, float]
"""Number of a window, mean, standard deviation."""

_WINDOW = ".window_"
_PARTS = re.compile(r"\.(window|time|frame)_")  # of metrics that have too many for a table


def find_receipts(pattern: str) -> dict[str, dict[str, Any]]:
    """Reads the receipts that a pattern of paths matches.

    Args:
        pattern: Path in which `*` stands for any text.

    Returns:
        The receipts by label: the name of the folder of a "receipt.json", else the file's own.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If a file is no receipt.
    """
    path = Path(pattern)
    root = Path(path.anchor)
    found = sorted(root.glob(str(path.relative_to(root)) if path.anchor else pattern))
    if not found:
        raise FileNotFoundError(f"no receipts match {pattern!r}; correct the path")
    labels = [place.parent.name if place.name == "receipt.json" else place.stem for place in found]
    if len(set(labels)) < len(labels):  # two folders of one name
        labels = [str(place) for place in found]
    return {label: read_receipt(place) for label, place in zip(labels, found, strict=True)}


def receipt_rows(receipts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each metric of each receipt, beside the figures of its windows.

    Args:
        receipts: Receipts by label.

    Returns:
        Rows with `receipt`, `protocol`, `metric`, `mean`, `std`, `draws`, `n` and `floor`.
    """
    return [
        {
            "receipt": label,
            "protocol": receipt.get("settings", {}).get("protocol") or "",
            "metric": name,
            "mean": metric["mean"],
            "std": metric["std"],
            "draws": len(metric["draws"]),
            "n": metric["n"],
            "floor": metric.get("floor"),
        }
        for label, receipt in receipts.items()
        for name, metric in receipt["metrics"].items()
    ]


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; missing numbers are empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(receipts: Mapping[str, Mapping[str, Any]], metrics: Sequence[str] = ()) -> str:
    """Receipts side by side: a column each, and a column for the floor of the first that has one.

    Args:
        receipts: Receipts by label.
        metrics: Names of the metrics to show, in this order; by default all but those of single
            windows, times and frames.
    """
    names = list(metrics) or whole_metrics(receipts)
    lines = ["| | " + " | ".join(receipts) + " | real against real |"]
    lines.append("|---" * (len(receipts) + 2) + "|")
    for name in names:
        found = [receipt["metrics"].get(name) for receipt in receipts.values()]
        floors = [metric["floor"] for metric in found if metric and "floor" in metric]
        cells = [*map(as_cell, found), f"{floors[0]:.4g}" if floors else ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _legend(receipts)]) + "\n"


def whole_metrics(receipts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the metrics of receipts but those of single windows, times and frames."""
    known = dict.fromkeys(name for receipt in receipts.values() for name in receipt["metrics"])
    return [name for name in known if not _PARTS.search(name)]


def _legend(receipts: Mapping[str, Mapping[str, Any]]) -> str:
    """What the spread is over, in one sentence per receipt."""
    said = []
    for label, receipt in receipts.items():
        settings = receipt.get("settings", {})
        count = receipt["metrics"].get("unigram", {}).get("n")
        said.append(
            f"{label}: mean ± standard deviation over seeds {settings.get('seeds')}, "
            f"{count} videos each."
        )
    return "\n".join(said)


def as_cell(metric: Mapping[str, Any] | None) -> str:
    """A metric as text, with its standard deviation; nothing for None."""
    if metric is None:
        return ""
    spread = "" if metric["std"] is None else f" ± {metric['std']:.2g}"
    return f"{metric['mean']:.4g}{spread}"


def window_curves(receipt: Mapping[str, Any]) -> dict[str, list[Point]]:
    """The metrics of windows in their order: number of the window, mean, standard deviation."""
    curves: dict[str, list[Point]] = {}
    for name, metric in sorted(receipt["metrics"].items()):
        stem, found, index = name.partition(_WINDOW)
        if found:
            point = (int(index), metric["mean"], metric["std"] or 0.0)
            curves.setdefault(stem, []).append(point)
    return curves


def window_rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The means of the metrics of windows as a row per window.

    Args:
        metrics: Metrics by name, as a receipt holds them.
    """
    rows: dict[int, Row] = {}
    names = []
    for name, metric in metrics.items():
        stem, found, index = name.partition(_WINDOW)
        if found:
            names += [] if stem in names else [stem]
            rows.setdefault(int(index), {})[stem] = metric["mean"]
    return [{name: rows[i].get(name) for name in names} for i in sorted(rows)]


def floors_of(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What real videos give, by metric, for the metrics of windows that say so."""
    found = ((name.partition(_WINDOW), metric.get("floor")) for name, metric in metrics.items())
    return {stem: floor for (stem, window, _), floor in found if window and floor is not None}


def write_table(receipts: Mapping[str, Mapping[str, Any]], out: str | Path) -> str:
    """Writes `out`.md, `out`.csv and, where a receipt has windows, the curves as `out`.png.

    Args:
        receipts: Receipts by label.
        out: Path without suffix.

    Returns:
        The table in markdown.

    Raises:
        ValueError: If there is no receipt.
        ImportError: If there are curves and matplotlib is missing.
    """
    if not receipts:
        raise ValueError("no receipts: name at least one")
    table, out = as_markdown(receipts), Path(out)
    write_text(out.with_suffix(".md"), table)
    write_text(out.with_suffix(".csv"), as_csv(receipt_rows(receipts)))
    curves = {label: window_curves(receipt) for label, receipt in receipts.items()}
    if any(curves.values()):
        floors = floors_of(next(iter(receipts.values()))["metrics"])
        _draw(curves, floors, out.with_suffix(".png"))
    return table


def write_drift(
    rows: Sequence[Row], out: str | Path, floors: Mapping[str, float] = MappingProxyType({})
) -> None:
    """Writes the drift of one set of samples as `out`.csv and `out`.png.

    Args:
        rows: A row per window, with the same names.
        out: Path without suffix.
        floors: What real videos give, drawn as a dashed line, by name.

    Raises:
        ImportError: If matplotlib is missing.
    """
    out = Path(out)
    write_text(
        out.with_suffix(".csv"), as_csv([{"window": i, **row} for i, row in enumerate(rows)])
    )
    curves = {
        name: [(i, row[name], 0.0) for i, row in enumerate(rows) if row[name] is not None]
        for name in rows[0]
    }
    _draw({"": curves}, floors, out.with_suffix(".png"))


def _draw(
    curves: Mapping[str, Mapping[str, Sequence[Point]]], floors: Mapping[str, float], path: Path
) -> None:
    """A panel for each metric, a line for each label, windows along the axis."""
    figure_of = import_figure()
    names = list(dict.fromkeys(name for metrics in curves.values() for name in metrics))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = figure_of.Figure(figsize=(4.2 * columns, 2.8 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    last = max(point[0] for metrics in curves.values() for p in metrics.values() for point in p)
    for name, axis in zip(names, axes, strict=False):
        for label, metrics in curves.items():
            if points := metrics.get(name, ()):
                at, means, spreads = zip(*points, strict=True)
                axis.errorbar(at, means, spreads, label=label, marker=".", capsize=2, lw=1.2)
        if name in floors:
            axis.axhline(floors[name], color="grey", ls="--", lw=1, label="real videos")
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.set_xlabel("window", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_xlim(-0.3, last + 0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    if any(curves):
        axes[0].legend(fontsize=8)
    write_with(path, lambda part: figure.savefig(part, format="png", dpi=110))

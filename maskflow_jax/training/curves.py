"""Training curves: the values of `metrics.jsonl` as panels and as a picture."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from absl import logging

from maskflow_jax.io.plots import Line, Panel, write_panels

METRICS, PICTURE = "metrics.jsonl", "curves.png"
_BIN = "validation/cross_entropy_t"
_MAX_POINTS = 1000  # largest number of points of a line; more cannot be distinguished


def read_metrics(workdir: str | Path) -> dict[str, Line]:
    """Reads the metrics of a run.

    Args:
        workdir: Folder of the run.

    Returns:
        Steps and values by name, such as "train/loss". Of a step that was written twice, the last
        value is used. Empty if there is no file.

    Raises:
        ValueError: if a line does not hold metrics; a truncated last line is ignored.
    """
    path = Path(workdir) / METRICS
    if not path.is_file():
        return {}
    found: dict[str, dict[int, float]] = {}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            step = row.pop("step")
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is damaged: {error}; remove it") from error
        for name, value in row.items():
            found.setdefault(name, {})[step] = value
    return {name: (sorted(at), [at[step] for step in sorted(at)]) for name, at in found.items()}


def training_panels(metrics: Mapping[str, Line]) -> list[Panel]:
    """Arranges metrics as panels; panels without any value are left out.

    Args:
        metrics: The result of `read_metrics`.

    Returns:
        The panels, in the order in which they are shown.
    """
    bins = sorted(name for name in metrics if name.startswith(_BIN))
    wanted = [
        ("training loss (weighted)", {"": "train/loss"}, {"log": True}),
        (
            "validation, nats per masked token",
            {"": "validation/cross_entropy"},
            {"log": True},
        ),
        (
            "validation by time (1: nothing masked)",
            {name.removeprefix(_BIN): name for name in bins},
            {"log": True, "ordered": True},
        ),
        (
            "accuracy on masked tokens",
            {"training": "train/accuracy", "validation": "validation/accuracy"},
            {},
        ),
        ("gradient norm", {"": "train/grad_norm"}, {"log": True}),
        ("steps per second", {"": "train/steps_per_second"}, {}),
    ]
    panels = []
    for title, names, options in wanted:
        lines = {label: _line(metrics[name]) for label, name in names.items() if name in metrics}
        if any(x for x, _ in lines.values()):
            panels.append(Panel(title=title, x_label="step", lines=lines, **options))
    return panels


def write_curves(workdir: str | Path) -> Path | None:
    """Draws the curves of a run as `curves.png`.

    Args:
        workdir: Folder of the run.

    Returns:
        Path of the picture; None if there are no values, or (with a log line) without matplotlib.
    """
    path = Path(workdir) / PICTURE
    panels = training_panels(read_metrics(workdir))
    if not panels:
        return None
    try:
        write_panels(path, panels)
    except ImportError as error:
        logging.info("no %s: %s", PICTURE, error)
        return None
    return path


def _line(line: Line) -> Line:
    """Returns the finite values of a line, at most `_MAX_POINTS` of them."""
    points = [(x, y) for x, y in zip(*line, strict=True) if math.isfinite(y)]
    points = points[:: -(-len(points) // _MAX_POINTS)] if points else []
    return [x for x, _ in points], [y for _, y in points]

"""One HTML file that shows a run or a folder of samples, and needs nothing beside it.

Videos and plots are embedded as data URIs, and the page forbids the browser to load anything else
(its Content-Security-Policy), so it can be opened from a disk or sent as an attachment. The text is
filled into the template `page.html.jinja` by Jinja, which escapes every value.
"""

import base64
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import logging

from maskflow_jax.evaluation import report
from maskflow_jax.generation import trained_model
from maskflow_jax.io.files import write_text
from maskflow_jax.io.plots import Line, Panel, panel_svg
from maskflow_jax.pages.contents import CONFIG, Contents, read_contents
from maskflow_jax.pages.players import Player, make_players, previews_of
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.curves import training_panels
from maskflow_jax.training.model_files import ModelFolder, open_model

TEMPLATE = "page.html.jinja"
MAX_PREVIEWS = 8


def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    model: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dataset: str | Path | None = None,
    max_samples: int = 60,
) -> Path:
    """Writes a page about a run, or about a folder of samples, results of jobs or evaluations.

    Args:
        folder: The folder; folders in it are searched for samples and receipts.
        out: The HTML file; `report.html` in the folder by default.
        model: The run, exported model or shipped name that made the samples, which shows them
            beside real videos; by default the folder itself, or one that it lies in.
        tokenizer: Folder of the tokenizer, if it is not where the model says.
        dataset: Folder of the dataset, likewise.
        max_samples: Largest number of samples that are shown, evenly chosen from all.

    Returns:
        The HTML file.

    Raises:
        FileNotFoundError: if there is nothing to show, or the model or the tokenizer that was named
            is missing.
        ValueError: if a file is damaged.
        ImportError: if Jinja or matplotlib is missing.

    Example:
        write_report("runs/maze")
    """
    template = _template()
    folder = Path(folder)
    contents = read_contents(folder, max_samples=max_samples)
    found = _find_model(folder, model) if contents.samples else None
    players = make_players(
        contents.samples, found, _find_tokenizer(found, tokenizer, contents), dataset
    )
    out = Path(out) if out is not None else folder / "report.html"
    text = template.render(
        contents=contents,
        curves=_images(training_panels(contents.metrics)),
        previews=previews_of(contents.previews, MAX_PREVIEWS),
        players=players,
        choices=_choices(players),
        drift=_images(drift_panels(contents)),
        table=_table(contents.receipts),
        version=metadata.version("maskflow_jax"),
    )
    write_text(out, text)
    logging.info("wrote %s, %.1f MB", out, len(text) / 1e6)
    return out


def _template() -> Any:
    """The template, compiled; every value that is filled in is escaped."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            "pages are made by Jinja, which is not installed: pip install 'maskflow_jax[report]' "
            "(or '.[report]' in a checkout)"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _find_model(folder: Path, model: str | Path | None) -> ModelFolder | None:
    """The model that was named, or the run that a folder is or lies in."""
    if model is not None:
        return open_model(model)
    own = folder.resolve()
    for place in (own, *own.parents[:3]):
        if (place / CONFIG).is_file() and (place / "checkpoints").is_dir():
            try:
                return open_model(place)
            except ValueError as error:  # of another version of this package
                logging.warning("samples are shown by their video files alone: %s", error)
    return None


def _find_tokenizer(
    model: ModelFolder | None, tokenizer: str | Path | None, contents: Contents
) -> Tokenizer | None:
    """The tokenizer that was named, or the model's where it is at hand."""
    if not contents.samples:
        return None
    if model is None:
        return None if tokenizer is None else Tokenizer.load(tokenizer)
    try:
        return trained_model.find_tokenizer(model, tokenizer)
    except FileNotFoundError as error:
        if tokenizer is not None:
            raise
        logging.warning("samples are shown by their video files alone: %s", error)
        return None


def drift_panels(contents: Contents) -> list[Panel]:
    """A panel for each metric of windows, with a line for each folder or receipt.

    Args:
        contents: What the page shows.
    """
    curves: dict[str, dict[str, Line]] = {}
    floors: dict[str, float] = {}
    for label, receipt in contents.receipts.items():
        for name, points in report.window_curves(receipt).items():
            line = ([point[0] for point in points], [point[1] for point in points])
            curves.setdefault(name, {})[label] = line
        floors |= report.floors_of(receipt["metrics"])
    for label, metrics in contents.drift.items():
        if label not in contents.receipts:  # whose windows are the same
            for name, line in metrics.items():
                curves.setdefault(name, {})[label] = line
    return [
        Panel(
            title=name.replace("_", " "),
            x_label="window",
            lines=lines,
            level=floors.get(name),
            level_label="real videos",
        )
        for name, lines in curves.items()
    ]


def _images(panels: Sequence[Panel]) -> list[tuple[str, str]]:
    """Titles and data URIs."""
    prefix = "data:image/svg+xml;base64,"
    return [(p.title, prefix + base64.b64encode(panel_svg(p).encode()).decode()) for p in panels]


def _choices(players: Sequence[Player]) -> dict[str, list[str]]:
    """What samples can be chosen by: the values of each property, where there are several."""
    values = {
        "task": {player.sample.task for player in players},
        "sampler": {player.sample.sampler for player in players},
        "seed": {player.sample.seed for player in players},
    }
    return {
        name: [str(value) for value in sorted(found, key=lambda v: (str(type(v)), v))]
        for name, found in values.items()
        if len(found) > 1
    }


def _table(receipts: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Receipts as a table: a heading, then a row for each metric."""
    if not receipts:
        return []
    rows = [["metric", *receipts, "real against real"]]
    for name in report.whole_metrics(receipts):
        found = [receipt["metrics"].get(name) for receipt in receipts.values()]
        floors = [metric["floor"] for metric in found if metric and "floor" in metric]
        cells = [report.as_cell(metric) for metric in found]
        rows.append([name, *cells, f"{floors[0]:.4g}" if floors else ""])
    return rows

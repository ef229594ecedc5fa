"""Tables of results: a list of evaluations in, receipts and a page of tables out.

A plan is a YAML file:

    about: Text for the top of the page.
    settings:                       # fields of EvaluationSettings, for all rows
      num_videos: 64
      seeds: [0, 1, 2]
    tables:
      samplers:
        shows: One sentence, written when the numbers are known.
        metrics: [maze_fd, maze_fd.5x, legal]
        rows:
          MGM, 20 steps: {model: maze, sampling: [sampler.name=mgm, sampler.num_steps=20]}
          FM, 250 steps: {model: maze, sampling: [sampler.name=fm, sampler.num_steps=250]}

A row is a model and the settings in which it differs; a table may have `settings` of its own, and
the changes of the sampling add up. An evaluation that several rows share is made once; finished
ones are not made again, and interrupted ones go on.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from absl import logging

from maskflow_jax.evaluation.receipts import read_receipt
from maskflow_jax.evaluation.settings import EvaluationSettings
from maskflow_jax.evaluator import RECEIPT, evaluate
from maskflow_jax.io.files import sha256_of_json, write_text

_MODEL = "model"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    Attributes:
        label: Its first cell.
        model: A run, an exported model or the name of a shipped one.
        settings: How it is evaluated.
    """

    label: str
    model: str
    settings: EvaluationSettings

    @property
    def key(self) -> str:
        """Text of everything that the plan says of the evaluation."""
        settings = dataclasses.asdict(self.settings)
        return sha256_of_json({"model": self.model, "settings": settings})[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of results.

    Attributes:
        name: Its heading.
        shows: What it shows, in a sentence.
        metrics: Names of the metrics of its columns.
        rows: Its rows.
    """

    name: str
    shows: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A page of tables.

    Attributes:
        about: Text for the top of the page.
        tables: Its tables.
    """

    about: str
    tables: tuple[Table, ...]


def read_plan(path: str | Path, names: Sequence[str] = ()) -> Plan:
    """Reads a plan.

    Args:
        path: The YAML file.
        names: Names of the tables to read; all by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, a table is unknown, or a row has settings that are unknown
            or impossible.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no plan at {path}")
    try:
        plan = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(plan, Mapping) or not isinstance(plan.get("tables"), Mapping):
        raise ValueError(f"{path} has no section `tables`, a mapping of names to tables")
    if unknown := [name for name in names if name not in plan["tables"]]:
        raise ValueError(f"{path} has no table {unknown[0]!r}; it has {', '.join(plan['tables'])}")
    chosen = names or plan["tables"]
    shared = plan.get("settings") or {}
    tables = (_read_table(name, plan["tables"][name], shared) for name in chosen)
    return Plan(about=(plan.get("about") or "").strip(), tables=tuple(tables))


def _read_table(name: str, table: Mapping[str, Any], shared: Mapping[str, Any]) -> Table:
    for part in ("metrics", "rows"):
        if not table.get(part):
            raise ValueError(f"table {name!r} has no {part}")
    rows = []
    for label, values in table["rows"].items():
        levels = (shared, table.get("settings") or {}, values)
        changes = [text for level in levels for text in level.get("sampling", ())]
        values = {**levels[0], **levels[1], **levels[2], "sampling": tuple(changes)}
        model = values.pop(_MODEL, None)
        if model is None:
            raise ValueError(f"row {label!r} of table {name!r} names no model")
        try:
            settings = EvaluationSettings(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"row {label!r} of table {name!r}: {error}") from error
        rows.append(Row(label=str(label), model=model, settings=settings))
    return Table(
        name=name,
        shows=table.get("shows") or "",
        metrics=tuple(table["metrics"]),
        rows=tuple(rows),
    )


def make_results(plan: Plan, receipts: str | Path, out: str | Path) -> str:
    """Makes the evaluations that are missing and writes the page of tables.

    The page is written after every evaluation, with what is there.

    Args:
        plan: The plan.
        receipts: Folder of the evaluations, one in a folder of its own each.
        out: The page, a file of markdown.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If a model is missing.
        ValueError: If a row cannot be evaluated.
    """
    receipts, page = Path(receipts), ""
    for table in plan.tables:
        for row in table.rows:
            folder = receipts / row.key
            if not (folder / RECEIPT).is_file():
                logging.info("%s: %s", table.name, row.label)
                # Those of the real videos are the same in every row.
                evaluate(row.model, folder, row.settings, features=receipts / "features")
            page = results_page(plan, receipts, Path(out).parent)
            write_text(out, page)
    return page


def results_page(plan: Plan, receipts: str | Path, folder: str | Path = ".") -> str:
    """The page of tables, of the receipts that are there.

    Args:
        plan: The plan.
        receipts: Folder of the evaluations.
        folder: Folder of the page; links to the receipts start there.
    """
    headings = [table.name for table in plan.tables]
    parts = ["# Results", "", *(f"- [{name}](#{_anchor(name)})" for name in headings), ""]
    parts += [plan.about, ""] if plan.about else []
    for table in plan.tables:
        paths = {row.label: Path(receipts) / row.key / RECEIPT for row in table.rows}
        paths = {label: path for label, path in paths.items() if path.is_file()}
        found = {label: read_receipt(path) for label, path in paths.items()}
        links = {label: os.path.relpath(path, folder) for label, path in paths.items()}
        parts += [f"## {table.name}", "", *([table.shows, ""] if table.shows else [])]
        parts += [*_lines(table, found, links), ""]
    return "\n".join(parts)


def _anchor(heading: str) -> str:
    """The name under which GitHub links to a heading."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c == "-")


def _lines(
    table: Table, found: Mapping[str, Mapping[str, Any]], links: Mapping[str, str]
) -> list[str]:
    """A line of markdown per row, the floor of the first as the last, and what the rows are of."""
    lines = ["| | evaluations | s a video | " + " | ".join(table.metrics) + " |"]
    lines.append("|---" * (len(table.metrics) + 3) + "|")
    for row in table.rows:
        receipt = found.get(row.label)
        label, cells = row.label, ["not made yet"] + [""] * (len(table.metrics) + 1)
        if receipt is not None:
            label = f"[{label}]({links[label]})"
            cells = [str(receipt["protocol"]["nfe"]), _seconds(receipt["speed"])]
            cells += [_cell(receipt["metrics"].get(name)) for name in table.metrics]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    first = next(iter(found.values()), None)
    if first is None:
        return lines
    metrics = [first["metrics"].get(name, {}) for name in table.metrics]
    floors = [f"{m['floor']:.3g}" if "floor" in m else "" for m in metrics]
    lines.append("| real videos | | | " + " | ".join(floors) + " |")
    settings = first["settings"]
    said = (
        f"{settings['num_videos']} videos for each of {len(settings['seeds'])} sampling seeds, of "
        f"{settings['length']} frames; mean ± standard error over seeds; "
        f"{first['device']['kind']}, jax {first['versions']['jax']}."
    )
    return [*lines, "", said]


def _cell(metric: Mapping[str, Any] | None) -> str:
    """Mean and standard error over the draws."""
    if metric is None:
        return ""
    if metric["std"] is None:
        return f"{metric['mean']:.3g}"
    return f"{metric['mean']:.3g} ± {metric['std'] / math.sqrt(len(metric['draws'])):.1g}"


def _seconds(speed: Mapping[str, Any]) -> str:
    """Seconds of one video within a batch."""
    return "" if speed["seconds"] is None else f"{speed['seconds'] / speed['batch_size']:.2g}"

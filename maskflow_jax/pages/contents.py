"""What there is to show of a folder: a run, samples, the results of jobs, evaluations."""

import csv
import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.evaluation.receipts import read_receipt
from maskflow_jax.generation.sample_folder import SETTINGS
from maskflow_jax.generation.sample_sets import PATTERN
from maskflow_jax.io.files import flat_settings, sha256_of
from maskflow_jax.io.plots import Line
from maskflow_jax.training.curves import METRICS, read_metrics

CONFIG, RECEIPT, DRIFT, PREVIEWS = "config.json", "receipt.json", "drift.csv", "previews"
_SKIPPED = ("checkpoints", PREVIEWS, "tokenizer", "data")
_MAX_TEXT = 160  # characters of a list that are shown
_DEPTH = 3  # of folders that are searched below the one that is named


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A stored sample.

    Attributes:
        name: Path from the folder that is shown, without suffix.
        path: File of its tokens.
        tokens: int32 [L, h, w].
        known: Tokens that were given, bool [L, h, w].
        fps: Frames per second.
        tokenizer: SHA-256 of the tokenizer that decodes it.
        task: Its task; empty where nothing says so, as `sampler` is.
        sampler: Name of its sampler.
        seed: Seed of its folder; None where nothing says so.
    """

    name: str
    path: Path
    tokens: np.ndarray
    known: np.ndarray
    fps: float
    tokenizer: str
    task: str
    sampler: str
    seed: int | None

    @property
    def video(self) -> Path:
        """File of its pixels, which may not be there."""
        return self.path.with_suffix(".mp4")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """What a page shows; all but the title may be empty.

    Attributes:
        title: Name of the folder.
        settings: Settings by the name of their file, with dotted names.
        hashes: SHA-256 by the name of the file.
        metrics: Training metrics: steps and values by name.
        previews: Preview videos by step.
        samples: The samples that are shown.
        num_samples: Number of samples that there are.
        drift: For each folder that has drift curves, values by metric and window.
        receipts: Receipts by the folder that they lie in.
    """

    title: str
    settings: Mapping[str, Mapping[str, str]]
    hashes: Mapping[str, str]
    metrics: Mapping[str, Line]
    previews: Mapping[int, Path]
    samples: Sequence[Sample]
    num_samples: int
    drift: Mapping[str, Mapping[str, Line]]
    receipts: Mapping[str, Mapping[str, Any]]


def read_contents(folder: str | Path, *, max_samples: int) -> Contents:
    """Reads what a folder holds.

    Args:
        folder: A run, a folder of samples, of results of jobs or of evaluations, or one of several.
        max_samples: Number of samples that are read, taken evenly from all.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing in it that can be shown.
        ValueError: if a file is damaged, naming it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}; name a run or a folder of samples")
    places = sorted(_folders(folder, _DEPTH))
    files = [path for place in places for path in sorted(place.glob(PATTERN))]
    chosen = np.linspace(0, len(files) - 1, min(max_samples, len(files))).round().astype(int)
    settings = {
        _name(place / file, folder): _read_json(place / file)
        for place in places
        for file in (CONFIG, SETTINGS)
        if (place / file).is_file() and (file == SETTINGS or place == folder)
    }
    named = [file for file in (CONFIG, METRICS) if (folder / file).is_file()]
    contents = Contents(
        title=folder.resolve().name,
        settings={
            name: {key: _shown(value) for key, value in flat_settings(values).items()}
            for name, values in settings.items()
        },
        hashes={name: sha256_of(folder / name) for name in [*named, *_manifests(folder)]},
        metrics=read_metrics(folder),
        previews={
            int(path.stem): path
            for path in sorted((folder / PREVIEWS).glob("*.mp4"))
            if path.stem.isdigit()
        },
        samples=[_read_sample(files[i], folder, settings) for i in chosen],
        num_samples=len(files),
        drift={
            _name(place, folder): _read_drift(place / DRIFT)
            for place in places
            if (place / DRIFT).is_file()
        },
        receipts={
            _name(place, folder): read_receipt(place / RECEIPT)
            for place in places
            if (place / RECEIPT).is_file()
        },
    )
    shown = (contents.metrics, contents.previews, files, contents.drift, contents.receipts)
    if not any(shown):
        raise FileNotFoundError(
            f"there is nothing to show in {folder}: expected the folder of a run ({METRICS}), of "
            f"samples ({PATTERN}) or of an evaluation ({RECEIPT})"
        )
    return contents


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """A folder and those below it that may hold something to show."""
    yield folder
    if depth:
        for entry in os.scandir(folder):
            if entry.is_dir() and not entry.name.startswith(".") and entry.name not in _SKIPPED:
                yield from _folders(Path(entry.path), depth - 1)


def _manifests(folder: Path) -> list[str]:
    return [path.name for path in sorted(folder.glob("manifest.jsonl"))]


def _name(path: Path, folder: Path) -> str:
    """A path from the folder that is shown."""
    name = path.relative_to(folder).as_posix()
    return folder.resolve().name if name == "." else name


def _shown(value: Any) -> str:
    """A setting as text; of a long list only its length and its beginning."""
    text = str(value)
    if isinstance(value, list) and len(text) > _MAX_TEXT:
        return f"{len(value)} values: {text[:_MAX_TEXT]}..."
    return text


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}; restore it or remove it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings; restore it or remove it")
    return values


def _read_sample(path: Path, folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> Sample:
    own = settings.get(_name(path.parent / SETTINGS, folder), {})
    try:
        with np.load(path) as arrays:
            return Sample(
                name=_name(path.with_suffix(""), folder),
                path=path,
                tokens=arrays["tokens"],
                known=arrays["known"].astype(bool),
                fps=float(arrays["fps"]),
                tokenizer=str(arrays["tokenizer"]),
                task=str(own.get("task", "")),
                sampler=str(own.get("sampling", {}).get("sampler", {}).get("name", "")),
                seed=own.get("seed"),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no sample or damaged: {error}; sample it again") from error


def _read_drift(path: Path) -> dict[str, Line]:
    """The columns of a table of windows."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, Line] = {}
    try:
        for name in rows[0] if rows else ():
            points = [(int(row["window"]), float(row[name])) for row in rows if row[name]]
            if name != "window" and points:
                columns[name] = ([x for x, _ in points], [y for _, y in points])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of windows: {error}; write it again") from error
    return columns

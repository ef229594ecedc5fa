"""A trained model as a folder: its averaged weights, its config and what was measured.

`model.safetensors` holds the parameters under dotted paths in half precision, `config.json` the
resolved config of the run that made them, and `card.md` says what they are. A folder is read
without the training code, and a few megabytes of weights can ship with the package: `PRETRAINED`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

PRETRAINED = Path(__file__).parent / "pretrained"
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_model(directory: Path, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Writes a model.

    Args:
        directory: The folder, made if missing.
        config: Resolved config, JSON values only.
        params: Nested dict of parameters.

    Raises:
        ValueError: If a parameter is too large for half precision.
    """
    with np.errstate(over="ignore"):  # what overflows is named below
        flat = {name: np.asarray(leaf, np.float16) for name, leaf in _flatten(params)}
    if broken := [name for name, leaf in flat.items() if not np.isfinite(leaf).all()]:
        raise ValueError(
            f"{', '.join(broken)} cannot be stored in half precision: values above 65504, or none"
        )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(flat, directory / f"{WEIGHTS}.part")
    (directory / f"{CONFIG}.part").write_text(json.dumps(config, indent=2) + "\n")
    for name in (WEIGHTS, CONFIG):
        (directory / f"{name}.part").replace(directory / name)


def find_model(path: str | Path) -> Path | None:
    """The folder of a model by its path or by the name of a shipped one; None if there is none."""
    for directory in (Path(path), PRETRAINED / str(path)):
        if (directory / WEIGHTS).is_file() and (directory / CONFIG).is_file():
            return directory
    return None


def read_model(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a model.

    Args:
        directory: What `find_model` returned.

    Returns:
        The config, and the parameters as a nested dict of float32 arrays.

    Raises:
        ValueError: If a file is damaged.
    """
    try:
        config = json.loads((directory / CONFIG).read_text())
        flat = load_file(directory / WEIGHTS)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the model at {directory} is damaged ({error}): copy it or install the package again"
        ) from error
    params: dict[str, Any] = {}
    for name, leaf in flat.items():
        *path, last = name.split(".")
        place = params
        for part in path:
            place = place.setdefault(part, {})
        place[last] = leaf.astype(np.float32)
    return config, params


def _flatten(params: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Pairs of a dotted path and a parameter."""
    pairs = []
    for name, value in params.items():
        deeper = isinstance(value, Mapping)
        pairs += _flatten(value, f"{path}{name}.") if deeper else [(f"{path}{name}", value)]
    return pairs

"""From a resolved config to the objects it names, and the folder that belongs to it.

A resolved config is a plain dict of JSON values, an experiment file's sections plus `tokenizer`,
the identity of the tokenizer that made the data. It is written to `workdir/config.json` when a run
starts and into every checkpoint, so that a run can be resumed and sampled without the experiment
file.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from maskflow_jax.flow.frame_times import FRAME_TIMES
from maskflow_jax.flow.schedules import make_schedule
from maskflow_jax.flow.weighting import WEIGHTINGS
from maskflow_jax.models.latte import Latte, LatteConfig, latte_config
from maskflow_jax.training.steps import Flow

# Sections that say how long a run lasts, where it runs and what it shows, not what it learns.
FREE_SECTIONS = ("run", "mesh", "sampling")


def resolve(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Turns an experiment's settings into JSON values and adds the tokenizer's identity."""
    return json.loads(json.dumps({**config, "tokenizer": dict(tokenizer)}))


def make_latte_config(config: Mapping[str, Any]) -> LatteConfig:
    """The model of a resolved config: a named `variant`, or explicit sizes."""
    settings = dict(config["model"])
    codebook_size = config["tokenizer"]["codebook_size"]
    variant = settings.pop("variant", None)
    if variant is not None:
        return latte_config(variant, codebook_size=codebook_size, **settings)
    return LatteConfig(codebook_size=codebook_size, **settings)


def model_builder(config: Mapping[str, Any]) -> Callable[[nnx.Rngs], Latte]:
    """The function that builds the model of a resolved config from random streams."""
    latte = make_latte_config(config)
    return lambda rngs: Latte(latte, rngs)


def make_flow(config: Mapping[str, Any]) -> Flow:
    """The training objective of a resolved config.

    Raises:
        ValueError: if a schedule, time distribution or weight is unknown.
    """
    settings = config["flow"]
    schedule = make_schedule(**settings["schedule"])
    weighting = dict(settings["weighting"])
    weigh = _look_up(WEIGHTINGS, weighting.pop("name"), "weighting")
    return Flow(
        schedule=schedule,
        frame_times=_look_up(FRAME_TIMES, settings["frame_times"], "frame_times"),
        weigh=functools.partial(weigh, schedule, **weighting),
        mask_id=config["tokenizer"]["codebook_size"],
        mask_ce=settings["mask_ce"],
        frame_block=settings["frame_block"],
    )


def claim_workdir(workdir: Path, config: Mapping[str, Any]) -> None:
    """Makes a folder this config's, or checks that it already is.

    Args:
        workdir: folder of the run, created if missing.
        config: resolved config. Sections in `FREE_SECTIONS` may change between restarts.

    Raises:
        ValueError: naming every setting that differs, if the folder belongs to another config.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    if path.is_file():
        differences = list(_differences(_fixed(read_config(workdir)), _fixed(config)))
        if differences:
            raise ValueError(
                f"{workdir} belongs to another config; choose another --workdir, or restore:\n  "
                + "\n  ".join(differences)
            )
    part = path.with_suffix(".part")
    part.write_text(json.dumps(config, indent=2) + "\n")
    part.replace(path)


def read_config(workdir: Path) -> dict[str, Any]:
    """Reads the config of a run.

    Raises:
        FileNotFoundError: if the folder is no run's.
        ValueError: if the file is damaged.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} is not a run's folder (no config.json); train one with "
            "python -m launch.train, or correct --workdir"
        )
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged ({error}); the same settings are stored in the checkpoints, under "
            f"{workdir}/checkpoints/STEP/config"
        ) from error


def _look_up(registry: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}; choose one of {', '.join(registry)}")
    return registry[name]


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: section for name, section in config.items() if name not in FREE_SECTIONS}


def _differences(old: Any, new: Any, path: str = ""):
    """Yields a line for every leaf that differs between two nested dicts."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{path}.{name}" if path else name
            yield from _differences(old.get(name, "(none)"), new.get(name, "(none)"), inner)
    elif old != new:
        yield f"{path}: {old!r} in the folder, {new!r} in this config"

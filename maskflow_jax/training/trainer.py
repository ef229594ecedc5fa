"""From a resolved config to the objects it names, and the folder that belongs to it.

A resolved config is a plain dict of JSON values, an experiment file's sections plus `tokenizer`,
the identity of the tokenizer that made the data. It is written to `workdir/config.json` when a run
starts and into every checkpoint, so that a run can be resumed and sampled without the experiment
file.
"""

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from maskflow_jax.flow.frame_times import FRAME_TIMES
from maskflow_jax.flow.schedules import SCHEDULES
from maskflow_jax.flow.weighting import WEIGHTINGS
from maskflow_jax.models.latte import Latte, LatteConfig, latte_config
from maskflow_jax.training.steps import Flow

# What a named variant decides.
VARIANT_SETTINGS = ("depth", "width", "num_heads", "patch_size")

# The keys of the sections whose keys are not the arguments of a function or class.
SECTIONS = {
    "data": ("directory", "tokenizer", "clip_frames", "batch_size", "num_workers", "source"),
    "flow": ("schedule", "frame_times", "weighting", "mask_ce", "frame_block"),
    "sampling": ("context_frames", "sampler"),
}
NAMES = ("seed", "weights_format", "model", "optimizer", "run", "mesh", "tokenizer", *SECTIONS)

# Raised when saved weights would be read as something else: 2 has queries, keys and values head by
# head.
WEIGHTS_FORMAT = 2

# Settings that say how long a run lasts, where it runs and what it shows, not what it learns. The
# places of dataset and tokenizer are free because their contents are checked.
FREE_SETTINGS = re.compile(
    r"(run|mesh|sampling)\.|data\.(directory|tokenizer|num_workers)$|tokenizer\.name$"
    r"|model\.(remat|attention)$|optimizer\.(micro_batches|decay_steps|final_learning_rate_fraction)$|flow\.frame_block$"
)


def resolve(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Turns an experiment's settings into JSON values, and adds the tokenizer and the format."""
    added = {"weights_format": WEIGHTS_FORMAT, "tokenizer": dict(tokenizer)}
    return json.loads(json.dumps({**config, **added}))


def check_weights_format(config: Mapping[str, Any]) -> None:
    """Checks that a run's weights are what they are taken for.

    Raises:
        ValueError: if an earlier version of this package saved them in another order.
    """
    found = config.get("weights_format", 1)
    if found != WEIGHTS_FORMAT:
        raise ValueError(
            f"the run's weights have format {found}, this version reads {WEIGHTS_FORMAT}; export "
            "them with the version that saved them (launch.export_checkpoint) and import the file "
            "with this one, or train anew"
        )


def make_latte_config(config: Mapping[str, Any]) -> LatteConfig:
    """The model of a resolved config: a named `variant`, or else explicit sizes.

    Raises:
        ValueError: if the variant, a setting or a size is none that can be built.
    """
    settings = dict(config["model"])
    if "codebook_size" in settings:
        raise ValueError("model has no 'codebook_size': it is the tokenizer's; leave it out")
    settings["codebook_size"] = config["tokenizer"]["codebook_size"]
    variant = settings.pop("variant", None)
    if variant is not None:
        named = latte_config(variant, codebook_size=settings["codebook_size"])
        settings |= {name: getattr(named, name) for name in VARIANT_SETTINGS}
    check_settings("model", LatteConfig, settings)
    return LatteConfig(**settings)


def model_builder(config: Mapping[str, Any]) -> Callable[[nnx.Rngs], Latte]:
    """The function that builds the model of a resolved config from random streams."""
    latte = make_latte_config(config)
    return lambda rngs: Latte(latte, rngs)


def make_flow(config: Mapping[str, Any]) -> Flow:
    """The training objective of a resolved config.

    The parameters of a schedule or a weighting stand in a section of its name, so that choosing
    another on the command line needs no other change.

    Raises:
        ValueError: if a schedule, time distribution, weighting or a parameter is unknown.
    """
    settings = config["flow"]
    schedule = _look_up(SCHEDULES, settings["schedule"], "schedule")
    schedule_parameters = settings.get(settings["schedule"], {})
    check_settings(f"schedule {settings['schedule']}", schedule, schedule_parameters)
    schedule = schedule(**schedule_parameters)
    weigh = _look_up(WEIGHTINGS, settings["weighting"], "weighting")
    weighting_parameters = settings.get(settings["weighting"], {})
    check_settings(f"weighting {settings['weighting']}", weigh, weighting_parameters)
    return Flow(
        schedule=schedule,
        frame_times=_look_up(FRAME_TIMES, settings["frame_times"], "frame_times"),
        weigh=functools.partial(weigh, schedule, **weighting_parameters),
        mask_id=config["tokenizer"]["codebook_size"],
        mask_ce=settings["mask_ce"],
        frame_block=settings["frame_block"],
    )


def check_config(config: Mapping[str, Any]) -> None:
    """Checks that a resolved config has all sections, and none of them a key that nothing reads.

    Raises:
        ValueError: naming all sections and keys that are unknown or missing.
    """
    problems = _key_problems("the config", config, NAMES)
    for section, keys in SECTIONS.items():
        extra = (*SCHEDULES, *WEIGHTINGS) if section == "flow" else ()
        problems += _key_problems(section, config.get(section, {}), keys, optional=extra)
    if problems:
        raise ValueError("; ".join(problems))


def _key_problems(
    section: str,
    settings: Mapping[str, Any],
    keys: Iterable[str],
    *,
    optional: Iterable[str] = (),
) -> list[str]:
    unknown = [name for name in settings if name not in (*keys, *optional)]
    missing = [name for name in keys if name not in settings]
    problems = [f"{section} has no {name!r}, choose from {', '.join(keys)}" for name in unknown]
    return problems + [f"{section} lacks {name!r}" for name in missing]


def check_settings(section: str, make: Callable, settings: Mapping[str, Any]) -> None:
    """Checks that settings are keyword arguments of the function or class they are for.

    Raises:
        ValueError: naming the settings that do not exist or are missing, and all there are.
    """
    parameters = inspect.signature(make).parameters.values()
    known = {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}
    problems = [f"has no {name!r}" for name in settings if name not in known]
    problems += [f"lacks {name!r}" for name in known if known[name] and name not in settings]
    if problems:
        raise ValueError(f"{section} {', '.join(problems)}; choose from {', '.join(known)}")


def claim_workdir(workdir: Path, config: Mapping[str, Any]) -> None:
    """Makes a folder this config's, or checks that it already is.

    A folder without a checkpoint is free: its config may have been corrected after it failed.

    Args:
        workdir: folder of the run, created if missing.
        config: resolved config. `FREE_SETTINGS` may change between restarts.

    Raises:
        ValueError: naming every setting that differs, if the folder belongs to another config.
    """
    path = workdir / "config.json"
    begun = any(step.name.isdigit() for step in (workdir / "checkpoints").glob("*"))
    if begun and not path.is_file():
        raise ValueError(
            f"{workdir} has checkpoints but no config.json to compare with; restore it from "
            f"{workdir}/checkpoints/STEP/config/metadata, or choose another --workdir"
        )
    if begun:
        old, new = dict(_leaves(read_config(workdir))), dict(_leaves(config))
        differences = [
            f"{name}: {old.get(name, '(none)')!r} in the folder, {new.get(name, '(none)')!r} in "
            "this config"
            for name in sorted(old.keys() | new.keys())
            if old.get(name, "(none)") != new.get(name, "(none)") and not FREE_SETTINGS.match(name)
        ]
        if differences:
            raise ValueError(
                f"{workdir} belongs to another config; choose another --workdir, or restore:\n  "
                + "\n  ".join(differences)
            )
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
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
            f"{workdir}/checkpoints/STEP/config/metadata"
        ) from error


def _look_up(registry: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}; choose one of {', '.join(registry)}")
    return registry[name]


def _leaves(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the settings of nested dicts under dotted names."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value

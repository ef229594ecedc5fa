"""The network, the noise schedule and the training objective that a config describes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from maskflow_jax.config import Config
from maskflow_jax.flow.frame_times import FRAME_TIMES
from maskflow_jax.flow.schedules import SCHEDULES, Schedule
from maskflow_jax.flow.weighting import WEIGHTINGS
from maskflow_jax.models.conditioning import Conditions
from maskflow_jax.models.latte import Latte, LatteConfig, latte_config
from maskflow_jax.training.steps import Flow

_DECIDED_BY_VARIANT = ("depth", "width", "num_heads", "patch_size")


def make_latte_config(config: Config) -> LatteConfig:
    """Returns the sizes of the network: those of a named variant, or else explicit ones.

    Args:
        config: The config of a run, with its tokenizer.

    Returns:
        The config of the network.

    Raises:
        ValueError: if the variant is unknown or the sizes cannot be built.
    """
    settings = {field.name: getattr(config.model, field.name) for field in _fields(config.model)}
    variant = settings.pop("variant")
    codebook_size = config.tokenizer.codebook_size
    if variant is not None:
        named = latte_config(variant, codebook_size=codebook_size)
        settings |= {name: getattr(named, name) for name in _DECIDED_BY_VARIANT}
    conditions = make_conditions(config)
    return LatteConfig(codebook_size=codebook_size, conditions=conditions, **settings)


def make_conditions(config: Config) -> Conditions | None:
    """Returns the conditions (labels or captions) of the network of a config, or None.

    Raises:
        ValueError: if the config has no record of the labels or of the encoder of captions.
    """
    scenes, record = config.scenes, config.conditions
    if not scenes.active:
        return None
    if record is None:
        raise ValueError(
            f"scenes.condition is {scenes.condition!r}, and nothing says what the labels or "
            "captions are; that is read from a dataset with scenes (data.directory)"
        )
    sizes = {
        "num_labels": len(record.names) if record.kind == "labels" else 0,
        "num_words": len(record.names) if record.kind == "words" else 0,
        "text_width": record.width,
    }
    return Conditions(**sizes, text_update=scenes.text_update, scope=scenes.scope)


def model_builder(config: Config) -> Callable[[nnx.Rngs], Latte]:
    """Returns the function that builds the network of a config from random streams."""
    latte = make_latte_config(config)
    return lambda rngs: Latte(latte, rngs)


def make_noise_schedule(config: Config) -> Schedule:
    """Returns the noise schedule of a config.

    Raises:
        ValueError: if it is unknown.
    """
    flow = config.flow
    parameters = {"sigmoid": flow.sigmoid, "cubic": flow.cubic}.get(flow.schedule)
    arguments = dataclasses.asdict(parameters) if parameters is not None else {}
    return _look_up(SCHEDULES, flow.schedule, "flow.schedule")(**arguments)


def make_flow(config: Config) -> Flow:
    """Returns the training objective of a config.

    Raises:
        ValueError: if a schedule, a distribution of times or a weighting is unknown.
    """
    flow, schedule = config.flow, make_noise_schedule(config)
    weigh = _look_up(WEIGHTINGS, flow.weighting, "flow.weighting")
    parameters = dataclasses.asdict(flow.snr) if flow.weighting == "snr" else {}
    return Flow(
        schedule=schedule,
        frame_times=_look_up(FRAME_TIMES, flow.frame_times, "flow.frame_times"),
        weigh=functools.partial(weigh, schedule, **parameters),
        mask_id=config.tokenizer.codebook_size,
        mask_ce=flow.mask_ce,
        # A likelihood bound needs the sum over masked positions over a fixed number of positions.
        mean_over="all" if flow.weighting == "elbo" else "masked",
        frame_block=flow.frame_block,
        context_probability=config.scenes.context_probability,
        drop_probability=config.scenes.drop_probability,
    )


def _fields(settings: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(settings)


def _look_up(registry: Mapping[str, Any], name: str, setting: str) -> Any:
    if name not in registry:
        raise ValueError(f"unknown {setting} {name!r}; choose one of {', '.join(registry)}")
    return registry[name]

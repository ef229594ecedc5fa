"""Configs as ml_collections and as JSON: defaults, strict reading, and comparison."""

import ast
import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from maskflow_jax.config import FORMAT, Config, SamplingConfig
from maskflow_jax.io import files
from maskflow_jax.io.settings import SettingsError, read_settings, unknown_name
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.sampling.types import Sampler

PLACED_BY_THE_RUN = ("tokenizer", "conditions", "format")


def default_config() -> ml_collections.ConfigDict:
    """Returns all settings with their defaults, as config files and command lines change them.

    A setting that may be None has its type, so that it can be set on a command line.
    """
    config = _as_config_dict(Config())
    for name in PLACED_BY_THE_RUN:
        del config[name]
    return config


def sampler_settings(sampler: Sampler) -> ml_collections.ConfigDict:
    """Returns a sampler as it stands in a config: its name and its own settings."""
    config = _as_config_dict(sampler)
    config.name = sampler.name
    return config


def read_config(values: Mapping[str, Any]) -> Config:
    """Reads a config strictly.

    Args:
        values: Nested mappings: a ConfigDict, or the contents of a run's config.json.

    Raises:
        SettingsError: naming every setting that is unknown, missing or out of range, each unknown
            one with the nearest name that exists.
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    if values.get("format", FORMAT) != FORMAT:
        raise SettingsError(
            f"the config has format {values['format']}, this version reads {FORMAT}; use the "
            "version of maskflow_jax that wrote it"
        )
    return read_settings(Config, values, readers={Sampler: read_sampler})


def read_sampler(values: Mapping[str, Any], section: str = "sampler") -> Sampler:
    """Reads a sampler: its name and its own settings.

    Args:
        values: `{"name": ...}` with settings of that sampler; what is left out has its default.
        section: Dotted name, for errors.

    Raises:
        SettingsError: if the sampler or a setting is unknown, or a value is out of range.
    """
    if dataclasses.is_dataclass(values):
        return values
    values = dict(values)
    name = values.pop("name", None)
    if name not in SAMPLERS:
        raise SettingsError(
            f"unknown sampler {name!r} in {section}.name; choose one of {', '.join(SAMPLERS)}"
        )
    known = {field.name for field in dataclasses.fields(SAMPLERS[name])}
    if unknown := [unknown_name(f"{section}.{key}", known) for key in values if key not in known]:
        raise SettingsError(f"sampler {name}: " + "; ".join(unknown))
    return read_settings(SAMPLERS[name], values, section=section)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config, or any settings in it, as nested JSON values."""
    result = {}
    for field in dataclasses.fields(config):
        result[field.name] = _to_json(getattr(config, field.name))
    return {"name": config.name, **result} if type(config) in SAMPLERS.values() else result


def differences(old: Config, new: Config) -> list[str]:
    """Names the settings that differ and may not change when a run is restarted.

    Returns:
        One line for each: its dotted name, its old and its new value.
    """
    text = "{}: {} in the folder, {} in this config"
    return files.differences(_fixed_settings(old), _fixed_settings(new), text)


def _fixed_settings(config: Config) -> dict[str, Any]:
    """The settings that may not change when a run is restarted, by their dotted names."""
    free = _free_names(Config)
    return {
        name: value
        for name, value in files.flat_settings(to_dict(config)).items()
        if not any(name == each or name.startswith(f"{each}.") for each in free)
    }


def _free_names(kind: type, path: str = "") -> list[str]:
    """Dotted names of the settings that may change when a run is restarted."""
    names, hints = [], typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if field.metadata.get("free"):
            names.append(f"{path}{field.name}")
        else:
            inner = [each for each in kinds if dataclasses.is_dataclass(each)]
            names += [name for each in inner for name in _free_names(each, f"{path}{field.name}.")]
    return names


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(each) for each in value]
    return value


def _as_config_dict(settings: Any) -> ml_collections.ConfigDict:
    config, hints = ml_collections.ConfigDict(), typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            sampler = type(value) in SAMPLERS.values()
            config[field.name] = sampler_settings(value) if sampler else _as_config_dict(value)
        elif value is None:
            kind = next(kind for kind in typing.get_args(hint) if kind is not type(None))
            config[field.name] = config_dict.placeholder(kind)
        elif isinstance(value, Mapping):
            config[field.name] = ml_collections.ConfigDict(dict(value))
        else:
            config[field.name] = value
    return config


def apply_arguments(
    config: ml_collections.ConfigDict,
    arguments: str,
    **more: Callable[[ml_collections.ConfigDict], None],
) -> ml_collections.ConfigDict:
    """Applies the arguments that follow the colon in `configs/maze.py:constant,smoke`.

    Args:
        config: The config; changed in place.
        arguments: Names separated by commas, of `more` and of these: `constant` is the
            constant-masking baseline, `time_independent` a network without time conditioning,
            `isolated` one whose clean frames attend to clean frames only, which makes
            `context_cache` exact.
        **more: Further arguments of the file, each a function that changes the config.

    Returns:
        The config.

    Raises:
        ValueError: if an argument is unknown, or two exclude each other.
    """
    chosen = [name for name in arguments.split(",") if name]
    known = {**_ARGUMENTS, **more}
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"unknown arguments {unknown}; choose from {', '.join(sorted(known))}")
    if {"constant", "isolated"} <= set(chosen):
        raise ValueError("constant masking has no clean frames to isolate; choose one of the two")
    for name, change in known.items():
        if name in chosen:
            change(config)
    return config


def _constant(config: ml_collections.ConfigDict) -> None:
    config.flow.frame_times = "constant"


def _isolated(config: ml_collections.ConfigDict) -> None:
    config.flow.frame_times = "frame_clean"
    config.model.isolated_context = True


def _time_independent(config: ml_collections.ConfigDict) -> None:
    config.model.time_conditioning = False


_ARGUMENTS = {
    "constant": _constant,
    "isolated": _isolated,
    "time_independent": _time_independent,
}


def change_sampling(sampling: SamplingConfig, changes: Iterable[str]) -> SamplingConfig:
    """Changes settings of the section `sampling` by text, as command lines do.

    Args:
        sampling: The settings.
        changes: "NAME=VALUE" each, with dotted names such as "sampler.num_steps=10". A change of
            "sampler.name" starts from the defaults of that sampler.

    Raises:
        ValueError: if a change has another form, or a setting is unknown or out of range.
    """
    values = to_dict(sampling)
    pairs = [change.partition("=") for change in changes]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise SettingsError(f"{wrong[0]!r} is not NAME=VALUE, such as sampler.num_steps=10")
    for name, _, text in pairs:
        if name == "sampler.name":
            values["sampler"] = {"name": text}
    for name, _, text in pairs:
        *sections, last = name.split(".")
        place = values
        for section in sections:
            if not isinstance(place.get(section), dict):
                raise SettingsError(unknown_name(name, place))
            place = place[section]
        place[last] = _literal(text)
    readers = {Sampler: read_sampler}
    return read_settings(SamplingConfig, values, section="sampling", readers=readers)


def replace_sampling(sampling: SamplingConfig, changes: Mapping[str, Any]) -> SamplingConfig:
    """Changes settings of the section `sampling` by nested values, as JSON files do.

    Args:
        sampling: The settings.
        changes: Values by name, such as `{"stride": 1, "decoding": {"top_k": 10}}`; what is left
            out stays. A sampler with a name starts from its own defaults.

    Raises:
        SettingsError: if a setting is unknown or out of range.
    """
    values = to_dict(sampling)
    for name, value in changes.items():
        partly = isinstance(value, Mapping) and isinstance(values.get(name), dict)
        partly = partly and not (name == "sampler" and "name" in value)
        values[name] = {**values[name], **value} if partly else value
    readers = {Sampler: read_sampler}
    return read_settings(SamplingConfig, values, section="sampling", readers=readers)


def _literal(text: str) -> Any:
    """A number, True, False or None as Python writes them; anything else is a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

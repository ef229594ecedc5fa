"""Form fields made from dataclasses of settings, and settings read back from a form.

A setting that is added to a sampler appears in the form by itself, with the text of its docstring.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from maskflow_jax.config import SamplingConfig
from maskflow_jax.config_files import read_sampler
from maskflow_jax.io.settings import read_settings
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.sampling.samplers.fm import TRANSITIONS
from maskflow_jax.sampling.samplers.mgm import COUNTS, NOISES
from maskflow_jax.sampling.samplers.remdm import REMASKING
from maskflow_jax.sampling.types import Sampler

CHOICES = {"counts": COUNTS, "noise": NOISES, "transition": TRANSITIONS, "remask": REMASKING}
SECTIONS = ("decoding", "guidance")
LEFT_OUT = ("captions",)  # guidance by captions stands beside the captions
_KINDS = {int: "whole", float: "number", bool: "switch", str: "choice"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """One entry of a form.

    Attributes:
        section: What the setting belongs to: the name of a sampler, "window", "decoding" or
            "guidance".
        name: Name of the setting.
        kind: "whole" or "number", "switch", or "choice".
        default: Value to start from.
        optional: Whether it may be left empty, which stands for None.
        choices: The names to choose from.
        info: What the setting means.
    """

    section: str
    name: str
    kind: str
    default: Any
    optional: bool = False
    choices: tuple[str, ...] = ()
    info: str = ""


def form_fields(sampling: SamplingConfig) -> list[Field]:
    """Returns the fields of all samplers and of what is around them.

    Args:
        sampling: The model's own settings, which are the defaults; a sampler that is not the
            model's has its own.
    """
    fields = []
    for name, kind in SAMPLERS.items():
        own = sampling.sampler.name == name
        fields += fields_of(sampling.sampler if own else kind(), name)
    fields += fields_of(sampling, "window")
    for section in SECTIONS:
        fields += fields_of(getattr(sampling, section), section)
    return fields


def fields_of(settings: Any, section: str) -> list[Field]:
    """Returns a field for each plain setting of a dataclass; the dataclasses in it are left out.

    Args:
        settings: An instance, whose values are the defaults.
        section: What the settings belong to.

    Raises:
        TypeError: if a setting has a type for which there is no field.
    """
    hints, texts, fields = typing.get_type_hints(type(settings)), descriptions(settings), []
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = [_KINDS[kind] for kind in kinds if kind in _KINDS]
        value = getattr(settings, field.name)
        if field.name in LEFT_OUT or dataclasses.is_dataclass(value):
            continue
        if len(plain) != 1 or (plain == ["choice"] and field.name not in CHOICES):
            raise TypeError(f"there is no field for the setting {field.name} of {section}: {hint}")
        fields.append(
            Field(
                section=section,
                name=field.name,
                kind=plain[0],
                default=value,
                optional=type(None) in kinds,
                choices=tuple(CHOICES[field.name]) if plain == ["choice"] else (),
                info=texts.get(field.name, ""),
            )
        )
    return fields


def descriptions(settings: Any) -> dict[str, str]:
    """Returns what the docstring of a dataclass says about each of its attributes."""
    text = (type(settings).__doc__ or "").partition("Attributes:")[2]
    text = re.split(r"\n\s*\n", text)[0]
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.replace("`", "").split()) for name, words in found}


def read_form(sampler: str, fields: Sequence[Field], values: Sequence[Any]) -> SamplingConfig:
    """Reads the settings of a form.

    Args:
        sampler: Name of the chosen sampler; the fields of the others are not looked at.
        fields: The fields.
        values: Their values, in the same order.

    Raises:
        ValueError: naming every setting that is missing or out of range.
    """
    sections: dict[str, dict[str, Any]] = {}
    for field, value in zip(fields, values, strict=True):
        sections.setdefault(field.section, {})[field.name] = _value(field, value)
    settings = {
        **sections["window"],
        **{section: sections[section] for section in SECTIONS},
        "sampler": {"name": sampler, **sections.get(sampler, {})},
    }
    return read_settings(SamplingConfig, settings, readers={Sampler: read_sampler})


def shown_value(field: Field) -> Any:
    """Returns the default of a field as a form shows it: as text where it may be left empty."""
    if not field.optional:
        return field.default
    return "" if field.default is None else str(field.default)


def _value(field: Field, value: Any) -> Any:
    """A value as its setting has it: forms know text, and one kind of number."""
    if isinstance(value, str) and field.kind in ("whole", "number"):
        text = value.strip()
        try:
            value = float(text) if text else None
        except ValueError:
            return text  # reading the settings says what it must be
    if field.kind == "whole" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value

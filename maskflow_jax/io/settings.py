"""Strict reading of dataclasses from nested mappings, as they come from configs and JSON files."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class SettingsError(ValueError):
    """Settings that cannot be read; the message names every problem."""


Readers = Mapping[type, Callable[[Any, str], Any]]
"""For types that are no dataclasses: (value, dotted name) -> what the value stands for."""


def read_settings(
    kind: type, values: Mapping[str, Any], *, section: str = "", readers: Readers | None = None
) -> Any:
    """Reads a dataclass, and the dataclasses in its fields, from nested mappings.

    Args:
        kind: The dataclass.
        values: Its fields by name.
        section: Dotted name of the section, for errors; empty for the whole.
        readers: How fields of other types are read.

    Returns:
        An instance of `kind`.

    Raises:
        SettingsError: naming all unknown, missing and mistyped settings at once, each unknown one
            with the nearest name that exists, and all values that the dataclasses refuse.
    """
    problems: list[str] = []
    settings = _Reader(readers or {}, problems).read(kind, values, section)
    if problems:
        raise SettingsError("; ".join(problems))
    return settings


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads values and collects what is wrong with them."""

    readers: Readers
    problems: list[str]

    def read(self, kind: type, values: Any, section: str) -> Any:
        """Reads one dataclass; adds to the problems and returns None where that fails."""
        before = len(self.problems)
        if not isinstance(values, Mapping):
            self.problems.append(f"{section} is {values!r}; it must be a section of settings")
            return None
        fields = {field.name: field for field in dataclasses.fields(kind)}
        hints, arguments = typing.get_type_hints(kind), {}
        for name in values:
            if name not in fields:
                self.problems.append(unknown_name(_dotted(section, name), fields))
        for name, field in fields.items():
            where = _dotted(section, name)
            if name in values:
                arguments[name] = self._value(hints[name], values[name], where)
            elif field.default is field.default_factory is dataclasses.MISSING:
                self.problems.append(f"{where} is missing")
        if len(self.problems) > before:
            return None
        try:
            return kind(**arguments)
        except (TypeError, ValueError) as error:
            self.problems.append(f"{section}: {error}" if section else str(error))
            return None

    def _value(self, hint: Any, value: Any, where: str) -> Any:
        """Reads one value of a type hint."""
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if value is None and type(None) in kinds:
            return None
        for kind in kinds:
            if kind in self.readers:
                try:
                    return self.readers[kind](value, where)
                except ValueError as error:
                    self.problems.append(str(error))
                    return None
            if dataclasses.is_dataclass(kind):
                return self.read(kind, value, where)
        if kinds == (Any,):
            return value
        if tuple in kinds and isinstance(value, list | tuple):
            return tuple(value)
        if float in kinds and type(value) is int:
            return float(value)
        # A bool is an int in Python, but not where a number of steps is asked for.
        wrong_bool = isinstance(value, bool) and bool not in kinds
        if wrong_bool or not isinstance(value, kinds):
            names = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
            self.problems.append(f"{where} is {value!r}; it must be of type {names}")
        return value


def refuse(
    title: str,
    settings: Any,
    ranges: Mapping[str, tuple[float | None, float | None]],
    choices: Mapping[str, Mapping[str, Any] | tuple[str, ...]] | None = None,
    *,
    more: tuple[str, ...] = (),
) -> None:
    """Raises one error that names every setting that is out of range.

    Args:
        title: What the settings are of, for the message; may be empty.
        settings: A dataclass. Fields that are None are not checked.
        ranges: The lowest and the highest value of each numerical field; None for no bound.
        choices: The names from which a field is chosen.
        more: Further problems that the caller has found.

    Raises:
        ValueError: if a number is outside its range or not finite, a name is unknown, or `more`
            holds a problem.
    """
    problems = list(more)
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for name, (low, high) in ranges.items():
        value = values[name]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            problems.append(f"{name} is {value!r}; give a number")
        elif not _inside(value, low, high):
            problems.append(f"{name} is {value}; {_describe(low, high)}")
    for name, known in (choices or {}).items():
        if values[name] not in known:
            problems.append(f"unknown {name} {values[name]!r}; choose from {', '.join(known)}")
    if problems:
        raise ValueError(f"{title}: " * bool(title) + "; ".join(problems))


def _inside(value: float, low: float | None, high: float | None) -> bool:
    above = low is None or value >= low
    return math.isfinite(value) and above and (high is None or value <= high)


def _describe(low: float | None, high: float | None) -> str:
    if low is None:
        return "use a finite number"
    return f"use {low} to {high}" if high is not None else f"use {low} or more"


def read_integers(name: str, texts: Iterable[str]) -> list[int]:
    """Reads whole numbers from text.

    Raises:
        ValueError: naming the setting, if one is not a whole number.
    """
    texts = list(texts)
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise ValueError(f"{name} is {','.join(texts)}; give whole numbers, as in 1,2,5") from None


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Describes an unknown setting and names the nearest one that exists.

    Args:
        name: The dotted name that was given.
        known: The last parts of the names that exist beside it.
    """
    section, _, last = name.rpartition(".")
    known = list(known)
    nearest = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
    hint = (
        f"did you mean {_dotted(section, nearest[0])!r}?"
        if nearest
        else f"choose from {', '.join(known)}"
    )
    return f"there is no setting {name!r}; {hint}"


def _dotted(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name

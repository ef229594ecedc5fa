"""The sources of videos by name. A new one is a file like `video_files` and a row here."""

import dataclasses
import importlib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

# Modules are imported when a source is made: TFDS, for one, is slow to import.
SOURCES = {
    "video_files": ("video_files", "VideoFolder"),
    "images": ("images", "ImageSequence"),
    "arrays": ("arrays", "NumpyArrays"),
    "dmlab": ("dmlab", "DMLab"),
    "faceforensics": ("faceforensics", "FaceForensics"),
    "ucf101": ("ucf101", "UCF101"),
    "tfds": ("tfds", "TFDSVideos"),
    "hdf5_tokens": ("hdf5_tokens", "HDF5Tokens"),
    "maze": ("maze", "Mazes"),
    "maze_scenes": ("maze_scenes", "MazeScenes"),
    "my_way_home": ("my_way_home", "MyWayHome"),
}
_TRUTH = {"true": True, "false": False}
_ARTICLE = {bool: "true or false", int: "an int", float: "a number"}


def source_fields(name: str) -> dict[str, dataclasses.Field]:
    """The settings of a source, by name.

    Raises:
        ValueError: for an unknown source.
    """
    return {field.name: field for field in dataclasses.fields(_class_of(name))}


def make_source(name: str, settings: Mapping[str, Any]) -> Any:
    """Makes a source.

    Args:
        name: Name in `SOURCES`.
        settings: Its fields; those that are None keep their defaults.

    Raises:
        ValueError: for an unknown name or field, or a missing one.
    """
    kind, fields = _class_of(name), source_fields(name)
    settings = {field: value for field, value in settings.items() if value is not None}
    if unknown := settings.keys() - fields.keys():
        raise ValueError(
            f"source {name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(fields)}"
        )
    missing = [
        field
        for field, of in fields.items()
        if of.default is dataclasses.MISSING and field not in settings
    ]
    if missing:
        raise ValueError(
            f"source {name} needs {', '.join(missing)}; set {'it' if len(missing) == 1 else 'them'}"
        )
    return kind(**settings)


def read_settings(name: str, texts: Iterable[str]) -> dict[str, Any]:
    """Reads settings of a source from texts.

    Args:
        name: Name in `SOURCES`.
        texts: Settings as "name=value".

    Raises:
        ValueError: for an unknown source or setting, or a value of another type.
    """
    hints, settings = typing.get_type_hints(_class_of(name)), {}
    fields = source_fields(name)
    for text in texts:
        field, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"setting {text!r} of the source: write name=value")
        if field not in fields:
            raise ValueError(f"source {name} takes no {field}; it takes {', '.join(fields)}")
        kinds = set(typing.get_args(hints[field])) or {hints[field]}
        kind = next((kind for kind in (bool, int, float) if kind in kinds), str)
        try:
            settings[field] = _TRUTH[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"setting {field} of the source is {value!r}, not {_ARTICLE[kind]}"
            ) from error
    return settings


def _class_of(name: str) -> type:
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}: choose from {', '.join(SOURCES)}")
    module, kind = SOURCES[name]
    return getattr(importlib.import_module(f"maskflow_jax.data.sources.{module}"), kind)

"""Captions of videos from a file beside them, and scenes in frames from scenes in seconds.

The file has a line of JSON for each scene:

    {"file": "walks/one.mp4", "start": 0.0, "end": 3.2, "label": "street", "caption": "a street"}

`file` is the path in the input folder; `start` and `end` are seconds; a label or a caption may be
left out, one of the two is needed.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskflow_jax.data.sources.items import Listing
from maskflow_jax.scenes.records import Scene, problems_of

_FIELDS = {"file": str, "start": (int, float), "end": (int, float), "label": str, "caption": str}
_NAMED = 5  # of what may be thousands of problems


def read_caption_file(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Reads the scenes of all videos.

    Args:
        path: The file.

    Returns:
        The scenes by the name of their video, without the name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the lines that are wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no captions at {path}: correct the path")
    scenes, problems = {}, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            problems.append(f"line {number} is no JSON ({error})")
            continue
        if problem := _problem(values):
            problems.append(f"line {number}: {problem}")
        else:
            name = values.pop("file")
            scenes.setdefault(name, []).append({"label": "", "caption": "", **values})
    _refuse(path, problems)
    if not scenes:
        raise ValueError(f"{path} has no captions: write a line of JSON for each scene")
    return scenes


def with_captions(listing: Listing, path: str | Path) -> Listing:
    """Gives the items of a listing the scenes of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if lines are wrong, videos are missing, or a video has no scene.
    """
    scenes = read_caption_file(path)
    names = {item.id for item in listing.items}
    problems = [f"{name!r} is not in the input: correct `file`" for name in scenes.keys() - names]
    problems += [
        f"{name!r} has no scene: give it one, or take it out of the input"
        for name in names - scenes.keys()
    ]
    _refuse(path, sorted(problems))
    items = (
        dataclasses.replace(item, labels={**item.labels, "scenes": scenes[item.id]})
        for item in listing.items
    )
    return dataclasses.replace(listing, items=tuple(items))


def scenes_in_frames(record: Mapping[str, Any]) -> list[Scene]:
    """The scenes of an item in frames of its dataset.

    Args:
        record: Record of the item: `labels["scenes"]`, `frames` and `fps`.

    Raises:
        ValueError: naming all that is wrong with them.
    """
    fps, frames = record["fps"], record["frames"]
    scenes = [
        Scene(
            start=round(scene["start"] * fps),
            # The end of a file is often a fraction of a frame before or after its last one.
            stop=min(stop, frames) if (stop := round(scene["end"] * fps)) <= frames + 1 else stop,
            label=scene["label"],
            caption=scene["caption"],
        )
        for scene in record["labels"]["scenes"]
    ]
    _refuse(record["id"], problems_of(scenes, frames))
    return sorted(scenes, key=lambda scene: scene.start)


def _problem(values: Any) -> str | None:
    """What is wrong with a line."""
    if not isinstance(values, dict):
        return "it is no JSON object"
    if unknown := sorted(values.keys() - _FIELDS.keys()):
        return f"unknown {', '.join(unknown)}; a scene has {', '.join(_FIELDS)}"
    if missing := [name for name in ("file", "start", "end") if name not in values]:
        return f"{', '.join(missing)} missing"
    for name, kind in _FIELDS.items():
        if name in values and (
            isinstance(values[name], bool) or not isinstance(values[name], kind)
        ):
            return f"{name} is {values[name]!r}"
    if not 0 <= values["start"] < values["end"]:
        return f"the scene goes from {values['start']} to {values['end']} s; let it end later"
    if not (values.get("label", "").strip() or values.get("caption", "").strip()):
        return "neither a label nor a caption that is not empty; give one"
    return None


def _refuse(where: Any, problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ValueError(f"{where}: {'; '.join(problems[:_NAMED])}{more}")

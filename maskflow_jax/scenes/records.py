"""Scenes of a video as datasets store them: first frame and end, a label and a caption."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence

MAX_CAPTION = 2_000  # characters; a caption is a sentence or two


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene of a video.

    Attributes:
        start: Number of its first frame.
        stop: Number of the frame after its last one.
        label: Name of its class; empty where there is none.
        caption: What it shows, in words; empty where there is none.
    """

    start: int
    stop: int
    label: str = ""
    caption: str = ""


def write_scenes(scenes: Iterable[Scene]) -> str:
    """Writes the scenes of a video as JSON."""
    return json.dumps([dataclasses.asdict(scene) for scene in scenes], ensure_ascii=False)


def read_scenes(text: str) -> tuple[Scene, ...]:
    """Reads what `write_scenes` wrote."""
    return tuple(Scene(**fields) for fields in json.loads(text))


def problems_of(scenes: Sequence[Scene], num_frames: int, *, shortest: int = 1) -> list[str]:
    """Finds what is wrong with the scenes of a video.

    Args:
        scenes: The scenes, in any order.
        num_frames: Length of the video.
        shortest: Number of frames that a scene must have.

    Returns:
        A sentence for each problem, with what can be done.
    """
    problems = []
    ordered = sorted(scenes, key=lambda scene: scene.start)
    for scene in ordered:
        where = f"scene {scene.start}-{scene.stop}"
        if not 0 <= scene.start < scene.stop:
            problems.append(f"{where} has no frame: let it end after it starts, from 0")
        elif scene.stop > num_frames:
            problems.append(f"{where} leaves the video of {num_frames} frames: end it before")
        elif scene.stop - scene.start < shortest:
            problems.append(f"{where} is shorter than {shortest} frames: join or drop it")
        if not scene.caption.strip() and not scene.label:
            problems.append(f"{where} has neither a label nor a caption: give one")
        if len(scene.caption) > MAX_CAPTION:
            problems.append(
                f"{where} has a caption of {len(scene.caption)} characters: use {MAX_CAPTION} at "
                "most"
            )
    for one, other in itertools.pairwise(ordered):
        if other.start < one.stop:
            problems.append(
                f"scenes {one.start}-{one.stop} and {other.start}-{other.stop} overlap: move a "
                "boundary"
            )
    return problems

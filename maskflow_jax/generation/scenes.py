"""The scenes of videos that are generated: who says what of which frame, window by window."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.config import Config
from maskflow_jax.io.settings import SettingsError
from maskflow_jax.sampling.guidance import Guidance
from maskflow_jax.sampling.types import Plan
from maskflow_jax.scenes.conditions import Scenes, stack
from maskflow_jax.scenes.encoders import Encoded, Encoder

Captions = Sequence[str] | Sequence[Sequence[str]]
"""Captions (or labels) of all scenes, of every video alike or of each video its own."""


class OutOfCaptions(Exception):  # noqa: N818 (it ends a stream and is no error)
    """An iterator of captions has come to its end."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SceneTexts:
    """Captions of videos and the frames that they belong to.

    Attributes:
        captions: Captions of all scenes, by video; one row stands for all videos.
        scene_id: Number of the caption of every frame, int [V, L], V as above; -1 where nothing is
            said.
    """

    captions: tuple[tuple[str, ...], ...]
    scene_id: np.ndarray

    def of_video(self, index: int) -> "SceneTexts":
        """Returns the captions of one video."""
        row = index if len(self.captions) > 1 else 0
        return SceneTexts(captions=(self.captions[row],), scene_id=self.scene_id[row : row + 1])

    def of_videos(self, samples: Iterable[int]) -> "SceneTexts":
        """Returns the captions of some videos; the last one stands for all beyond it."""
        if len(self.captions) == 1:
            return self
        rows = [min(index, len(self.captions) - 1) for index in samples]
        captions = tuple(self.captions[row] for row in rows)
        return SceneTexts(captions=captions, scene_id=self.scene_id[rows])

    def in_order(self, frames: np.ndarray) -> "SceneTexts":
        """Returns the captions of other frames, by their numbers."""
        return dataclasses.replace(self, scene_id=self.scene_id[:, frames])


def as_rows(captions: Captions) -> tuple[tuple[str, ...], ...]:
    """Captions by video.

    Raises:
        ValueError: if there are none, or videos have different numbers of them.
    """
    if isinstance(captions, str) or not len(captions):
        raise ValueError(f"captions is {captions!r}; give a list of texts, one for each scene")
    rows = [captions] if isinstance(captions[0], str) else captions
    if len({len(row) for row in rows}) != 1 or not len(rows[0]):
        raise ValueError(
            f"the videos have {[len(row) for row in rows]} captions; give each the same number, at "
            "least one"
        )
    return tuple(tuple(row) for row in rows)


def read_captions(path: str | Path) -> tuple[tuple[str, ...], ...]:
    """Reads captions from a text file, one in a line; an empty line ends a video.

    Args:
        path: The file.

    Returns:
        Captions by video; of a single video they serve any number.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no caption, or videos have different numbers of them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no captions at {path}: write one in a line")
    blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip())
    rows = [[line.strip() for line in block.splitlines()] for block in blocks if block.strip()]
    try:
        return as_rows(rows)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def scene_texts(
    config: Config, captions: Captions, frames_per_scene: int | None, length: int | None
) -> SceneTexts:
    """Lays captions over frames, scenes of equal length one after the other.

    Args:
        config: Config of the model.
        captions: The captions.
        frames_per_scene: Number of frames of a scene; None for that of training.
        length: Number of frames of the video; None for whole scenes.

    Raises:
        ValueError: if the model takes no captions, or there are fewer or more than scenes.
    """
    check_conditional(config)
    rows, frames = as_rows(captions), scene_frames(config, frames_per_scene)
    length = len(rows[0]) * frames if length is None else length
    scenes = -(-length // frames)
    if scenes != len(rows[0]):
        raise ValueError(
            f"{len(rows[0])} captions for {scenes} scenes: {length} frames are {scenes} scenes of "
            f"{frames} frames; give {scenes} captions, or another length or frames_per_scene"
        )
    scene_id = np.broadcast_to(np.arange(length) // frames, (len(rows), length))
    return SceneTexts(captions=rows, scene_id=scene_id)


def followed_by(
    texts: SceneTexts | None, captions: Captions, frames: int, num_videos: int
) -> SceneTexts:
    """Adds scenes to what is said of videos.

    Args:
        texts: Captions of the videos as they are.
        captions: Captions of the new scenes, one row for all videos or one for each.
        frames: Number of frames of a new scene.
        num_videos: Number of videos.

    Raises:
        ValueError: if nothing is said of the videos, or the rows are not one for each video.
    """
    if texts is None:
        raise ValueError(
            "the videos have no captions, and those of the last scenes are shown to the network "
            "again; generate them with captions"
        )
    if len(captions) not in (1, num_videos):
        raise ValueError(
            f"captions of {len(captions)} videos for {num_videos}; give one list for all videos or "
            "a list for each"
        )
    count = max(len(texts.captions), len(captions))
    before = [texts.of_video(index) for index in range(count)]
    rows = tuple(
        (*old.captions[0], *captions[index if len(captions) > 1 else 0])
        for index, old in enumerate(before)
    )
    new = np.repeat(np.arange(len(captions[0])), frames)
    scene_id = [np.concatenate([old.scene_id[0], len(old.captions[0]) + new]) for old in before]
    return SceneTexts(captions=rows, scene_id=np.stack(scene_id))


def scene_frames(config: Config, frames_per_scene: int | None) -> int:
    """Number of frames of a scene, by default as in training."""
    if frames_per_scene is None:
        return config.data.clip_frames // config.scenes.num_scenes
    if frames_per_scene < 1:
        raise ValueError(f"frames_per_scene is {frames_per_scene}; use 1 or more")
    return frames_per_scene


def check_conditional(config: Config) -> None:
    """Raises ValueError for a model that takes no captions."""
    if config.conditions is None:
        raise ValueError(
            "captions were given to an unconditional model; leave them out, or take a model that "
            "was trained with scenes.condition"
        )


def guided(guidance: Any, default: Guidance, *, by_captions: bool) -> Guidance:
    """Reads the option `guidance`.

    Args:
        guidance: A `Guidance`, a number for the weight of captions, or None for the default.
        default: Guidance of the model's config.
        by_captions: Whether there are captions.

    Raises:
        ValueError: if there are no captions to guide by.
    """
    if guidance is None or guidance == default:
        return default if by_captions else dataclasses.replace(default, captions=1.0)
    if not isinstance(guidance, Guidance):
        guidance = dataclasses.replace(default, captions=float(guidance))
    if guidance.by_captions and not by_captions:
        raise SettingsError(
            f"guidance by captions of weight {guidance.captions:g} needs captions; give some"
        )
    return guidance


def window_conditions(encoded: Encoded, scene_id: np.ndarray, slots: int) -> Scenes:
    """Conditions of one window, its scenes numbered in the order in which they appear.

    Args:
        encoded: Conditions of all scenes of the video.
        scene_id: Scene of every frame of the window, int [k].
        slots: Number of scenes that a window has room for.

    Returns:
        Conditions without a batch axis.
    """
    present = list(dict.fromkeys(scene_id.tolist()))
    local = np.array([present.index(scene) for scene in scene_id.tolist()], np.int32)
    return encoded.rows([*present, *[-1] * (slots - len(present))]).with_scenes(local)


class SceneTrack:
    """Conditions of the windows of a batch of videos.

    Args:
        texts: Captions of all videos, their frames in the order of sampling.
        encoder: Encodes them.
        plan: The windows.
        samples: Numbers of the videos of the batch.
    """

    def __init__(self, texts: SceneTexts, encoder: Encoder, plan: Plan, samples: Iterable[int]):
        samples = list(samples)
        chosen = [texts.of_videos(samples).of_video(row) for row in range(len(samples))]
        every = list(dict.fromkeys(itertools.chain(*(t.captions[0] for t in chosen))))
        encoded, places = encoder.encode(every), {text: i for i, text in enumerate(every)}
        self._encoded = [encoded.rows([places[c] for c in t.captions[0]]) for t in chosen]
        # A window may reach beyond the end of the video, and then goes on with its last scene.
        self._scene_id = [np.pad(t.scene_id[0], (0, plan.chunk_size), mode="edge") for t in chosen]
        self._frames, done = plan.chunk_size, plan.known_at_start
        self._slots = 0
        for window in plan.windows:
            begin, done = done - window.context, done + window.finished
            here = slice(begin, begin + plan.chunk_size)
            most = max(len(set(row[here].tolist())) for row in self._scene_id)
            self._slots = max(self._slots, most)

    def __call__(self, begin: int) -> Scenes:
        """Returns the conditions of the window that begins at a frame."""
        here = slice(begin, begin + self._frames)
        rows = zip(self._encoded, self._scene_id, strict=True)
        return stack([window_conditions(e, row[here], self._slots) for e, row in rows])


class EndlessTrack:
    """Conditions of windows whose captions come one by one, the same for all videos.

    Args:
        captions: The captions.
        encoder: Encodes them.
        plan: The windows of a short video; those that follow are alike.
        frames_per_scene: Number of frames of a scene.
        num_videos: Number of videos.
    """

    def __init__(
        self,
        captions: Iterator[str],
        encoder: Encoder,
        plan: Plan,
        *,
        frames_per_scene: int,
        num_videos: int,
    ):
        self._captions, self._encoder, self._num_videos = captions, encoder, num_videos
        self._frames, self._per_scene = plan.chunk_size, frames_per_scene
        self._slots = -(-(plan.chunk_size - 1) // frames_per_scene) + 1
        self._encoded: dict[int, Encoded] = {}
        self._read = 0

    def __call__(self, begin: int) -> Scenes:
        """Returns the conditions of the window that begins at a frame.

        Raises:
            OutOfCaptions: if no caption is left for one of its frames.
        """
        scene_id = (begin + np.arange(self._frames)) // self._per_scene
        while self._read <= scene_id[-1]:
            text = next(self._captions, None)
            if text is None:
                raise OutOfCaptions
            self._encoded[self._read] = self._encoder.encode([text])
            self._read += 1
        for scene in [scene for scene in self._encoded if scene < scene_id[0]]:
            del self._encoded[scene]
        parts = [self._encoded[scene] for scene in sorted(self._encoded)]
        together = Encoded(
            *(None if a[0] is None else np.concatenate(a) for a in zip(*parts, strict=True))
        )
        local = window_conditions(together, scene_id - scene_id[0], self._slots)
        return stack([local] * self._num_videos)


def dataset_texts(videos: Sequence[Mapping[str, Any]], length: int, kind: str) -> SceneTexts:
    """Returns what a dataset says of the first frames of its videos.

    Args:
        videos: Records of a dataset with scenes.
        length: Number of frames; those without a scene have -1.
        kind: "labels" for the labels, else the captions.
    """
    most = max(len(video["scenes"]) for video in videos)
    rows, scene_id = [], np.full((len(videos), length), -1)
    for row, video in zip(scene_id, videos, strict=True):
        texts = [s.label if kind == "labels" else s.caption for s in video["scenes"]]
        rows.append((*texts, *[texts[-1]] * (most - len(texts))))
        for number, scene in enumerate(video["scenes"]):
            row[scene.start : scene.stop] = number
    return SceneTexts(captions=tuple(rows), scene_id=scene_id)

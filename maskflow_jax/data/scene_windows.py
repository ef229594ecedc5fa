"""Windows of several scenes: which frames of which videos make a clip, and what is said of them.

    consecutive   S scenes of one video, one after the other
    unrelated     S scenes of different videos, put together (the first stage of Mask^2DiT)
    sliding       frames of one video from anywhere; scenes have the lengths that they have

Source: Qi et al., Mask^2DiT, arXiv 2503.19881, section 3.4.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.scenes.conditions import SceneClips
from maskflow_jax.scenes.encoders import Encoder, text_of


class Part(NamedTuple):
    """Frames of one scene.

    Attributes:
        video: Number of the video.
        scene: Number of its scene.
        start: Number of the first frame.
        frames: Number of frames.
    """

    video: int
    scene: int
    start: int
    frames: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneWindows:
    """The windows of a split; can be pickled, as worker processes need it.

    Attributes:
        videos: The split.
        encoder: What turns labels or captions into conditions.
        kind: "consecutive", "unrelated" or "sliding".
        num_scenes: Number of scenes S.
        clip_frames: Number of frames T of a window.

    Raises:
        ValueError: if the dataset has no scenes, or none of which such a window can be made.
    """

    videos: TokenVideos
    encoder: Encoder
    kind: str
    num_scenes: int
    clip_frames: int

    def __post_init__(self):
        if self.videos.scenes is None:
            raise ValueError(
                f"the dataset in {self.videos.directory} has no scenes; prepare it with captions, "
                "or set scenes.condition to 'none'"
            )
        if problems := self._problems():
            shown = "; ".join(problems[:5])
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ValueError(f"split {self.videos.split!r} has no such windows: {shown}{more}")

    @functools.cached_property
    def bounds(self) -> list[list[list[int]]]:
        """First frame and end of every scene of every video."""
        return self.videos.scenes["bounds"][self.videos.split]

    @property
    def scene_frames(self) -> int:
        """Number of frames of a scene, where windows are not sliding."""
        return self.clip_frames // self.num_scenes

    @functools.cached_property
    def slots(self) -> int:
        """Number of conditions of a window; sliding windows may touch more than S scenes."""
        if self.kind != "sliding":
            return self.num_scenes
        # The most scenes are touched from the last frame of a scene on, or from the first one.
        return max(
            len(self._sliding(video, min(start, scenes[-1][1] - self.clip_frames)))
            for video, scenes in enumerate(self.bounds)
            for start in (scenes[0][0], *(stop - 1 for _, stop in scenes))
        )

    def _problems(self) -> list[str]:
        """What keeps videos from having windows."""
        count, frames = self.num_scenes, self.scene_frames
        if self.kind == "sliding":
            return self._sliding_problems()
        if self.clip_frames % count:
            return [f"{self.clip_frames} frames do not divide into {count} scenes"]
        problems = [
            f"scene {start}-{stop} of video {video} has fewer than the {frames} frames of a scene "
            "of a window: lower data.clip_frames or raise scenes.num_scenes"
            for video, scenes in enumerate(self.bounds)
            for start, stop in scenes
            if stop - start < frames
        ]
        if self.kind == "consecutive":
            problems += [
                f"video {video} has {len(scenes)} scenes of the {count} of a window: lower "
                "scenes.num_scenes, or set scenes.windows to 'unrelated'"
                for video, scenes in enumerate(self.bounds)
                if len(scenes) < count
            ]
        return problems

    def _sliding_problems(self) -> list[str]:
        problems = []
        for video, scenes in enumerate(self.bounds):
            if any(one[1] != other[0] for one, other in itertools.pairwise(scenes)):
                problems.append(f"video {video} has frames between its scenes, which have no scene")
            if scenes[-1][1] - scenes[0][0] < self.clip_frames:
                problems.append(f"the scenes of video {video} have fewer frames than a window")
        return problems

    def random(self, video: dict[str, Any], rng: np.random.Generator) -> SceneClips:
        """Makes a random window that begins in a video, for training.

        Args:
            video: A video of the split with its `number`.
            rng: Random numbers.

        Returns:
            A clip: tokens int32 [T, h, w] and its conditions.
        """
        return self.clip(self._random_parts(video["number"], rng), {video["number"]: video})

    def _random_parts(self, video: int, rng: np.random.Generator) -> list[Part]:
        scenes = self.bounds[video]
        if self.kind == "sliding":
            last = scenes[-1][1] - self.clip_frames
            return self._sliding(video, int(rng.integers(scenes[0][0], last + 1)))
        if self.kind == "consecutive":
            first = int(rng.integers(len(scenes) - self.num_scenes + 1))
            chosen = [(video, first + number) for number in range(self.num_scenes)]
        else:
            others = rng.integers(len(self.bounds), size=self.num_scenes - 1).tolist()
            chosen = [(v, int(rng.integers(len(self.bounds[v])))) for v in (video, *others)]
        return [self._part(video, scene, rng) for video, scene in chosen]

    def _part(self, video: int, scene: int, rng: np.random.Generator | None = None) -> Part:
        """The frames of a scene that enter a window: the first ones, or some at random."""
        start, stop = self.bounds[video][scene]
        spare = stop - start - self.scene_frames
        offset = int(rng.integers(spare + 1)) if rng is not None else 0
        return Part(video, scene, start + offset, self.scene_frames)

    def _sliding(self, video: int, start: int) -> list[Part]:
        stop, parts = start + self.clip_frames, []
        for scene, (begin, end) in enumerate(self.bounds[video]):
            first, last = max(begin, start), min(end, stop)
            if first < last:
                parts.append(Part(video, scene, first, last - first))
        return parts

    def in_order(self) -> list[list[Part]]:
        """Windows for validation that visit every scene at most once, in a fixed order."""
        if self.kind == "sliding":
            return [
                self._sliding(video, start)
                for video, scenes in enumerate(self.bounds)
                for start in range(
                    scenes[0][0], scenes[-1][1] - self.clip_frames + 1, self.clip_frames
                )
            ]
        scenes = [(v, s) for v, of_video in enumerate(self.bounds) for s in range(len(of_video))]
        if self.kind == "unrelated":
            count = len(scenes) // self.num_scenes  # far apart, so of different videos
            groups = [scenes[index :: max(count, 1)][: self.num_scenes] for index in range(count)]
        else:
            groups = [
                [(video, first + number) for number in range(self.num_scenes)]
                for video, of_video in enumerate(self.bounds)
                for first in range(0, len(of_video) - self.num_scenes + 1, self.num_scenes)
            ]
        return [[self._part(*scene) for scene in group] for group in groups]

    def clip(
        self, parts: Sequence[Part], read: Mapping[int, dict[str, Any]] = MappingProxyType({})
    ) -> SceneClips:
        """Puts a window together.

        Args:
            parts: Its parts.
            read: Videos that were read already, by number.

        Returns:
            A clip: tokens int32 [T, h, w] and its conditions, with `slots` scenes.
        """
        videos = dict(read)
        for part in parts:
            if part.video not in videos:
                videos[part.video] = self.videos[part.video]
        tokens = [videos[p.video]["tokens"][p.start : p.start + p.frames] for p in parts]
        record = self.encoder.record
        texts = [text_of(videos[p.video]["scenes"][p.scene], record) for p in parts]
        padded = [*range(len(parts)), *[-1] * (self.slots - len(parts))]
        scene_id = np.repeat(np.arange(len(parts)), [part.frames for part in parts])
        return SceneClips(
            np.concatenate(tokens).astype(np.int32),
            self.encoder.encode(texts).rows(padded).with_scenes(scene_id),
        )


class NumberedVideos:
    """Videos that know their number in the split, for `SceneWindows.random`."""

    def __init__(self, videos: TokenVideos):
        self._videos = videos

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._videos[index], "number": range(len(self))[index]}

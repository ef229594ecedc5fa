"""VideoGenerator: long video from a trained model, in a few lines.

import maskflow_jax as mf

generator = mf.VideoGenerator.load("runs/maze")
context = generator.read_context("walk.mp4", frames=2)
videos = generator.generate(context, length=160, num_videos=4, sampler=mf.Halton())
videos.save("out")
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from maskflow_jax.generation import contexts, trained_model
from maskflow_jax.generation.model_windows import ModelWindows
from maskflow_jax.generation.request import Generation, plan_generation
from maskflow_jax.generation.scenes import (
    Captions,
    EndlessTrack,
    SceneTexts,
    as_rows,
    followed_by,
    scene_frames,
    scene_texts,
)
from maskflow_jax.generation.videos import Videos
from maskflow_jax.scenes.encoders import Encoder
from maskflow_jax.training.model_files import load_model
from maskflow_jax.training.state import parameter_count


class VideoGenerator(ModelWindows):
    """A trained model with its tokenizer, ready to generate; `load` finds both.

    Attributes:
        model: The trained model.
        tokenizer: The tokenizer of its data.
    """

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        tokenizer: str | Path | None = None,
        dataset: str | Path | None = None,
        text_encoder: str | Path | Encoder | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> "VideoGenerator":
        """Loads a run, an exported model or a shipped one.

        Args:
            path: Folder, or the name of a shipped model such as "maze".
            tokenizer: Folder of the tokenizer, if it is not where the config says.
            dataset: Folder of the dataset, likewise.
            text_encoder: Folder of the encoder of captions, likewise, or the encoder.
            mesh: Where the weights are placed; all devices by default.

        Raises:
            FileNotFoundError: if the model or its tokenizer is missing.
            ValueError: if a file is damaged, or the tokenizer is another one.
            CheckpointError: if a run has no checkpoint that can be read.

        Example:
            generator = VideoGenerator.load("maze")
        """
        model = load_model(path, mesh)
        found = trained_model.find_tokenizer(model, tokenizer)
        return cls(model, found, dataset=dataset, text_encoder=text_encoder)

    def __repr__(self) -> str:
        config, identity = self.model.config, self.tokenizer.identity
        height, width = config.tokenizer.grid
        return (
            f"VideoGenerator({self.model.name!r}, step {self.model.step}, "
            f"{parameter_count(self.model.params) / 1e6:.1f} M parameters, windows of "
            f"{config.data.clip_frames} frames of {height}x{width} tokens, {self.fps:g} frames per "
            f"second, tokenizer {identity['name']!r} with {identity['codebook_size']} codes, "
            f"sampler {config.sampling.sampler})"
        )

    def read_context(
        self,
        source: Any = None,
        *,
        frames: int | None = None,
        split: str = "test",
        indices: Any = None,
        window_seed: int | None = None,
        from_start: bool = False,
    ) -> np.ndarray:
        """Reads known frames.

        Args:
            source: A path of a video or an image, several images, an array of frames, or tokens;
                `generation.contexts.read_frames` has the forms. None reads the dataset.
            frames: Number of frames; None for the model's number of context frames.
            split: Split of the dataset, or "all" for the training and then the test videos.
            indices: Numbers of the dataset's videos, "all" for every one of them, None for the
                first one.
            window_seed: Takes a random window of each of the dataset's videos, which depends on
                this seed and on the video's number; None takes the first frames.
            from_start: Takes the first frames of a longer source instead of the last ones; it is
                not used for a dataset.

        Returns:
            Tokens int32 [B, frames, h, w].

        Raises:
            FileNotFoundError: if a file or the dataset is missing.
            ValueError: if a source is too short or cannot be read, the dataset has no video of such
                a number, or `indices` is another word.
        """
        frames = self.model.config.sampling.context_frames if frames is None else frames
        if source is None and frames == 0:
            if isinstance(indices, str):
                raise ValueError("videos without a context are not counted by a dataset's videos")
            count = 1 if indices is None else len(np.atleast_1d(indices))
            return np.zeros((count, 0, *self.model.config.tokenizer.grid), np.int32)
        if source is not None:
            return contexts.read_frames(
                source, self.tokenizer, frames=frames, fps=self.fps, from_start=from_start
            )
        videos = None if self._dataset else trained_model.shipped_contexts(self.model, split)
        if videos is None:
            splits = ("train", "test") if split == "all" else (split,)
            videos = contexts.DatasetVideos([self._videos(name) for name in splits])
        return contexts.video_windows(
            videos, indices, frames=frames, seed=window_seed, source=f"split {split!r}"
        )

    def plan(
        self,
        length: int | None = None,
        *,
        task: str = "prediction",
        texts: SceneTexts | None = None,
        **options: Any,
    ) -> Generation:
        """Plans a generation without sampling.

        Args:
            length: Number of frames of the video, context included; None for those of `captions`.
            task: A key of `sampling.tasks.TASKS`.
            texts: Captions that are laid over frames already, instead of the option `captions`.
            **options: See `generate`.

        Raises:
            ValueError: if there is no such video, naming the reasons.
            TypeError: for an unknown option.
        """
        config = self.model.config
        if "captions" in options:
            frames = options.get("frames_per_scene")
            texts = scene_texts(config, options["captions"], frames, length)
        elif "frames_per_scene" in options:
            raise TypeError("frames_per_scene is of scenes; give captions, one for each scene")
        if length is None and texts is None:
            raise TypeError("length is missing: the number of frames of the video")
        length = texts.scene_id.shape[1] if length is None else length
        generation = plan_generation(config, task, length, options, texts)
        rate = self._seconds_per_evaluation
        seconds = None if rate is None else rate * generation.nfe
        return dataclasses.replace(generation, expected_seconds=seconds)

    def generate(
        self,
        context: Any = None,
        *,
        length: int | None = None,
        num_videos: int | None = None,
        seed: int = 0,
        task: str | None = None,
        **options: Any,
    ) -> Videos:
        """Generates videos.

        Video i depends on the seed, on i, its context and captions only, not on the other videos.

        Args:
            context: Known frames, as `read_context` takes or returns them. None reads the dataset,
                or for "inbetween" the options `first` and `last`.
            length: Number of frames of a video, context included; with captions all their scenes.
            num_videos: Number of videos; None for as many as there are contexts or lists of
                captions. One context serves any number.
            seed: Seed of all videos.
            task: "prediction", "backward", "inbetween", "loop", "inpaint" or "unconditional"; by
                default prediction, or for captions without a context unconditional.
            **options: `sampler`, `decoding`, `guidance`, `context_frames`, `stride`,
                `context_time`, `context_cache` and `frame_block` replace the model's own settings
                (`config.SamplingConfig`); `box` or `known` say what "inpaint" leaves; `first` and
                `last` are the ends of "inbetween"; `progress` shows a bar. `captions`, a text for
                each scene, the context's included, or a list of texts for each video, and
                `frames_per_scene` say what is shown when; `guidance` may then be a number.

        Raises:
            ValueError: if there is no such video, or the context or captions do not fit.
            TypeError: for an unknown option.

        Example:
            videos = generator.generate(length=160, num_videos=4, sampler=Halton(num_steps=20))
            videos = generator.generate(captions=["red walls", "blue walls"], frames_per_scene=8)
        """
        progress = options.pop("progress", False)
        ends = [options.pop(name) for name in ("first", "last") if name in options]
        if "captions" in options:
            num_videos = num_videos or contexts.count(context) or len(as_rows(options["captions"]))
        if task is None:
            task = "unconditional" if "captions" in options and context is None else "prediction"
        if task in ("prediction", "backward"):
            options = self._for_short_context(context, options)
        generation = self.plan(length, task=task, **options)
        read = self.read_context
        if ends:
            context = contexts.both_ends(ends, generation, read)
        real = contexts.real_tokens(context, generation, num_videos, read)
        chunks = tqdm(
            self.sample_windows(generation, real, seed=seed),
            "windows",
            total=len(generation.plan.windows),
            disable=not progress,
        )
        return self.finish(generation, real, list(chunks))

    def extend(
        self,
        videos: Videos,
        *,
        captions: Captions,
        frames_per_scene: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Videos:
        """Adds scenes to videos, one after the other; the frames that are there stay as they are.

        A window holds the last scenes, known and with their captions, and one new scene.

        Args:
            videos: Videos with captions, from `generate` or `extend`.
            captions: A caption for each new scene, or a list of them for each video.
            frames_per_scene: Number of frames of a new scene; None for that of training.
            seed: Seed of the new scenes.
            **options: As for `generate`.

        Returns:
            The videos with the new scenes at their end.

        Raises:
            ValueError: if the captions do not fit.
            TypeError: for an unknown option.
        """
        frames = scene_frames(self.model.config, frames_per_scene)
        if frames < self.window:  # else the model's own windows go through a scene
            options = {"context_frames": self.window - frames, "stride": None, **options}
        length = videos.tokens.shape[1]
        context = options.get("context_frames", self.model.config.sampling.context_frames)
        start = max(0, length - context)
        texts = followed_by(videos.texts, as_rows(captions), frames, len(videos))
        seen = texts.in_order(np.arange(start, texts.scene_id.shape[1]))
        generation = self.plan(texts=seen, known_frames=length - start, **options)
        chunks = self.sample_windows(generation, videos.tokens[:, start:], seed=seed)
        return videos.extended(list(chunks), texts, nfe=generation.nfe)

    def stream(
        self,
        context: Any = None,
        *,
        length: int | None = None,
        num_videos: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """Predicts video chunk by chunk, at constant memory.

        Args:
            context: As for `generate`.
            length: Number of frames, context included; None goes on until the iterator is closed.
            num_videos: As for `generate`.
            seed: As for `generate`: the same seed gives the same video.
            **options: As for `generate`. `captions` may be an iterator, which is asked for a text
                when a scene begins; the video ends with it.

        Returns:
            An iterator over the new frames of each chunk, uint8 [B, h, S, S, 3].

        Raises:
            ValueError: if there is no such video, or the context does not fit.
        """
        captions = options.get("captions")
        if isinstance(captions, Iterator):
            return self._stream_scenes(captions, context, num_videos, seed, options)
        task = "prediction" if captions is None or context is not None else "unconditional"
        if task == "prediction":
            options = self._for_short_context(context, options)
        if num_videos is None and captions is not None:
            num_videos = contexts.count(context) or len(as_rows(captions))
        endless = length is None and captions is None
        # More than two windows are enough to see how a video goes on.
        generation = self.plan(3 * self.window if endless else length, task=task, **options)
        real = contexts.real_tokens(context, generation, num_videos, self.read_context)
        sample = self.sample_endlessly if endless else self.sample_windows
        return contexts.decoded(self.tokenizer, sample(generation, real, seed=seed))

    def _stream_scenes(
        self,
        captions: Iterator[str],
        context: Any,
        num_videos: int | None,
        seed: int,
        options: dict[str, Any],
    ) -> Iterator[np.ndarray]:
        """Streams scenes whose captions come one by one."""
        frames = scene_frames(self.model.config, options.pop("frames_per_scene", None))
        # Planned as if all were one scene; what is said comes with the windows.
        texts = scene_texts(self.model.config, [""], 3 * self.window, None)
        del options["captions"]
        task = "unconditional" if context is None else "prediction"
        if context is not None:
            options = self._for_short_context(context, options)
        generation = self.plan(texts=texts, task=task, **options)
        real = contexts.real_tokens(context, generation, num_videos, self.read_context)
        sizes = {"frames_per_scene": frames, "num_videos": len(real)}
        track = EndlessTrack(captions, self.encoder, generation.plan, **sizes)
        chunks = self.sample_endlessly(generation, real, seed=seed, scenes=track)
        return contexts.decoded(self.tokenizer, chunks)

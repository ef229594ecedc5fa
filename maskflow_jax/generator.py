"""VideoGenerator: long video from a trained model, in a few lines.

import maskflow_jax as mf

generator = mf.VideoGenerator.load("runs/maze")
context = generator.read_context("walk.mp4", frames=2)
videos = generator.generate(context, length=160, num_videos=4, sampler=mf.Halton())
videos.save("out")
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.generation import contexts, trained_model
from maskflow_jax.generation.request import Generation, make_window_sampler, plan_generation
from maskflow_jax.generation.trained_model import TrainedModel
from maskflow_jax.generation.videos import Videos
from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.sampling.plans import EndlessPlan
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.state import parameter_count


class VideoGenerator:
    """A trained model with its tokenizer, ready to generate.

    Attributes:
        model: The trained model.
        tokenizer: The tokenizer of its data.
    """

    def __init__(
        self, model: TrainedModel, tokenizer: Tokenizer, *, dataset: str | Path | None = None
    ):
        """Prepares a generator from what `load` finds, which is the usual way."""
        self.model, self.tokenizer, self._dataset = model, tokenizer, dataset
        self._programs: dict[Any, WindowProgram] = {}
        self._seconds_per_evaluation: float | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        tokenizer: str | Path | None = None,
        dataset: str | Path | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> "VideoGenerator":
        """Loads a run, an exported model or a shipped one.

        Args:
            path: Folder, or the name of a shipped model such as "maze".
            tokenizer: Folder of the tokenizer, if it is not where the config says.
            dataset: Folder of the dataset, likewise.
            mesh: Where the weights are placed; all devices by default.

        Raises:
            FileNotFoundError: if the model or its tokenizer is missing.
            ValueError: if a file is damaged, or the tokenizer is another one.
            CheckpointError: if a run has no checkpoint that can be read.

        Example:
            generator = VideoGenerator.load("maze")
        """
        model = trained_model.load_model(path, mesh)
        return cls(model, trained_model.find_tokenizer(model, tokenizer), dataset=dataset)

    def __repr__(self) -> str:
        config, identity = self.model.config, self.tokenizer.identity
        height, width = config.tokenizer.grid
        return (
            f"VideoGenerator({str(self.model.directory)!r}, step {self.model.step}, "
            f"{parameter_count(self.model.params) / 1e6:.1f} M parameters, windows of "
            f"{config.data.clip_frames} frames of {height}x{width} tokens, {self.fps:g} frames per "
            f"second, tokenizer {identity['name']!r} with {identity['codebook_size']} codes, "
            f"sampler {config.sampling.sampler})"
        )

    @property
    def fps(self) -> float:
        """Frames per second of the videos the model was trained on."""
        rate = self.model.config.data.source.get("fps")
        return float(rate) if rate else float(self._videos("train")[0]["fps"])

    @property
    def window(self) -> int:
        """Number of frames k of the training window."""
        return self.model.config.data.clip_frames

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

    def plan(self, length: int, *, task: str = "prediction", **options: Any) -> Generation:
        """Plans a generation without sampling.

        Args:
            length: Number of frames of the video, context included.
            task: A key of `sampling.tasks.TASKS`.
            **options: See `generate`.

        Raises:
            ValueError: if there is no such video, naming the reasons.
            TypeError: for an unknown option.
        """
        generation = plan_generation(self.model.config, task, length, options)
        rate = self._seconds_per_evaluation
        seconds = None if rate is None else rate * generation.nfe
        return dataclasses.replace(generation, expected_seconds=seconds)

    def generate(
        self,
        context: Any = None,
        *,
        length: int,
        num_videos: int | None = None,
        seed: int = 0,
        task: str = "prediction",
        **options: Any,
    ) -> Videos:
        """Generates videos.

        Video i depends on the seed, on i and on its context only, not on the other videos.

        Args:
            context: Known frames, as `read_context` takes or returns them. None reads the dataset,
                or for "inbetween" the options `first` and `last`.
            length: Number of frames of a video, context included.
            num_videos: Number of videos; None for as many as there are contexts. One context serves
                any number.
            seed: Seed of all videos.
            task: "prediction", "backward", "inbetween", "loop", "inpaint" or "unconditional".
            **options: `sampler`, `decoding`, `guidance`, `context_frames`, `stride`,
                `context_time`, `context_cache` and `frame_block` replace the model's own settings
                (`config.SamplingConfig`); `box` or `known` say what "inpaint" leaves; `first` and
                `last` are the ends of "inbetween"; `progress` shows a bar.

        Raises:
            ValueError: if there is no such video, or the context does not fit.
            TypeError: for an unknown option.

        Example:
            videos = generator.generate(length=160, num_videos=4, sampler=Halton(num_steps=20))
        """
        progress = options.pop("progress", False)
        ends = [options.pop(name) for name in ("first", "last") if name in options]
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
            **options: As for `generate`.

        Returns:
            An iterator over the new frames of each chunk, uint8 [B, h, S, S, 3].

        Raises:
            ValueError: if there is no such video, or the context does not fit.
        """
        options = self._for_short_context(context, options)
        # More than two windows are enough to see how a video goes on.
        generation = self.plan(3 * self.window if length is None else length, **options)
        real = contexts.real_tokens(context, generation, num_videos, self.read_context)
        chunks = self.sample_windows(generation, real, seed=seed, endless=length is None)
        return (
            np.stack([self.tokenizer.decode(video) for video in chunk])
            for chunk in chunks
            if chunk.shape[1]
        )

    def sample_windows(
        self,
        generation: Generation,
        real: np.ndarray,
        *,
        seed: int,
        first_sample: int = 0,
        endless: bool = False,
        finished: list[np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """Samples the windows of a planned generation; `generate` is the usual way.

        Args:
            generation: The plan, from `plan`.
            real: Real tokens that the task takes, int32 [B, source_frames, h, w].
            seed: Seed of all videos.
            first_sample: Number i of the first video of this batch.
            endless: Whether to go on after the plan's last window.
            finished: Windows that were sampled before, which are not sampled again; new windows
                are appended to it, int32 [B, k, h, w] each.

        Yields:
            The new tokens of each window, int32 [B, f, h, w], in the order of sampling.
        """
        plan = EndlessPlan(plan=generation.plan) if endless else generation.plan
        context, given = generation.task.inputs(real)
        program = self._program(generation)
        chunks = program.sample_videos(
            self.model.params,
            context,
            plan,
            seed=seed,
            given=given,
            first_sample=first_sample,
            finished=finished,
        )
        skipped = len(finished or ())
        started, seconds = time.monotonic(), []
        for index, chunk in enumerate(chunks):
            yield chunk
            now = time.monotonic()
            if not endless and index >= skipped:
                window = generation.plan.windows[index]
                seconds.append((now - started) / generation.plan.window_nfe(window))
                # The median leaves out the windows that were compiled.
                self._seconds_per_evaluation = float(np.median(seconds))
            started = now

    def finish(self, generation: Generation, real: np.ndarray, chunks: list[np.ndarray]) -> Videos:
        """Puts the chunks of `sample_windows` together.

        Args:
            generation: The plan.
            real: Real tokens that the task took.
            chunks: New tokens of all windows.

        Returns:
            The videos.
        """
        task = generation.task
        tokens = np.concatenate([task.inputs(real)[0], *chunks], axis=1)
        return Videos(
            tokens=task.finish(tokens).astype(np.int32),
            known=task.finish(task.known),
            fps=self.fps,
            tokenizer=self.tokenizer,
            nfe=generation.nfe,
        )

    def _for_short_context(self, context: Any, options: dict[str, Any]) -> dict[str, Any]:
        """The options, with `known_frames` for tokens of few frames."""
        frames = options.get("context_frames", self.model.config.sampling.context_frames)
        shape = np.shape(context) if isinstance(context, np.ndarray) else ()
        if len(shape) == 4 and shape[2:] == tuple(self.model.config.tokenizer.grid):
            return {"known_frames": min(shape[1], frames), **options}
        return options

    def _program(self, generation: Generation) -> WindowProgram:
        """The compiled sampling of windows, kept for calls with the same settings."""
        sampling, backward = generation.sampling, generation.task.backward
        kind = (sampling, backward)
        if kind not in self._programs:
            self._programs[kind] = WindowProgram(
                self.model.graphdef,
                make_window_sampler(self.model.config, sampling),
                context_frames=sampling.context_frames,
                mask_id=self.model.config.tokenizer.codebook_size,
                backward=backward,
            )
        return self._programs[kind]

    def _videos(self, split: str) -> TokenVideos:
        return trained_model.find_dataset(self.model, split, self._dataset)

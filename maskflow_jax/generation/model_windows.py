"""A trained model that samples the windows of planned videos; `generator` is the way to use it."""

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.generation.request import Generation, make_window_sampler
from maskflow_jax.generation.scenes import SceneTrack
from maskflow_jax.generation.trained_model import find_dataset, find_encoder
from maskflow_jax.generation.videos import Videos
from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.sampling.plans import EndlessPlan
from maskflow_jax.scenes.conditions import Scenes
from maskflow_jax.scenes.encoders import Encoder
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.model_files import TrainedModel


class ModelWindows:
    """A model with its tokenizer, its compiled programs and what is known of their speed.

    Args:
        model: The trained model.
        tokenizer: The tokenizer of its data.
        dataset: Folder of its dataset; None for where it was.
        text_encoder: Folder of the encoder of captions, or the encoder; None for where it was.

    Attributes:
        model: The trained model.
        tokenizer: The tokenizer of its data.
    """

    def __init__(
        self,
        model: TrainedModel,
        tokenizer: Tokenizer,
        *,
        dataset: str | Path | None = None,
        text_encoder: str | Path | Encoder | None = None,
    ):
        self.model, self.tokenizer = model, tokenizer
        self._dataset, self._text_encoder = dataset, text_encoder
        self._programs: dict[Any, WindowProgram] = {}
        self._seconds_per_evaluation: float | None = None

    @functools.cached_property
    def encoder(self) -> Encoder:
        """What encodes captions or labels; ValueError for an unconditional model."""
        return find_encoder(self.model, self._text_encoder)

    def sample_windows(
        self,
        generation: Generation,
        real: np.ndarray,
        *,
        seed: int | np.ndarray,
        first_sample: int | np.ndarray = 0,
        finished: list[np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """Samples the windows of a planned generation; `generate` is the usual way.

        Args:
            generation: The plan, from `plan`.
            real: Real tokens that the task takes, int32 [B, source_frames, h, w].
            seed: Seed of all videos, or of each, [B].
            first_sample: Number i of the first video of this batch, or of each, [B]; then captions
                are by the place in the batch.
            finished: Windows that were sampled before, which are not sampled again; new windows
                are appended to it, int32 [B, k, h, w] each.

        Yields:
            The new tokens of each window, int32 [B, f, h, w], in the order of sampling.
        """
        context, given = generation.task.inputs(real)
        scenes, texts = None, generation.texts_in_order
        if texts is not None:
            rows = _rows_of_captions(first_sample, len(real))
            scenes = SceneTrack(texts, self.encoder, generation.plan, rows)
        chunks = (
            self._program(generation)
            .conditioned(scenes)
            .sample_videos(
                self.model.params,
                context,
                generation.plan,
                seed=seed,
                given=given,
                first_sample=first_sample,
                finished=finished,
            )
        )
        skipped = len(finished or ())
        started, seconds = time.monotonic(), []
        for index, chunk in enumerate(chunks):
            yield chunk
            now = time.monotonic()
            if index >= skipped:
                window = generation.plan.windows[index]
                seconds.append((now - started) / generation.plan.window_nfe(window))
                # The median leaves out the windows that were compiled.
                self._seconds_per_evaluation = float(np.median(seconds))
            started = now

    def sample_endlessly(
        self,
        generation: Generation,
        real: np.ndarray,
        *,
        seed: int,
        scenes: Callable[[int], Scenes] | None = None,
    ) -> Iterator[np.ndarray]:
        """Samples a planned generation and goes on after its last window.

        Args:
            generation: The plan of a short video.
            real: Real tokens that the task takes, int32 [B, source_frames, h, w].
            seed: Seed of all videos.
            scenes: Number of a window's first frame -> conditions of the window.

        Returns:
            An iterator over the new tokens of each window, int32 [B, f, h, w].
        """
        context, given = generation.task.inputs(real)
        program = self._program(generation).conditioned(scenes)
        plan = EndlessPlan(plan=generation.plan)
        return program.sample_videos(self.model.params, context, plan, seed=seed, given=given)

    def finish(
        self,
        generation: Generation,
        real: np.ndarray,
        chunks: list[np.ndarray],
        *,
        first_sample: int | np.ndarray = 0,
    ) -> Videos:
        """Puts the chunks of `sample_windows` together.

        Args:
            generation: The plan.
            real: Real tokens that the task took.
            chunks: New tokens of all windows.
            first_sample: As for `sample_windows`.

        Returns:
            The videos.
        """
        task, texts = generation.task, generation.texts
        if texts is not None:
            texts = texts.of_videos(_rows_of_captions(first_sample, len(real)))
        tokens = np.concatenate([task.inputs(real)[0], *chunks], axis=1)
        return Videos(
            tokens=task.finish(tokens).astype(np.int32),
            known=task.finish(task.known),
            fps=self.fps,
            tokenizer=self.tokenizer,
            nfe=generation.nfe,
            texts=texts,
        )

    @property
    def window(self) -> int:
        """Number of frames k of the training window."""
        return self.model.config.data.clip_frames

    @property
    def fps(self) -> float:
        """Frames per second of the videos the model was trained on."""
        rate = self.model.config.data.source.get("fps")
        return float(rate) if rate else float(self._videos("train")[0]["fps"])

    def _videos(self, split: str) -> TokenVideos:
        """The dataset's videos of a split."""
        return find_dataset(self.model, split, self._dataset)

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

    def _for_short_context(self, context: Any, options: dict[str, Any]) -> dict[str, Any]:
        """The options, with `known_frames` for tokens of few frames."""
        frames = options.get("context_frames", self.model.config.sampling.context_frames)
        shape = np.shape(context) if isinstance(context, np.ndarray) else ()
        if len(shape) == 4 and shape[2:] == tuple(self.model.config.tokenizer.grid):
            return {"known_frames": min(shape[1], frames), **options}
        return options


def _rows_of_captions(first_sample: int | np.ndarray, count: int) -> range:
    """Which rows of captions the videos of a batch have."""
    start = 0 if np.ndim(first_sample) else first_sample
    return range(start, start + count)

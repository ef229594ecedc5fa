"""The unmasking of a window as a video: which token a sampler reveals at which step."""

from collections.abc import Iterable

import jax
import numpy as np
from absl import logging
from einops import rearrange
from flax import nnx
from PIL import Image, ImageDraw
from tqdm import tqdm

from maskflow_jax.config import SamplingConfig
from maskflow_jax.generation.request import Generation, make_window_sampler
from maskflow_jax.generation.scenes import SceneTrack
from maskflow_jax.generation.videos import Videos
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.sampling.types import WindowTokens
from maskflow_jax.sampling.window import trajectory
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.model_files import TrainedModel

GREY = 96  # of masked tokens
LABEL_HEIGHT = 14  # pixels
GAP = 1  # pixels between frames
HOLD = 0.25  # of the animation's length, the finished window stands still


def reveal_videos(
    generator: VideoGenerator, samplings: Iterable[tuple[str, SamplingConfig]]
) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    """Samples a window after the first frames of the first validation video by several samplers.

    A terminal shows a bar; elsewhere a line is logged for each sampler.

    Args:
        generator: The model.
        samplings: Label and settings of each sampler.

    Returns:
        A row for each sampler, for `animate`: its label and the result of `reveal`.

    Raises:
        FileNotFoundError: if the dataset is missing.
        ValueError: for rolling, which fills no window by itself.
    """
    rows = []
    with tqdm(list(samplings), "samplers", disable=None) as bar:
        for label, sampling in bar:
            context = generator.read_context(frames=sampling.context_frames, indices=0)
            rows.append((label, *reveal(generator.model, sampling, context[0])))
            if bar.disable:
                logging.info("%s: sampled a window in %d steps", label, rows[-1][-1])
    return rows


def reveal(
    model: TrainedModel, sampling: SamplingConfig, context: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, int]:
    """Samples one window.

    Args:
        model: The trained model.
        sampling: The sampler; its stride has no part in it.
        context: Known tokens, int32 [m, h, w].
        seed: Seed of the sample.

    Returns:
        tokens int32 [k, h, w], reveal_step int32 [k, h, w], and the number of steps.

    Raises:
        ValueError: for rolling, which fills no window by itself.
    """
    if sampling.sampler.name == "rolling":
        raise ValueError("rolling fills no window by itself; show another sampler")
    config, known_frames = model.config, len(context)
    shape = (1, config.data.clip_frames, *context.shape[1:])
    tokens = np.full(shape, config.tokenizer.codebook_size, np.int32)
    tokens[0, :known_frames] = context
    known = np.broadcast_to(np.arange(shape[1])[:, None, None] < known_frames, shape)
    keys = jax.random.split(jax.random.key(seed), 1)
    return _sample_one(model, sampling, keys, WindowTokens(tokens, known), known_frames)


def reveal_again(
    generator: VideoGenerator,
    generation: Generation,
    real: np.ndarray,
    videos: Videos,
    *,
    seed: int,
    window: int = 0,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Samples a window of a generated video again, to see in which order it was revealed.

    Args:
        generator: The trained model.
        generation: The plan of the video, with its captions if it has any.
        real: The real tokens that it took, int32 [1, F, h, w].
        videos: The video, alone; it may have been stopped after the window.
        seed: The seed that it was made with.
        window: Number of the window.

    Returns:
        tokens int32 [k, h, w], reveal_step int32 [k, h, w], and the number of steps, frames in the
        order of the video. The last window of a video may reach beyond its end.

    Raises:
        ValueError: for rolling, which fills no window by itself, or if there is no such window.
    """
    task, sampling = generation.task, generation.sampling
    if sampling.sampler.name == "rolling":
        raise ValueError("rolling fills no window by itself; show another sampler")
    if not 0 <= window < len(task.plan.windows):
        raise ValueError(f"there is no window {window}; the video has {len(task.plan.windows)}")
    inputs, context = _window_again(generator, generation, real, videos, window)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), window)
    sampled, steps, count = _sample_one(
        generator.model, sampling, key[None], inputs, context, backward=task.backward
    )
    order = slice(None, None, -1 if task.backward else 1)
    return sampled[order], steps[order], count


def _window_again(
    generator: VideoGenerator,
    generation: Generation,
    real: np.ndarray,
    videos: Videos,
    number: int,
) -> tuple[WindowTokens, int]:
    """A window of a finished video before it was sampled, and its number of context frames."""
    task, windows = generation.task, generation.plan.windows
    made = np.flip(videos.tokens, 1) if task.backward else videos.tokens
    done = task.plan.known_at_start + sum(window.finished for window in windows[:number])
    context, given = windows[number].context, task.inputs(real)[1]
    shape = (1, generator.window, *made.shape[2:])
    tokens = np.full(shape, generator.model.config.tokenizer.codebook_size, np.int32)
    known, scenes = np.zeros(shape, bool), None
    if generation.texts is not None:
        texts, encoder = generation.texts_in_order, generator.encoder
        scenes = SceneTrack(texts, encoder, generation.plan, [0])(done - context)
    if given is not None:
        here = slice(done - context, done - context + shape[1])
        count = given.known[:, here].shape[1]  # the last window may reach beyond the video
        known[:, :count] = given.known[:, here]
        tokens[:, :count] = np.where(known[:, :count], given.tokens[:, here], tokens[:, :count])
    tokens[:, :context], known[:, :context] = made[:, done - context : done], True
    if not generation.sampling.context_cache:  # as `WindowProgram` calls the sampler
        context = min(context, generation.sampling.context_frames)
    return WindowTokens(tokens, known, scenes=scenes), context


def _sample_one(
    model: TrainedModel,
    sampling: SamplingConfig,
    keys: jax.Array,
    window: WindowTokens,
    context_frames: int,
    *,
    backward: bool = False,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Samples a window: tokens and reveal_step int32 [k, h, w], and the number of steps."""
    sample = make_window_sampler(model.config, sampling)

    @jax.jit
    def sample_one(params, keys, tokens, known, scenes):
        network = nnx.merge(model.graphdef, params)
        inputs = WindowTokens(tokens, known, scenes=scenes)
        return sample(network, keys, inputs, context_frames=context_frames, backward=backward)

    inputs = (window.tokens, window.known, window.scenes)
    sampled, steps = sample_one(model.params, keys, *inputs)
    return np.asarray(sampled[0]), np.asarray(steps[0]), 1 + int(np.max(steps))


def animate(
    tokenizer: Tokenizer,
    rows: list[tuple[str, np.ndarray, np.ndarray, int]],
    *,
    num_images: int = 40,
    upscale: int = 1,
) -> np.ndarray:
    """Draws windows side by side in their progress from masked to clean.

    The finished frames are uncovered token by token; masked tokens are grey.

    Args:
        tokenizer: decodes.
        rows: (label, tokens [k, h, w], reveal_step [k, h, w], steps) of each window.
        num_images: images from the first step to the last.
        upscale: whole factor of size.

    Returns:
        uint8 [F, H, W, 3], a row per window and a column per frame.
    """
    decoded = [tokenizer.decode(tokens) for _, tokens, _, _ in rows]
    progress = np.concatenate([np.linspace(0, 1, num_images), np.ones(round(HOLD * num_images))])
    images = []
    for share in progress:
        parts = []
        for (label, _, steps, num_steps), frames in zip(rows, decoded, strict=True):
            row = draw(frames, steps, round(share * num_steps), upscale=upscale)
            parts += [_label(label, row.shape[1]), row]
        images.append(np.concatenate(parts))
    return np.stack(images)


def draw(
    frames: np.ndarray, reveal_step: np.ndarray, num_revealing: int, *, upscale: int = 1
) -> np.ndarray:
    """Draws a window as it stood after some steps, masked tokens grey.

    Args:
        frames: The finished frames, uint8 [k, S, S, 3].
        reveal_step: int [k, h, w], from `reveal`.
        num_revealing: Number of steps taken, 0 for the start.
        upscale: Whole factor of size.

    Returns:
        uint8 [H, W, 3], frames beside each other.
    """
    seen = np.asarray(
        trajectory(np.zeros_like(reveal_step), reveal_step, num_revealing, mask_id=-1)
    )
    return _enlarge(_cover(frames, seen >= 0), upscale)


def _cover(frames: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Frames [k, S, S, 3] beside each other [S, k (S + GAP), 3], unseen tokens grey."""
    cell = frames.shape[1] // seen.shape[1]
    visible = seen.repeat(cell, axis=1).repeat(cell, axis=2)[..., None]
    covered = np.where(visible, frames, GREY)
    apart = np.pad(covered, [(0, 0), (0, 0), (0, GAP), (0, 0)], constant_values=255)
    return rearrange(apart, "k h w c -> h (k w) c").astype(np.uint8)


def _enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _label(text: str, width: int) -> np.ndarray:
    """A strip with a line of text, uint8 [LABEL_HEIGHT, width, 3]."""
    strip = Image.new("RGB", (width, LABEL_HEIGHT), "white")
    ImageDraw.Draw(strip).text((2, 1), text, fill="black")
    return np.asarray(strip)

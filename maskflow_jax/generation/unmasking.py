"""The unmasking of a window as a video: which token a sampler reveals at which step."""

import jax
import numpy as np
from einops import rearrange
from flax import nnx
from PIL import Image, ImageDraw

from maskflow_jax.config import SamplingConfig
from maskflow_jax.generation.request import make_window_sampler
from maskflow_jax.generation.trained_model import TrainedModel
from maskflow_jax.sampling.types import WindowTokens
from maskflow_jax.sampling.window import trajectory
from maskflow_jax.tokenizers.tokenizer import Tokenizer

GREY = 96  # of masked tokens
LABEL_HEIGHT = 14  # pixels
GAP = 1  # pixels between frames
HOLD = 0.25  # of the animation's length, the finished window stands still


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
    sample = make_window_sampler(config, sampling)

    @jax.jit
    def sample_one(params, tokens, known):
        network = nnx.merge(model.graphdef, params)
        keys = jax.random.split(jax.random.key(seed), 1)
        window = WindowTokens(tokens, known)
        return sample(network, keys, window, context_frames=known_frames)

    sampled, steps = sample_one(model.params, tokens, known)
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
        for (label, tokens, steps, num_steps), frames in zip(rows, decoded, strict=True):
            seen = trajectory(tokens, steps, round(share * num_steps), mask_id=-1) >= 0
            row = _enlarge(_cover(frames, np.asarray(seen)), upscale)
            parts += [_label(label, row.shape[1]), row]
        images.append(np.concatenate(parts))
    return np.stack(images)


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

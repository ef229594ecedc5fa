"""Training of the network behind the maze features (`maze_features`).

Clips of 16 frames come from training mazes, half of the videos as rendered and half after a
tokenizer, because generated video comes out of its decoder. The loss is the cross-entropy of the 15
motions and of the colours in view in each quarter of a clip.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from flax import nnx

from maskflow_jax.data.sources.maze import MazeSettings, maze_videos
from maskflow_jax.evaluation.maze_features import (
    CLIP_FRAMES,
    QUARTERS,
    MazeNetwork,
    convolve_patches,
)
from maskflow_jax.io.settings import refuse

_STANDARD_CLIPS = 1024

RoundTrip = Callable[[np.ndarray], np.ndarray]
"""Frames uint8 [F, 64, 64, 3] -> the same frames encoded and decoded by a tokenizer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MazeFeatureTraining:
    """Settings of the training.

    Attributes:
        train_videos: Number of training videos.
        test_videos: Number of validation videos.
        num_frames: Frames of a video.
        num_steps: Steps of AdamW.
        batch_size: Clips of a step.
        learning_rate: Highest learning rate; it falls to 0 along a cosine.
        weight_decay: Decoupled weight decay.
        seed: Seed of the mazes, the first weights and the batches.
    """

    train_videos: int = 480
    test_videos: int = 64
    num_frames: int = 96
    num_steps: int = 2400
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 7

    def __post_init__(self):
        """Raises ValueError for settings that cannot be trained with."""
        whole = {"train_videos": (2, None), "test_videos": (1, None), "num_steps": (1, None)}
        whole |= {"num_frames": (CLIP_FRAMES, None), "batch_size": (1, None)}
        refuse("", self, whole | {"learning_rate": (0, None), "weight_decay": (0, None)})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LabelledVideos:
    """Videos with what happens in them.

    Attributes:
        frames: uint8 [V, F, 64, 64, 3].
        motion: Motion that leads from each frame to the next, int8 [V, F].
        colours: Colours in view, bool [V, F, 8].
    """

    frames: np.ndarray
    motion: np.ndarray
    colours: np.ndarray

    def clips(self, videos: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Cuts clips: frames [B, 16, ...], motions [B, 15], colours in quarters [B, 4, 8]."""
        at = (videos[:, None], starts[:, None] + np.arange(CLIP_FRAMES))
        seen = self.colours[at].reshape(len(videos), QUARTERS, -1, self.colours.shape[-1])
        return self.frames[at], self.motion[at][:, :-1].astype(np.int32), seen.any(axis=2)


def render_labelled(
    settings: MazeFeatureTraining, split: str, round_trip: RoundTrip, *, share: float = 0.5
) -> LabelledVideos:
    """Renders the videos of a split with their labels.

    Args:
        settings: The settings.
        split: "train" or "test".
        round_trip: Encodes and decodes frames.
        share: Share of the videos, the first ones, that go through it.

    Raises:
        ImportError: If VizDoom is not installed.
    """
    count = settings.train_videos if split == "train" else settings.test_videos
    source = MazeSettings(
        num_videos=count, num_frames=settings.num_frames, seed=settings.seed, split=split
    )
    frames, motion, colours = [], [], []
    for number, video in enumerate(maze_videos(source)):
        decoded = number < share * count
        frames.append(round_trip(video.frames) if decoded else video.frames)
        motion.append(video.labels.walk.motion)
        colours.append(video.labels.colours_seen)
    return LabelledVideos(
        frames=np.stack(frames), motion=np.stack(motion), colours=np.stack(colours)
    )


def train_maze_network(settings: MazeFeatureTraining, videos: LabelledVideos) -> MazeNetwork:
    """Trains a network.

    Args:
        settings: The settings.
        videos: Training videos.

    Returns:
        The network.
    """
    network = MazeNetwork(nnx.Rngs(settings.seed))
    graphdef, params = nnx.split(network)
    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.num_steps)
    optimizer = optax.adamw(rate, weight_decay=settings.weight_decay)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    state = optimizer.init(params)

    def loss(params, clips, motion, colours):
        network = nnx.merge(graphdef, params)
        motion_logits, colour_logits = network.labels(network.features(clips, convolve_patches))
        of_motion = optax.softmax_cross_entropy_with_integer_labels(motion_logits, motion)
        of_colours = optax.sigmoid_binary_cross_entropy(colour_logits, colours)
        return of_motion.mean() + of_colours.mean()

    @jax.jit
    def step(params, state, *batch):
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    rng = np.random.default_rng(settings.seed)
    count, last = len(videos.frames), videos.frames.shape[1] - CLIP_FRAMES
    for number in range(1, settings.num_steps + 1):
        chosen = rng.integers(0, count, settings.batch_size)
        batch = videos.clips(chosen, rng.integers(0, last + 1, settings.batch_size))
        params, state, value = step(params, state, *batch)
        if number % 100 == 0 or number == settings.num_steps:
            logging.info("step %d/%d: loss %.4f", number, settings.num_steps, value)
    network = nnx.merge(graphdef, params)
    standardise(network, videos, rng)
    return network


def standardise(network: MazeNetwork, videos: LabelledVideos, rng: np.random.Generator) -> None:
    """Shifts and scales the features to mean 0 and variance 1 over real clips; labels stay.

    Without it the kernel distance, a cube of products, would see the widest features alone.
    """
    chosen = rng.integers(0, len(videos.frames), _STANDARD_CLIPS)
    starts = rng.integers(0, videos.frames.shape[1] - CLIP_FRAMES + 1, _STANDARD_CLIPS)
    read = nnx.jit(lambda network, clips: network.features(clips))
    parts = [
        read(network, videos.clips(chosen[at : at + 32], starts[at : at + 32])[0])
        for at in range(0, _STANDARD_CLIPS, 32)
    ]
    features = np.concatenate(parts)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    project = network.project
    project.bias[...] = (project.bias[...] - mean) / scale
    project.kernel[...] = project.kernel[...] / scale
    for head in (network.motion, network.colours):
        head.bias[...] = head.bias[...] + mean @ head.kernel[...]
        head.kernel[...] = head.kernel[...] * scale[:, None]


def maze_network_accuracy(network: MazeNetwork, videos: LabelledVideos) -> dict[str, float]:
    """Shares of motions and of colours in view that a network recognises, clip after clip.

    Args:
        network: The network.
        videos: Validation videos.

    Returns:
        `motion` and `colours`, each in [0, 1].
    """
    graphdef, params = nnx.split(network)

    @jax.jit
    def read(params, clips):
        network = nnx.merge(graphdef, params)
        motion, colours = network.labels(network.features(clips))
        return jnp.argmax(motion, axis=-1), colours > 0

    hits: dict[str, list[np.ndarray]] = {"motion": [], "colours": []}
    everyone = np.arange(len(videos.frames))
    for start in range(0, videos.frames.shape[1] - CLIP_FRAMES + 1, CLIP_FRAMES):
        clips, motion, colours = videos.clips(everyone, np.full(len(everyone), start))
        read_motion, read_colours = read(params, clips)
        hits["motion"].append(read_motion == motion)
        hits["colours"].append(read_colours == colours)
    return {name: float(np.mean(parts)) for name, parts in hits.items()}

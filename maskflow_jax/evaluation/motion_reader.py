"""Does the camera of a generated maze video move as it may? Poses are read from single frames.

The camera of `data.sources.maze` is on rails, so its pose relative to the block that it is in is
one of few: with 4 frames per block and 6 per quarter circle, 4 places on a straight line and 5 in
each kind of turn. From each pose only certain poses can follow. A small network reads the pose from
the lower half of a frame, where the floor is; a pair of frames is legal if the second pose may
follow the first. The share of legal pairs, and of turns, compare generated with real video, which
has to be read by the same reader after the same tokenizer: the reader errs, too.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file, save_file

from maskflow_jax.data.sources.maze_map import CELL
from maskflow_jax.data.sources.maze_motion import MOTIONS, Walk

FRAMES_PER_CELL, FRAMES_PER_TURN = 4, 6
NUM_POSES = FRAMES_PER_CELL + 2 * (FRAMES_PER_TURN - 1)
CONFIDENCE = 0.9  # probability of a pose above which the reader is sure
SHIPPED = Path(__file__).parent / "pretrained" / "motion_reader.safetensors"

_POOLING = 2  # pixels along a side that are averaged
_HIDDEN = 192
_BATCH = 256
_LEARNING_RATE = 2e-3
_LEFT_1 = FRAMES_PER_CELL
_RIGHT_1 = FRAMES_PER_CELL + FRAMES_PER_TURN - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motions:
    """What was read from videos.

    Attributes:
        poses: Pose of each frame, int [B, F].
        legal: Whether each pose may follow the one before, bool [B, F - 1].
        turning: Whether each frame is within a turn, bool [B, F].
        confident: Whether the reader is sure of both frames of each pair (`CONFIDENCE`), bool
            [B, F - 1]; None if that was not asked.
    """

    poses: np.ndarray
    legal: np.ndarray
    turning: np.ndarray
    confident: np.ndarray | None = None

    def by_window(self, window_frames: int) -> list[dict[str, float]]:
        """Shares in consecutive windows, which show how a rollout drifts.

        Args:
            window_frames: Number of frames in a window; a last part that is shorter is left out.

        Returns:
            For each window the shares `legal`, of the pairs of frames that end in it, and
            `turning`, of its frames; also `legal_with_confidence`, of the same pairs, if that was
            read.
        """
        shares = {"legal": _of_pairs(self.legal), "turning": self.turning}
        if self.confident is not None:
            shares["legal_with_confidence"] = _of_pairs(self.legal & self.confident)
        windows = []
        for start in range(0, self.poses.shape[1] - window_frames + 1, window_frames):
            inside = slice(start, start + window_frames)
            windows.append(
                {name: float(np.nanmean(share[:, inside])) for name, share in shares.items()}
            )
        return windows


class MotionReader:
    """Reads poses from frames of 64x64 pixels."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self._weights = {name: np.asarray(value, np.float32) for name, value in weights.items()}

    @classmethod
    def load(cls, path: Path = SHIPPED) -> "MotionReader":
        """Loads a reader, by default the one that ships with the package.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no motion reader at {path}: fit one and save it there")
        return cls(load_file(path))

    def save(self, path: Path) -> None:
        """Writes the reader in half precision."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: value.astype(np.float16) for n, value in self._weights.items()}, path)

    def poses(self, frames: np.ndarray) -> np.ndarray:
        """Reads the pose of each frame.

        Args:
            frames: uint8 [..., 64, 64, 3].

        Returns:
            Poses int [...], 0 to `NUM_POSES` - 1.
        """
        return np.argmax(self._probabilities(frames), axis=-1)

    def _probabilities(self, frames: np.ndarray) -> np.ndarray:
        """Probabilities of the poses of frames, float32 [..., NUM_POSES]."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        starts = range(0, len(flat), 1024)
        logits = [_logits(self._weights, _features(flat[i : i + 1024])) for i in starts]
        probabilities = jax.nn.softmax(np.concatenate(logits), axis=-1)
        return np.asarray(probabilities).reshape(*frames.shape[:-3], NUM_POSES)

    def read(self, videos: np.ndarray) -> Motions:
        """Reads videos uint8 [B, F, 64, 64, 3]."""
        probabilities = self._probabilities(videos)
        poses, sure = probabilities.argmax(axis=-1), probabilities.max(axis=-1) > CONFIDENCE
        return Motions(
            poses=poses,
            legal=may_follow()[poses[:, :-1], poses[:, 1:]],
            turning=poses >= FRAMES_PER_CELL,
            confident=sure[:, :-1] & sure[:, 1:],
        )


def _of_pairs(values: np.ndarray) -> np.ndarray:
    """Values [B, F - 1] of pairs at the frame that ends each, float [B, F]; NaN at the first."""
    return np.pad(values.astype(float), ((0, 0), (1, 0)), constant_values=np.nan)


def poses_of(walk: Walk) -> np.ndarray:
    """The poses of a walk with the default speed and turn rate, int [F].

    0 to 3 are the places on a straight line, the first one on the border of a block; 4 to 8 follow
    in a turn to the left, 9 to 13 in a turn to the right.
    """
    turned = np.rint(walk.heading % 90 / 90 * FRAMES_PER_TURN).astype(int) % FRAMES_PER_TURN
    direction = np.rint(walk.heading / 90).astype(int) % 4
    along = np.choose(direction, [*walk.position.T, *-walk.position.T])
    straight = np.floor(along % CELL / CELL * FRAMES_PER_CELL + 0.5).astype(int) % FRAMES_PER_CELL
    left = _LEFT_1 + turned - 1
    right = _RIGHT_1 + (FRAMES_PER_TURN - turned) - 1
    in_turn = np.where(walk.motion == MOTIONS.index("left"), left, right)
    return np.where(turned == 0, straight, in_turn)


def may_follow() -> np.ndarray:
    """Whether a pose (column) may follow a pose (row), bool [NUM_POSES, NUM_POSES]."""
    allowed = np.zeros((NUM_POSES, NUM_POSES), bool)
    lines = (
        range(FRAMES_PER_CELL),
        [0, *range(_LEFT_1, _RIGHT_1)],
        [0, *range(_RIGHT_1, NUM_POSES)],
    )
    for line in lines:
        for pose, following in zip(line, [*line[1:], 0], strict=True):
            allowed[pose, following] = True
    return allowed


def fit_motion_reader(
    frames: np.ndarray, poses: np.ndarray, *, num_steps: int = 3000, seed: int = 0
) -> MotionReader:
    """Fits a reader.

    Args:
        frames: uint8 [N, 64, 64, 3], as they will be read: decoded by the tokenizer, if so.
        poses: Their poses, int [N].
        num_steps: Steps of Adam, with a decaying rate.
        seed: Seed of the first weights and the batches.

    Returns:
        The reader.
    """
    rng = np.random.default_rng(seed)
    features = _features(frames[:1]).shape[-1]
    weights = {
        "in": rng.normal(0, features**-0.5, (features, _HIDDEN)),
        "in_bias": np.zeros(_HIDDEN),
        "middle": rng.normal(0, _HIDDEN**-0.5, (_HIDDEN, _HIDDEN)),
        "middle_bias": np.zeros(_HIDDEN),
        "out": rng.normal(0, _HIDDEN**-0.5, (_HIDDEN, NUM_POSES)),
        "out_bias": np.zeros(NUM_POSES),
    }
    weights = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights)
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(_LEARNING_RATE, num_steps), weight_decay=1e-3
    )
    state = optimizer.init(weights)

    def loss(weights, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(_logits(weights, x), y).mean()

    @jax.jit
    def step(weights, state, x, y):
        updates, state = optimizer.update(jax.grad(loss)(weights, x, y), state, weights)
        return optax.apply_updates(weights, updates), state

    for _ in range(num_steps):
        chosen = rng.integers(0, len(frames), _BATCH)
        weights, state = step(weights, state, _features(frames[chosen]), poses[chosen])
    return MotionReader(weights)


def _features(frames: np.ndarray) -> np.ndarray:
    """The lower half of frames uint8 [N, 64, 64, 3], averaged, float32 [N, features]."""
    lower = frames[:, frames.shape[1] // 2 :].astype(np.float32) / 255 - 0.5
    return einops.reduce(lower, "n (h p) (w q) c -> n (h w c)", "mean", p=_POOLING, q=_POOLING)


def _logits(weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """Scores of the poses, [N, NUM_POSES]."""
    for name in ("in", "middle"):
        x = jax.nn.gelu(x @ weights[name] + weights[f"{name}_bias"])
    return x @ weights["out"] + weights["out_bias"]

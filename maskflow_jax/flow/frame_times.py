"""Distributions of training times: the time t of every frame of a clip.

MaskFlow draws an independent time for every frame (arXiv 2502.11234, Algorithm 1). The network thus
learns every mixture of clean and masked frames, so it can extend a video from any number of context
frames. All drawn times are at least `MIN_TIME`, because at time 0 a frame has no clean token.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MIN_TIME = 1e-3


def frame(key: jax.Array, batch: int, frames: int) -> jax.Array:
    """Draws t ~ U(MIN_TIME, 1) for every frame independently, as MaskFlow does.

    Args:
        key: PRNG key.
        batch: Number of clips B.
        frames: Number of frames T of a clip.

    Returns:
        Times float32 [B, T].

    Source: MaskFlow, arXiv 2502.11234, Algorithm 1.
    """
    return jax.random.uniform(key, (batch, frames), minval=MIN_TIME, maxval=1.0)


def constant(key: jax.Array, batch: int, frames: int) -> jax.Array:
    """Draws one t ~ U(MIN_TIME, 1) for all frames of a clip: the constant-masking baseline.

    The arguments and the result are those of `frame`.
    """
    times = jax.random.uniform(key, (batch, 1), minval=MIN_TIME, maxval=1.0)
    return jnp.broadcast_to(times, (batch, frames))


def mixed(key: jax.Array, batch: int, frames: int) -> jax.Array:
    """Draws as `frame` with probability 0.8 per clip, else one t ~ U(0.5, 1) for the whole clip.

    The released code calls this "dynamic". The arguments and the result are those of `frame`.
    """
    choice_key, frame_key, constant_key = jax.random.split(key, 3)
    independent = jax.random.bernoulli(choice_key, 0.8, (batch, 1))
    shared = jax.random.uniform(constant_key, (batch, 1), minval=0.5, maxval=1.0)
    return jnp.where(independent, frame(frame_key, batch, frames), shared)


def frame_clean(key: jax.Array, batch: int, frames: int) -> jax.Array:
    """Draws as `frame`, then, in half of the clips, makes a random set of frames clean (time 1).

    For such a clip a probability q ~ U(0, 1) is drawn, and each of its frames is clean with
    probability q. The other distributions never draw a time of exactly 1, so a network that treats
    clean frames differently (`isolated_context` of `models.latte`) needs this one. The arguments
    and the result are those of `frame`.
    """
    clip_key, share_key, set_key, frame_key = jax.random.split(key, 4)
    some = jax.random.bernoulli(clip_key, 0.5, (batch, 1))
    share = jax.random.uniform(share_key, (batch, 1))
    clean = some & (jax.random.uniform(set_key, (batch, frames)) < share)
    return jnp.where(clean, 1.0, frame(frame_key, batch, frames))


def clean_but_last_scene(
    key: jax.Array, times: jax.Array, scene_id: jax.Array, probability: float
) -> jax.Array:
    """Makes all scenes but the last one clean (time 1) in a share of the clips.

    Times drawn from U(MIN_TIME, 1) are never exactly 1, so otherwise no clip would have an entirely
    clean context. In these clips only the last scene enters the loss, because a clean frame has no
    masked token.

    Args:
        key: PRNG key.
        times: Drawn times, float32 [B, T].
        scene_id: Scene number of each frame, int [B, T]; the last scene has the highest number.
        probability: Probability with which a clip is changed.

    Returns:
        Times float32 [B, T].

    Source: Qi et al., Mask^2DiT, arXiv 2503.19881, section 3.3.
    """
    chosen = jax.random.bernoulli(key, probability, (len(times), 1))
    before_last = scene_id < jnp.max(scene_id, axis=1, keepdims=True)
    return jnp.where(chosen & before_last, 1.0, times)


FRAME_TIMES: dict[str, Callable[[jax.Array, int, int], jax.Array]] = {
    "frame": frame,
    "constant": constant,
    "mixed": mixed,
    "frame_clean": frame_clean,
}

"""Training times: which moment of the path each frame of a clip is shown at.

MaskFlow draws a time for every frame on its own (Algorithm 1), so that one network learns every
mixture of clean and masked frames: that is what lets it extend a video by chunks of any context.
All distributions keep `MIN_TIME` away from 0, where a frame carries no token at all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MIN_TIME = 1e-3


def frame(key: jax.Array, batch: int, frames: int) -> jax.Array:
    """Draws t ~ U(MIN_TIME, 1) for every frame independently: the method.

    Args:
        key: PRNG key.
        batch: number of clips B.
        frames: frames per clip T.

    Returns:
        Times float32 [B, T].
    """
    return jax.random.uniform(key, (batch, frames), minval=MIN_TIME, maxval=1.0)


def constant(key: jax.Array, batch: int, frames: int) -> jax.Array:
    """Draws one t ~ U(MIN_TIME, 1) for all frames of a clip: the constant-masking baseline.

    Arguments and result are those of `frame`.
    """
    times = jax.random.uniform(key, (batch, 1), minval=MIN_TIME, maxval=1.0)
    return jnp.broadcast_to(times, (batch, frames))


def mixed(key: jax.Array, batch: int, frames: int) -> jax.Array:
    """Draws as `frame` with probability 0.8 per clip, else one t ~ U(0.5, 1) for the whole clip.

    The released code calls this "dynamic". Arguments and result are those of `frame`.
    """
    choice_key, frame_key, constant_key = jax.random.split(key, 3)
    independent = jax.random.bernoulli(choice_key, 0.8, (batch, 1))
    shared = jax.random.uniform(constant_key, (batch, 1), minval=0.5, maxval=1.0)
    return jnp.where(independent, frame(frame_key, batch, frames), shared)


def frame_clean(key: jax.Array, batch: int, frames: int) -> jax.Array:
    """Draws as `frame`, then, in half of the clips, makes a random set of frames clean (time 1).

    The share q ~ U(0, 1) of such a clip's clean frames is drawn too, and each frame is clean with
    probability q. U(MIN_TIME, 1) is never exactly 1, so a network that treats clean frames in a way
    of its own (`models.latte`, `isolated_context`) learns it here. Arguments and result are those
    of `frame`.
    """
    clip_key, share_key, set_key, frame_key = jax.random.split(key, 4)
    some = jax.random.bernoulli(clip_key, 0.5, (batch, 1))
    share = jax.random.uniform(share_key, (batch, 1))
    clean = some & (jax.random.uniform(set_key, (batch, frames)) < share)
    return jnp.where(clean, 1.0, frame(frame_key, batch, frames))


def clean_but_last_scene(
    key: jax.Array, times: jax.Array, scene_id: jax.Array, probability: float
) -> jax.Array:
    """Makes all scenes but the last exactly clean in a share of the clips: the conditional mask.

    U(MIN_TIME, 1) is never exactly 1, so without this no clip would have a whole clean context. The
    loss falls on the last scene by itself, because a clean frame has no masked token.

    Args:
        key: PRNG key.
        times: drawn times [B, T].
        scene_id: int [B, T]; the last scene of a clip is the one with the highest number.
        probability: share of the clips.

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

"""Held-out cross-entropy of new frames after a clean context, as a sampler sees them.

Training's measure gives every frame a time of its own; here the first m frames of a clip are known
and the others are masked to times drawn from U(0, 1), frame by frame. It is what a network is asked
in a rollout, and it tells what a cached context costs.
"""

import jax
import jax.numpy as jnp

from maskflow_jax.flow.corruption import mask_tokens
from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.sampling.types import Network
from maskflow_jax.sampling.window_sampler import window_features


def context_cross_entropy(
    network: Network,
    schedule: Schedule,
    key: jax.Array,
    tokens: jax.Array,
    valid: jax.Array,
    *,
    context_frames: int,
    mask_id: int,
    cached: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Sums the cross-entropy of masked tokens after a clean context.

    The same key gives the same masks, whatever the network and whether it is cached.

    Args:
        network: the network.
        schedule: the one it was trained with.
        key: of times and masks.
        tokens: clean tokens int [B, T, H, W].
        valid: bool [B], the clips that count.
        context_frames: m, 1 to T - 1.
        mask_id: the mask token.
        cached: whether the context is run by itself.

    Returns:
        The cross-entropy in nats and the number of masked tokens, float32 [B] each; 0 where not
        valid.
    """
    tokens = tokens.astype(jnp.int32)
    time_key, mask_key = jax.random.split(key)
    times = jax.random.uniform(time_key, tokens.shape[:2], maxval=1.0 - 1e-6)
    times = jnp.where(jnp.arange(tokens.shape[1]) < context_frames, 1.0, times)
    x = mask_tokens(mask_key, tokens, schedule.kappa(times), mask_id)
    features = window_features(network, tokens, context_frames, cached=cached)(x, times)
    new = slice(context_frames, None)
    masked = (x[:, new] == mask_id) & valid[:, None, None, None]

    def frame_sums(frame):
        features, tokens, masked = (a[:, None] for a in frame)
        log_p = jax.nn.log_softmax(network.logits(features).astype(jnp.float32))
        picked = jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(masked, -picked, 0.0), axis=(1, 2, 3))

    frames = (jnp.moveaxis(a, 1, 0) for a in (features, tokens[:, new], masked))
    cross_entropy = jnp.sum(jax.lax.map(frame_sums, tuple(frames)), axis=0)
    return cross_entropy, jnp.sum(masked, axis=(1, 2, 3), dtype=jnp.float32)

"""Validation cross-entropy, the measure of a model that needs no samples and no other network.

`bits_per_token` masks clips at fixed times, so that two models are asked the same. In
`context_cross_entropy` the first m frames of a clip are known and the others are masked to times
drawn from U(0, 1), frame by frame: it is what a network is asked in a rollout, and it tells what a
cached context costs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.flow.corruption import mask_tokens
from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.flow.weighting import elbo
from maskflow_jax.sampling.types import Network
from maskflow_jax.sampling.window_sampler import window_features

NUM_TIMES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitsPerToken:
    """Validation cross-entropy in bits per masked token.

    Attributes:
        mean: Over all masked tokens.
        error: Its standard error over clips.
        by_time: For each of the `NUM_TIMES` times of a frame, lowest first.
        by_frame: For each frame of the clip.
        bound: Upper bound of the bits per token of a whole clip; None where it is not one.
    """

    mean: float
    error: float
    by_time: tuple[float, ...]
    by_frame: tuple[float, ...]
    bound: float | None


def bits_per_token(
    network_of: Callable[[Any], Network],
    params: Any,
    schedule: Schedule,
    clips: np.ndarray,
    *,
    mask_id: int,
    seed: int = 0,
    batch_size: int = 8,
    bound: bool = False,
) -> BitsPerToken:
    """Measures a network on validation clips at fixed times.

    Each frame is shown at the times 0.05, 0.15 ... 0.95 in turn, and at which of them it begins is
    drawn for each frame on its own. Times and masks of clip i depend on the seed and on i only.

    Args:
        network_of: Parameters -> network.
        params: Its parameters.
        schedule: The one it was trained with.
        clips: Tokens int [N, T, H, W].
        mask_id: The mask token.
        seed: Seed of times and masks.
        batch_size: Clips at a time.
        bound: Whether to measure the likelihood bound, too. It is one for networks that were
            trained with one time per clip (`flow.weighting.elbo`).

    Raises:
        ValueError: If there is no clip.
    """
    if not len(clips):
        raise ValueError("no validation clips: give at least one")
    ask = jax.jit(functools.partial(_ask, network_of, schedule, mask_id))
    found = []
    for start in range(0, len(clips), batch_size):
        numbers = np.minimum(np.arange(start, start + batch_size), len(clips) - 1)
        batch = jnp.asarray(clips[numbers], jnp.int32)
        sums = ask(params, jax.random.key(seed), numbers, batch, False)
        bounds = ask(params, jax.random.key(seed + 1), numbers, batch, True) if bound else sums
        valid = min(batch_size, len(clips) - start)
        found.append([np.asarray(x, np.float64)[:, :valid] for x in (*sums[:3], bounds[3])])
    parts = zip(*found, strict=True)
    nats, count, times, weighted = (np.concatenate(part, axis=1) for part in parts)
    per_clip, clip_counts = nats.sum((0, 2)), count.sum((0, 2))  # passes, clips, frames
    mean, ln2 = nats.sum() / count.sum(), math.log(2)
    at = np.rint(times * NUM_TIMES - 0.5).astype(int)
    by_time = [nats[at == i].sum() / max(count[at == i].sum(), 1) for i in range(NUM_TIMES)]
    return BitsPerToken(
        mean=float(mean / ln2),
        error=float(np.linalg.norm(per_clip - mean * clip_counts) / count.sum() / ln2),
        by_time=tuple(float(x / ln2) for x in by_time),
        by_frame=tuple(float(x) for x in nats.sum((0, 1)) / count.sum((0, 1)) / ln2),
        bound=float(weighted.mean(axis=0).sum() / clips.size / ln2) if bound else None,
    )


def _ask(network_of, schedule, mask_id, params, key, numbers, tokens, whole):
    """Cross-entropy, masked tokens, times and weighted cross-entropy, [NUM_TIMES, B, T] each.

    With `whole`, all frames of a clip have one time, drawn within each tenth of [0, 1].
    """
    network, frames = network_of(params), tokens.shape[1]
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)

    def one_pass(index):
        def corrupt(key, clip):
            shift_key, mask_key = jax.random.split(key)
            shift = jax.random.randint(shift_key, (frames,), 0, NUM_TIMES)
            place = jnp.where(
                whole,
                index + jax.random.uniform(shift_key),
                (shift + index) % NUM_TIMES + 0.5,
            )
            times = place / NUM_TIMES
            mask_key = jax.random.fold_in(mask_key, index)
            hidden = mask_tokens(mask_key, clip[None], schedule.kappa(times)[None], mask_id)
            return times, hidden[0]

        times, x = jax.vmap(corrupt)(keys, tokens)
        masked = x == mask_id
        nats = _by_frame(network, network.features(x, times), tokens, masked)
        count = jnp.sum(masked, axis=(2, 3), dtype=jnp.float32)
        return nats, count, times, nats * elbo(schedule, times)

    return jax.lax.map(one_pass, jnp.arange(NUM_TIMES))


def _by_frame(network: Network, features, tokens, masked) -> jax.Array:
    """Cross-entropy in nats, summed over the masked tokens of each frame, float32 [B, T]."""

    def frame_sums(frame):
        features, tokens, masked = (a[:, None] for a in frame)
        log_p = jax.nn.log_softmax(network.logits(features).astype(jnp.float32))
        picked = jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(masked, -picked, 0.0), axis=(1, 2, 3))

    frames = (jnp.moveaxis(a, 1, 0) for a in (features, tokens, masked))
    return jnp.moveaxis(jax.lax.map(frame_sums, tuple(frames)), 0, 1)


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

    cross_entropy = jnp.sum(_by_frame(network, features, tokens[:, new], masked), axis=1)
    return cross_entropy, jnp.sum(masked, axis=(1, 2, 3), dtype=jnp.float32)

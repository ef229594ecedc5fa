"""Proposals: a value for every token, drawn from the network, and how probable that value was.

    x ~ Cat(softmax(logits / temperature), top-k and top-p classes only),    confidence = log p(x)

with p before top-k and top-p: cut to one class, all would be certain, and confidence would order
nothing.

A video window has far more logits than tokens (16 frames of 32x32 tokens over 16,384 classes are
1.07 GB a sample), so the vocabulary head runs over blocks of frames and only a token and a
confidence per position leave a block.

Drawing is an inverse CDF with one uniform number per token, not a Gumbel number per class, and the
CDF has two levels: the sums of blocks of `BLOCK` classes find the block, the classes of that block
find the class. Only those two short cumulative sums are ever formed. Their rounding moves a
boundary by about 1e-7; a class of probability zero is never drawn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

BLOCK = 128  # classes per block: near sqrt(16384), so both levels are equally short
INVALID = -1  # the token where the logits are no law: NaN or +inf among them, or all -inf


class Proposal(NamedTuple):
    """One proposed value per position, masked or not.

    Attributes:
        tokens: int32 [B, T, H, W].
        log_confidence: float32 [B, T, H, W], log-probability of the token at the temperature,
            before top-k and top-p.
    """

    tokens: jax.Array
    log_confidence: jax.Array


def make_propose(
    features_fn: Callable[[jax.Array, jax.Array], jax.Array],
    logits_fn: Callable[[jax.Array], jax.Array],
    *,
    view: Callable | None = None,
    **settings,
) -> Callable[..., Proposal]:
    """Builds the proposal of a network.

    Args:
        features_fn: (x int32 [B, T, H, W], t [B, T]) -> features [B, T', N, D] of the frames that
            the head runs on (`frames`, below), by default all.
        logits_fn: features [B, 1, N, D] of one frame -> logits [B, 1, H, W, K]; no mask class.
        view: what the network is shown, `views.make_view`; by default x and its times, 1 for the
            frames that are known entirely.
        **settings: of `propose_from_features`.

    Returns:
        propose(keys [B], x [B, T, H, W], Step) -> Proposal. The draw of a token depends on its
        sample's key and its place in the window only.

    Raises:
        ValueError: a setting is out of range; when run, top_k > K.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 4.
    """
    view = view or _plain_view
    return propose_from_features(
        lambda keys, x, step: features_fn(*view(keys, x, step)), logits_fn, **settings
    )


def propose_from_features(
    features_fn: Callable[..., Any],
    logits_fn: Callable[[Any], jax.Array],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    frame_block: int = 1,
    frames: slice = slice(None),
) -> Callable[..., Proposal]:
    """Builds a proposal from anything that has features: one network pass, or several combined.

    Args:
        features_fn: (keys [B], x int32 [B, T, H, W], Step) -> a pytree of features [B, T', ...] of
            the T' frames in `frames`. Its keys are not the draws' keys.
        logits_fn: the same pytree for one frame, [B, 1, ...] -> logits [B, 1, H, W, K].
        temperature: divides the logits. 0 takes the most likely class; its confidence is then its
            log-probability at temperature 1, which still tells tokens apart.
        top_k: keeps the k most likely classes, of equal ones those with the lower ids.
        top_p: then keeps the fewest of the most likely classes that hold this much probability.
        frame_block: frames whose logits exist at once; changes memory and speed, not the draw.
        frames: the frames that the head runs on, say `slice(context_frames, None)`. Elsewhere the
            proposal is x itself with log-confidence -inf.

    Returns:
        propose(keys, x, Step) -> Proposal.

    Raises:
        ValueError: a setting is out of range; when run, top_k > K.
    """
    if temperature < 0.0:
        raise ValueError(f"temperature is {temperature}; use 0 for the most likely class, or more")
    if frame_block < 1 or (top_k is not None and top_k < 1):
        raise ValueError(f"{frame_block=} and {top_k=} must be at least 1 (top_k=None: all)")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p is {top_p}; use a probability above 0, or None for all classes")
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def propose(keys: jax.Array, x: jax.Array, step) -> Proposal:
        # Drawn for all frames, so that `frames` and `frame_block` do not change any draw.
        uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
        feature_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)

        def propose_frame(inputs):
            features, uniform = inputs  # [B, ...], [B, H, W]
            features = jax.tree.map(lambda a: a[:, None], features)
            logits = logits_fn(features)[:, 0].astype(jnp.float32)  # [B, H, W, K]
            return draw(uniform, logits, **settings)

        inputs = (features_fn(feature_keys, x, step), uniform[:, frames])
        drawn = jax.lax.map(
            propose_frame,
            jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), inputs),
            batch_size=frame_block,
        )
        tokens, log_confidence = (rearrange(a, "t b h w -> b t h w") for a in drawn)
        untouched = jnp.full(x.shape, -jnp.inf, jnp.float32)
        return Proposal(x.at[:, frames].set(tokens), untouched.at[:, frames].set(log_confidence))

    return propose


def _plain_view(keys: jax.Array, x: jax.Array, step) -> tuple[jax.Array, jax.Array]:
    return x, jnp.where(jnp.all(step.known, axis=(2, 3)), 1.0, step.t)


def draw(
    uniform: jax.Array,
    logits: jax.Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Draws one class per position.

    Args:
        uniform: float32 [...], numbers in [0, 1).
        logits: float32 [..., K]; -inf excludes a class.
        temperature: see `make_propose`, as for the others.
        top_k: before top_p.
        top_p: after the temperature; sorts all classes unless there is a top_k.

    Returns:
        tokens: int32 [...]; `INVALID` where the logits are no law.
        log_probability: float32 [...], of the token before top-k and top-p.

    Raises:
        ValueError: top_k > K.
    """
    num_classes, ids = logits.shape[-1], None
    if top_k is not None and top_k > num_classes:
        raise ValueError(f"top_k is {top_k}, of {num_classes} classes; lower it or use None")
    if temperature > 0.0:
        logits = logits / temperature
    total = jnp.sum(jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True)), axis=-1)
    if top_k is not None or top_p is not None:
        # Sorted and stable, and sampled among themselves: what is cut off cannot be drawn.
        logits, ids = jax.lax.top_k(logits, top_k or num_classes)
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(shifted) if top_p is None else _nucleus(jnp.exp(shifted), top_p)
    choice = inverse_cdf(uniform, weights) if temperature > 0.0 else jnp.argmax(logits, axis=-1)
    log_probability = _take(shifted, choice) - jnp.log(total)
    tokens = choice if ids is None else _take(ids, choice)
    return jnp.where(jnp.isnan(total), INVALID, tokens).astype(jnp.int32), log_probability


def _nucleus(weights: jax.Array, top_p: float) -> jax.Array:
    """Descending weights, zero from where those before hold a share top_p of their sum."""
    cumulative = jnp.cumsum(weights, axis=-1)
    return jnp.where(cumulative - weights < top_p * cumulative[..., -1:], weights, 0.0)


def inverse_cdf(uniform: jax.Array, weights: jax.Array) -> jax.Array:
    """The first class whose cumulative weight exceeds `uniform` times the total weight.

    Args:
        uniform: float32 [...], numbers in [0, 1).
        weights: float32 [..., K], not negative and not all zero.

    Returns:
        Classes int32 [...], never one of weight zero.
    """
    padding = -weights.shape[-1] % BLOCK
    weights = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, padding)])
    blocks = rearrange(weights, "... (block item) -> ... block item", item=BLOCK)
    sums = jnp.sum(blocks, axis=-1)  # [..., K / BLOCK]
    cumulative = jnp.cumsum(sums, axis=-1)
    target = uniform * cumulative[..., -1]
    block = _first_above(cumulative, target, sums)
    before = _take(cumulative, block) - _take(sums, block)
    items = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]  # [..., BLOCK]
    item = _first_above(jnp.cumsum(items, axis=-1), target - before, items)
    return (block * BLOCK + item).astype(jnp.int32)


def _first_above(cumulative: jax.Array, target: jax.Array, weights: jax.Array) -> jax.Array:
    """Index of the first positive weight whose cumulative sum exceeds the target.

    A parallel cumulative sum may rise by an ulp across a zero weight or end below the target, so
    zero weights are excluded by name, and where rounding leaves nothing the last positive is taken.
    """
    positive = weights > 0.0
    above = positive & (cumulative > target[..., None])
    last = weights.shape[-1] - 1 - jnp.argmax(positive[..., ::-1], axis=-1)
    return jnp.where(jnp.any(above, axis=-1), jnp.argmax(above, axis=-1), last)


def _take(values: jax.Array, index: jax.Array) -> jax.Array:
    """values[..., K] at index [...]."""
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]

"""Proposals: a value for every token, drawn from the network, and the log-probability of it.

    x ~ Cat(softmax(logits / temperature), top-k and top-p classes only),    confidence = log p(x)

where p is the probability before top-k and top-p. (After a cut to one class, all values would have
probability 1, and the confidence could not order tokens.)

A video window has far more logits than tokens (16 frames of 32x32 tokens over 16,384 classes are
1.07 GB per sample), so the vocabulary head runs over blocks of frames, and only one token and one
confidence per position are kept of a block.

A value is drawn by inverting the cumulative distribution with one uniform number per token, instead
of one Gumbel number per class. The inversion has two levels: the sums over blocks of `BLOCK`
classes determine the block, and the classes of that block determine the class, so that only two
short cumulative sums are computed. Their rounding changes a probability by about 1e-7; a class of
probability zero is never drawn.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange

from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling.guidance import Guidance
from maskflow_jax.sampling.types import Proposal, Step
from maskflow_jax.sampling.views import View

BLOCK = 128  # classes per block: near sqrt(16384), so both levels are equally short
INVALID = -1  # the token where the logits are no distribution: NaN or +inf, or all -inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """Settings of the draw of a value from the network's logits.

    Attributes:
        temperature: Divides the logits. 0 takes the most likely class; its confidence is then its
            log-probability at temperature 1, which still distinguishes tokens.
        top_k: Number of most likely classes that are kept, among equal ones those with lower ids;
            None keeps all.
        top_p: Probability of the classes that are kept of those: the smallest set of the most
            likely classes that reaches it. None and 1.0 keep all.

    Raises:
        ValueError: if a setting is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        zero = self.top_p is not None and self.top_p <= 0.0
        refuse(
            "decoding",
            self,
            {"temperature": (0.0, None), "top_k": (1, None), "top_p": (0.0, 1.0)},
            more=("top_p is 0; use a probability above 0, or None for all classes",) * zero,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposer:
    """Draws proposals from a network: input, features, head, guidance, draw.

    Attributes:
        features: Function of tokens int32 [B, T, H, W] and times [B, T] to the features
            [B, T', N, D] of the T' frames on which the head runs.
        logits: Function of the features [B, 1, N, D] of one frame to logits [B, 1, H, W, K] over
            the codebook, without a mask class.
        view: Input of the network.
        decoding: Settings of the draw.
        guidance: Partial context guidance, with its time set where it is active.
        first_frame: First frame on which the head runs, which is the number of context frames. For
            frames before it the proposal is the window itself with log-confidence -inf.
        frame_block: Number of frames whose logits exist at one time; it changes memory and speed,
            but not the drawn values.
        null_features: Function like `features`, of the network without captions; None if there are
            no conditions to guide by.
    """

    features: Callable[[jax.Array, jax.Array], jax.Array]
    logits: Callable[[jax.Array], jax.Array]
    view: View
    decoding: Decoding = Decoding()
    guidance: Guidance = Guidance()
    first_frame: int = 0
    frame_block: int = 1
    null_features: Callable[[jax.Array, jax.Array], jax.Array] | None = None

    def __call__(self, keys: jax.Array, x: jax.Array, step: Step) -> Proposal:
        """Proposes a value for every position.

        Args:
            keys: One random key per sample, [B]. The draw of a token depends on its sample's key
                and on its place in the window only.
            x: The window, int32 [B, T, H, W].
            step: The state of the loop.

        Returns:
            Values int32 [B, T, H, W] and their log-probabilities.

        Raises:
            ValueError: if top_k exceeds the number of classes.

        Source: MaskFlow, arXiv 2502.11234, Algorithm 4.
        """
        guidance, views = self.guidance, (self.view,)
        if guidance.active:
            partial = dataclasses.replace(self.view, context_time=guidance.time)
            views = (self.view, partial, dataclasses.replace(self.view, context_time=0.0))
        if not (guidance.active or self._by_captions):
            return self._propose(keys, x, step, views)
        if guidance.steps is None or guidance.steps >= step.num_steps:
            return self._propose(keys, x, step, views, guided=True)
        return jax.lax.cond(
            step.index < guidance.steps,
            lambda: self._propose(keys, x, step, views, guided=True),
            lambda: self._propose(keys, x, step, (self.view,)),
        )

    @property
    def _by_captions(self) -> bool:
        return self.guidance.by_captions and self.null_features is not None

    def _propose(
        self,
        keys: jax.Array,
        x: jax.Array,
        step: Step,
        views: tuple[View, ...],
        *,
        guided: bool = False,
    ) -> Proposal:
        """Draws from the logits of one view, or from guided logits of several."""
        # Drawn for all frames, so that `first_frame` and `frame_block` do not change any draw.
        uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
        view_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        features = tuple(self.features(*view(view_keys, x, step)) for view in views)
        by_captions = guided and self._by_captions
        if by_captions:
            features += (self.null_features(*self.view(view_keys, x, step)),)

        def propose_frame(inputs):
            features, uniform = inputs  # [B, N, D] each, [B, H, W]
            full, *others = (self.logits(a[:, None])[:, 0].astype(jnp.float32) for a in features)
            if by_captions:
                null = others.pop()
                full = null + self.guidance.captions * (full - null)
            if others:
                full = full + self.guidance.weight * (others[0] - others[1])
            return draw(uniform, full, self.decoding)

        inputs = (features, uniform[:, self.first_frame :])
        drawn = jax.lax.map(
            propose_frame,
            jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), inputs),
            batch_size=self.frame_block,
        )
        tokens, log_confidence = (rearrange(a, "t b h w -> b t h w") for a in drawn)
        untouched = jnp.full(x.shape, -jnp.inf, jnp.float32)
        return Proposal(
            x.at[:, self.first_frame :].set(tokens),
            untouched.at[:, self.first_frame :].set(log_confidence),
        )


def draw(
    uniform: jax.Array, logits: jax.Array, decoding: Decoding = Decoding()
) -> tuple[jax.Array, jax.Array]:
    """Draws one class per position.

    Args:
        uniform: float32 [...], numbers in [0, 1).
        logits: float32 [..., K]; -inf excludes a class.
        decoding: Temperature, top-k and top-p. Top-p sorts all classes unless there is a top-k.

    Returns:
        tokens: int32 [...]; `INVALID` where the logits are no distribution.
        log_probability: float32 [...], of the token before top-k and top-p.

    Raises:
        ValueError: if top_k exceeds K.
    """
    num_classes, ids = logits.shape[-1], None
    top_k, temperature = decoding.top_k, decoding.temperature
    # Sums of rounded probabilities can reach 1 before the last class, so 1.0 would drop classes.
    top_p = None if decoding.top_p == 1.0 else decoding.top_p
    if top_k is not None and top_k > num_classes:
        raise ValueError(f"top_k is {top_k}, of {num_classes} classes; lower it or use None")
    if temperature > 0.0:
        logits = logits / temperature
    total = jnp.sum(jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True)), axis=-1)
    if top_k is not None or top_p is not None:
        # The sort is stable, and only the kept classes are sampled, so no other can be drawn.
        logits, ids = jax.lax.top_k(logits, top_k or num_classes)
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(shifted) if top_p is None else _nucleus(jnp.exp(shifted), top_p)
    choice = inverse_cdf(uniform, weights) if temperature > 0.0 else jnp.argmax(logits, axis=-1)
    log_probability = _take(shifted, choice) - jnp.log(total)
    tokens = choice if ids is None else _take(ids, choice)
    return jnp.where(jnp.isnan(total), INVALID, tokens).astype(jnp.int32), log_probability


def _nucleus(weights: jax.Array, top_p: float) -> jax.Array:
    """Sets weights, which are in descending order, to zero after a share top_p of their sum."""
    cumulative = jnp.cumsum(weights, axis=-1)
    return jnp.where(cumulative - weights < top_p * cumulative[..., -1:], weights, 0.0)


def inverse_cdf(uniform: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the first class whose cumulative weight exceeds `uniform` times the total weight.

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
    """Returns the index of the first positive weight whose cumulative sum exceeds the target.

    A parallel cumulative sum may rise by a rounding error at a zero weight, or end below the
    target. Zero weights are therefore excluded explicitly, and where rounding leaves no weight the
    last positive one is taken.
    """
    positive = weights > 0.0
    above = positive & (cumulative > target[..., None])
    last = weights.shape[-1] - 1 - jnp.argmax(positive[..., ::-1], axis=-1)
    return jnp.where(jnp.any(above, axis=-1), jnp.argmax(above, axis=-1), last)


def _take(values: jax.Array, index: jax.Array) -> jax.Array:
    """values[..., K] at index [...]."""
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]

"""Partial context guidance: push the prediction along what a glimpse of the context adds.

    logits + w (logits given the context at time t_g  -  logits given no context)

The first term sees the whole context, the second a re-corrupted one (t_g = 0.3 for MGM, 0.9 for
FM), the third only masks in its place (MaskFlow, arXiv 2502.11234, section 4). Three network passes
a step, for as many of the first steps as wanted; the sampler's rule and matrix know nothing of it.
"""

from collections.abc import Callable

import jax

from maskflow_jax.sampling.proposal import Proposal, make_propose, propose_from_features
from maskflow_jax.sampling.views import View
from maskflow_jax.sampling.window import Propose, Step

PASSES = 3  # network passes of a guided step


def make_guided_propose(
    features_fn: Callable[[jax.Array, jax.Array], jax.Array],
    logits_fn: Callable[[jax.Array], jax.Array],
    *,
    view: View,
    partial_view: View,
    blank_view: View,
    weight: float,
    guided_steps: int | None = None,
    **settings,
) -> Propose:
    """Builds a guided proposal.

    Args:
        features_fn: see `make_propose`, as for `logits_fn` and `settings`.
        logits_fn: of one frame.
        view: shows the context as the sampler has it.
        partial_view: shows it re-corrupted at the guidance's time.
        blank_view: shows none of it, `make_view(..., context_time=0.0)`.
        weight: w. At 0 the proposals are those of `make_propose`.
        guided_steps: guides this many first steps of a window; None guides all.
        **settings: temperature, top_k, top_p, frame_block and frames.

    Returns:
        propose(keys [B], x [B, T, H, W], Step) -> Proposal.

    Raises:
        ValueError: guided_steps < 1, or as `make_propose`.

    Source: MaskFlow, arXiv 2502.11234, section 4 (partial context guidance).
    """
    if guided_steps is not None and guided_steps < 1:
        raise ValueError(f"guided_steps is {guided_steps}; guide at least 1 step, or weight 0")
    plain = make_propose(features_fn, logits_fn, view=view, **settings)

    def all_features(keys: jax.Array, x: jax.Array, step: Step):
        return tuple(features_fn(*v(keys, x, step)) for v in (view, partial_view, blank_view))

    def guided_logits(features) -> jax.Array:
        full, partial, blank = (logits_fn(of_view) for of_view in features)
        return full + weight * (partial - blank)

    guided = propose_from_features(all_features, guided_logits, **settings)

    def propose(keys: jax.Array, x: jax.Array, step: Step) -> Proposal:
        if guided_steps is None or guided_steps >= step.num_steps:
            return guided(keys, x, step)
        return jax.lax.cond(
            step.index < guided_steps,
            lambda: guided(keys, x, step),
            lambda: plain(keys, x, step),
        )

    return propose

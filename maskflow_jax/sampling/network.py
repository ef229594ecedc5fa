"""What a sampler needs of a network, and how it runs one on a window.

Of a window only the new frames are predicted, so what only the context's predictions need is left
out. The rest of the context is needed at every step, because it attends to the new frames, which
change. With a cache it does not: it is run once, by itself, and the new frames attend to what it
was then. In autoregressive sampling, where all frames but one are context, that is nearly all of
the work.

A window that is sampled backward numbers its frames from the last; attention knows a frame by its
number only.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Network(Protocol):
    """`models.latte.Latte`, or anything like it."""

    def features(
        self,
        tokens: jax.Array,
        times: jax.Array,
        *,
        positions: np.ndarray | None = None,
        context: Any | None = None,
        num_wanted: int | None = None,
    ) -> jax.Array:
        """Tokens [B, T, H, W] at times [B, T] to features [B, T, N, D].

        `positions` [T] are the frames' numbers, `context` is of `context_cache`, and with
        `num_wanted` the result is of so many frames at the end only.
        """

    def logits(self, features: jax.Array) -> jax.Array:
        """Features [B, t, N, D] of any frames to logits [B, t, H, W, K]."""

    def context_cache(
        self, tokens: jax.Array, times: jax.Array, *, positions: np.ndarray | None = None
    ) -> Any:
        """Runs frames [B, m, H, W] that the frames after them will attend to."""


def window_features(
    network: Network,
    tokens: jax.Array,
    context_frames: int,
    *,
    cached: bool = False,
    backward: bool = False,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The features of a window's new frames.

    Args:
        network: the network.
        tokens: int32 [B, k, H, W] of the window; of these the context is read, if it is cached.
        context_frames: frames m at its start that are known and never change.
        cached: whether the context is run once, now.
        backward: whether the window's first frame is the video's last.

    Returns:
        (x [B, k, H, W], t [B, k]) -> features [B, k - m, N, D].
    """
    num_frames = tokens.shape[1]
    positions = np.arange(num_frames)[::-1] if backward else np.arange(num_frames)
    if not cached:
        wanted = num_frames - context_frames if context_frames else None
        return lambda x, t: network.features(x, t, positions=positions, num_wanted=wanted)
    context = network.context_cache(
        tokens[:, :context_frames],
        jnp.ones((tokens.shape[0], context_frames)),
        positions=positions[:context_frames],
    )

    def features(x: jax.Array, t: jax.Array) -> jax.Array:
        return network.features(
            x[:, context_frames:],
            t[:, context_frames:],
            positions=positions[context_frames:],
            context=context,
        )

    return features

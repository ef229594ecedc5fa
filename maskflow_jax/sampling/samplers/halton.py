"""Halton order: reveal each frame's tokens in a low-discrepancy order.

Tokens that are revealed in the same step are drawn independently of each other, so they should be
far apart. Any number of first points of a two-dimensional Halton sequence (bases 2 and 3) covers
the frame evenly. The tokens of a frame are revealed in the order in which the sequence first visits
their cells (Besnier et al., Halton Scheduler for Masked Generative Image Transformer,
arXiv 2503.17076). The order does not depend on the confidence, so with one token per step the
network's joint distribution of a frame is sampled exactly.

For video, one thing is added to the paper: all frames are revealed in parallel, and with the same
order they would reveal the same place of all frames at once. The sequence of frame f is therefore
shifted, modulo the frame, by the f-th point of another low-discrepancy sequence.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling import frame_schedules
from maskflow_jax.sampling.plans import RolloutPlan
from maskflow_jax.sampling.samplers.mgm import (
    BOTH_TIMES,
    COUNTS,
    check_steps,
    revealed_fractions,
    unmask_counts,
)
from maskflow_jax.sampling.types import Proposal, RolloutRequest, Step, WindowShape

# The two-dimensional Kronecker sequence of the plastic number: f * ROTATION mod 1.
ROTATION = np.array([0.7548776662466927, 0.5698402909980532])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halton:
    """Unmasking in a low-discrepancy order in every frame.

    Attributes:
        num_steps: Number of steps S of a window.
        counts: Unmasking schedule, a key of `mgm.COUNTS`: how many of a frame's unknown tokens each
            step reveals.
        independent_time: Time passed to the network for new frames. None passes the time at which
            training would have revealed as much as is revealed.
        revealed_times: Whether that time follows from the revealed share of each frame instead of
            from the plan. Only with `independent_time` None.

    Raises:
        ValueError: if a setting is out of range or a name is unknown.

    Source: Besnier et al., arXiv 2503.17076.
    """

    name: ClassVar[str] = "halton"
    guidance_time: ClassVar[float] = 0.3

    num_steps: int = 20
    counts: str = "arccos"
    independent_time: float | None = None
    revealed_times: bool = False

    def __post_init__(self):
        refuse(
            self.name,
            self,
            {"num_steps": (1, None), "independent_time": (0.0, 1.0)},
            {"counts": COUNTS},
            more=(BOTH_TIMES,) * (self.revealed_times and self.independent_time is not None),
        )

    def times(self, window: WindowShape) -> np.ndarray:
        """Returns the times at which training would have revealed the planned shares, [S+1, T]."""
        fractions = revealed_fractions(window.tokens_per_frame, self.num_steps, self.counts)
        return frame_schedules.matched(fractions, window.num_frames, window.schedule)

    def step(self, keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        """Reveals the next tokens in the order of every frame, whatever their confidence."""
        del keys
        check_steps(self, step)
        _, num_frames, height, width = x.shape
        order = halton_order(num_frames, height, width)  # [T, N], positions
        unknown = rearrange(step.unknown, "b t h w -> b t (h w)")
        # The rank of an unknown token is the number of unknown tokens up to it in the order.
        ranks = jnp.cumsum(jnp.take_along_axis(unknown, order[None], axis=2), axis=2)
        ranks = jnp.take_along_axis(ranks, np.argsort(order, axis=1)[None], axis=2)
        per_frame = jnp.sum(unknown, axis=2, dtype=jnp.int32)  # [B, T]
        planned = unmask_counts(per_frame.ravel(), self.num_steps, self.counts)
        planned = jnp.cumsum(planned, axis=1)[:, step.index].reshape(per_frame.shape)
        reached = (ranks <= planned[:, :, None]).reshape(x.shape)
        return jnp.where(step.masked & reached, proposal.tokens, x)

    def plan(self, request: RolloutRequest) -> RolloutPlan:
        """Returns the chunks of a video."""
        return RolloutPlan.of(request, request.guidance.evaluations(self.num_steps))


@functools.cache
def halton_order(num_frames: int, height: int, width: int) -> np.ndarray:
    """Returns the order in which the tokens of each frame are revealed.

    Args:
        num_frames: Number of frames T.
        height: Height H of a frame in tokens.
        width: Width W of a frame in tokens.

    Returns:
        int32 [T, H*W], each row a permutation of the flat positions.
    """
    cells, count = height * width, 4 * height * width
    while True:
        points = np.stack([_radical_inverse(count, base) for base in (2, 3)], axis=1)
        rows = [_visits((points + f * ROTATION) % 1.0, height, width) for f in range(num_frames)]
        if all(len(row) == cells for row in rows):
            return np.stack(rows).astype(np.int32)
        count *= 2  # some cell has not been visited yet


def _visits(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns flat cell numbers in the order in which points [P, 2] first fall into them."""
    cell = np.floor(points * [height, width]).astype(int) @ [width, 1]
    first = np.unique(cell, return_index=True)[1]
    return cell[np.sort(first)]


def _radical_inverse(count: int, base: int) -> np.ndarray:
    """Returns the van der Corput sequence: 1..count with mirrored digits, as fractions, float64."""
    index, value, unit = np.arange(1, count + 1), np.zeros(count), 1.0
    while index.any():
        index, digit = np.divmod(index, base)
        unit /= base
        value += unit * digit
    return value

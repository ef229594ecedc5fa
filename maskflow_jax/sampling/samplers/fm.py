"""Flow matching: simulate the continuous-time Markov chain from masked to clean.

Under the path of `flow.schedules` a masked token jumps to the network's prediction at rate
kappa'(t) / (1 - kappa(t)), and a revealed token never moves (MaskFlow, arXiv 2502.11234,
Algorithm 3; the paper prints the rate t / (1 - t), which is not the derivative of its path). Over a
step t -> s a masked token is therefore revealed with probability

    exact     (kappa(s) - kappa(t)) / (1 - kappa(t))
    euler     min(1, h kappa'(t) / (1 - kappa(t))),    h = s - t
    adaptive  h kappa'(t) / (1 - kappa(t)),            h = min(s - t, (1 - kappa(t)) / kappa'(t))

and takes the proposed value, independently of all others. `exact` is the transition of the chain
for a prediction that is constant during the step: a single step reveals everything, and at any time
the expected fraction of revealed tokens is kappa. `adaptive` shortens the step h, but the network
is evaluated at the times of the matrix, so its distribution is that of `euler` with its min(1, .);
the name is kept because published settings use it. Neither works with the schedule `root`, whose
rate is infinite at t = 0.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling import frame_schedules
from maskflow_jax.sampling.plans import RolloutPlan
from maskflow_jax.sampling.types import Proposal, RolloutRequest, Step, WindowShape

TINY = 1e-12  # below any positive 1 - kappa(t) of float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class FM:
    """The continuous-time chain in steps of equal time.

    Attributes:
        num_steps: Number of steps S of a window.
        transition: Probability with which a step reveals a token, a key of `TRANSITIONS`.
        independent_time: Time passed to the network for new frames; None passes their times.

    Raises:
        ValueError: if a setting is out of range or a name is unknown.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 3; Gat et al., Discrete Flow Matching, 2024,
        arXiv 2407.15595, Algorithm 1 and its adaptive step size.
    """

    name: ClassVar[str] = "fm"
    guidance_time: ClassVar[float] = 0.9

    num_steps: int = 250
    transition: str = "exact"
    independent_time: float | None = None

    def __post_init__(self):
        refuse(
            self.name,
            self,
            {"num_steps": (1, None), "independent_time": (0.0, 1.0)},
            {"transition": TRANSITIONS},
        )

    def times(self, window: WindowShape) -> np.ndarray:
        """Returns equal times for all frames, from 0 to 1 in equal steps, [S+1, T]."""
        return frame_schedules.full_sequence(self.num_steps, window.num_frames)

    def step(self, keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        """Reveals every masked token with the probability of the transition."""
        return reveal_by_chain(self.transition, keys, x, proposal, step)

    def plan(self, request: RolloutRequest) -> RolloutPlan:
        """Returns the chunks of a video."""
        return RolloutPlan.of(request, request.guidance.evaluations(self.num_steps))


def reveal_by_chain(
    transition: str, keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step
) -> jax.Array:
    """Reveals masked tokens as the Markov chain does from the times `step.t` to `step.s`.

    Args:
        transition: A key of `TRANSITIONS`.
        keys: One random key per sample, [B].
        x: The window, int32 [B, T, H, W].
        proposal: The proposed values.
        step: The state of the loop, with its schedule.

    Returns:
        The window after the step, int32 [B, T, H, W]. A frame at time 1 has no masked token, with
        any transition.

    Raises:
        ValueError: if the transition is not defined for the schedule.
    """
    if step.schedule.name == "root" and transition != "exact":
        raise ValueError(
            "schedule root has an infinite rate at t = 0, which Euler's step would make one jump; "
            "use transition 'exact'"
        )
    probability = TRANSITIONS[transition](step.schedule, step.t, step.s)
    # At s = 1 this reveals the tokens that `euler` left masked, and replaces 0/0 at kappa = 1.
    probability = jnp.where(step.s >= 1.0, 1.0, probability)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
    revealed = step.masked & (uniform < probability[:, :, None, None])  # [B, T, H, W]
    return jnp.where(revealed, proposal.tokens, x)


def _exact(schedule: Schedule, t: jax.Array, s: jax.Array) -> jax.Array:
    still_masked = 1.0 - schedule.kappa(t)
    return (schedule.kappa(s) - schedule.kappa(t)) / jnp.maximum(still_masked, TINY)


def _euler(schedule: Schedule, t: jax.Array, s: jax.Array) -> jax.Array:
    rate = schedule.derivative(t) / jnp.maximum(1.0 - schedule.kappa(t), TINY)
    return jnp.minimum(1.0, (s - t) * rate)


def _adaptive(schedule: Schedule, t: jax.Array, s: jax.Array) -> jax.Array:
    slope, still_masked = schedule.derivative(t), jnp.maximum(1.0 - schedule.kappa(t), TINY)
    h = jnp.minimum(s - t, still_masked / jnp.maximum(slope, TINY))
    return h * slope / still_masked


TRANSITIONS: dict[str, Callable[[Schedule, jax.Array, jax.Array], jax.Array]] = {
    "exact": _exact,
    "euler": _euler,
    "adaptive": _adaptive,
}

"""Flow-matching step rule: simulate the continuous-time Markov chain from masked to clean.

Under the path of `flow.schedules` a masked token jumps to the network's prediction at rate
kappa'(t) / (1 - kappa(t)), and a revealed token never moves (MaskFlow, arXiv 2502.11234,
Algorithm 3; the paper prints the rate t / (1 - t), which is not the derivative of its path). Over a
step t -> s a masked token is therefore revealed with probability

    exact     (kappa(s) - kappa(t)) / (1 - kappa(t))
    euler     min(1, h kappa'(t) / (1 - kappa(t))),    h = s - t
    adaptive  h kappa'(t) / (1 - kappa(t)),            h = min(s - t, (1 - kappa(t)) / kappa'(t))

and takes the proposed value, independently of all others. `exact` is the chain's own transition
for a prediction that holds through the step: a single step reveals everything, and after any number
of steps the fraction revealed is kappa. Shortening h while the network is still asked at the
matrix's times is `euler`'s min(1, .), so `adaptive` gives the same law and stays as a name. Neither
is for `root`, whose rate is infinite at t = 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.sampling.proposal import Proposal
from maskflow_jax.sampling.window import Step, StepRule

TINY = 1e-12  # below any positive 1 - kappa(t) of float32


def fm(schedule: Schedule, transition: str = "exact") -> StepRule:
    """The flow-matching rule.

    Args:
        schedule: kappa, the one the network was trained with.
        transition: a key of `TRANSITIONS`.

    Returns:
        A rule for `window.sample_window`. A frame that arrives at time 1 keeps no masked token,
        whichever the transition.

    Raises:
        ValueError: the transition is unknown, or not for this schedule.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 3; Gat et al., Discrete Flow Matching, 2024,
        arXiv 2407.15595, Algorithm 1 and its adaptive step size.
    """
    if transition not in TRANSITIONS:
        raise ValueError(f"unknown transition {transition!r}; choose one of {list(TRANSITIONS)}")
    if schedule.name == "root" and transition != "exact":
        raise ValueError(
            "schedule root has an infinite rate at t = 0, which Euler's step would make one jump; "
            "use transition 'exact'"
        )
    probability = TRANSITIONS[transition]

    def step_rule(keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        # At s = 1 Euler's leftovers go too, and 0/0 of a frame already at kappa = 1 is settled.
        reveal_probability = jnp.where(step.s >= 1.0, 1.0, probability(schedule, step.t, step.s))
        uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
        revealed = step.masked & (uniform < reveal_probability[:, :, None, None])  # [B, T, H, W]
        return jnp.where(revealed, proposal.tokens, x)

    return step_rule


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

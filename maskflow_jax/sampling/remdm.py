"""Remasking step rule: a revealed token may be masked again, so that mistakes can be mended.

ReMDM (Wang et al., Remasking Discrete Diffusion Models with Inference-Time Scaling,
arXiv 2503.00307) keeps the path's marginals, a token being clean with probability kappa(t), but
mixes: in a step t -> s

    a revealed token is masked with probability sigma,
    a masked token is revealed with probability (kappa(s) - (1 - sigma) kappa(t)) / (1 - kappa(t)),

for any sigma <= sigma_max = min(1, (1 - kappa(s)) / kappa(t)). sigma = 0 is the exact flow-matching
rule (`fm`). Of the paper's choices there are

    cap       sigma = min(strength, sigma_max)
    rescale   sigma = strength sigma_max.

The last step has sigma_max = 0 and reveals everything. Given tokens are never masked. (The paper's
time runs the other way, and its alpha is kappa.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.sampling.proposal import Proposal
from maskflow_jax.sampling.window import Step, StepRule

TINY = 1e-12  # below any positive 1 - kappa(t) of float32


def remdm(schedule: Schedule, remask: str = "rescale", strength: float = 0.05) -> StepRule:
    """The remasking rule.

    Args:
        schedule: kappa, the one the network was trained with.
        remask: a key of `REMASKING`.
        strength: the paper's eta, from 0 (no remasking) to 1.

    Returns:
        A rule for `window.sample_window`.

    Raises:
        ValueError: an unknown name, or a strength outside [0, 1].

    Source: Wang et al., arXiv 2503.00307: the remasking posterior, its bound on sigma, and the
        capped and rescaled schedules.
    """
    if remask not in REMASKING:
        raise ValueError(f"unknown remask {remask!r}; choose one of {list(REMASKING)}")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"remask_strength is {strength}; use a number from 0 to 1")

    def step_rule(keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        before, after = schedule.kappa(step.t), schedule.kappa(step.s)  # [B, T]
        most = jnp.minimum(1.0, (1.0 - after) / jnp.maximum(before, TINY))
        sigma = REMASKING[remask](strength, most)
        reveal = (after - (1.0 - sigma) * before) / jnp.maximum(1.0 - before, TINY)
        reveal = jnp.where(step.s >= 1.0, 1.0, reveal)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
        revealed = step.masked & (uniform < reveal[:, :, None, None])
        hidden = step.unknown & ~step.masked & (uniform < sigma[:, :, None, None])
        # A position is either masked or not, so one uniform number serves both questions.
        return jnp.where(revealed, proposal.tokens, jnp.where(hidden, step.mask_id, x))

    return step_rule


REMASKING: dict[str, Callable[[float, jax.Array], jax.Array]] = {
    "cap": jnp.minimum,
    "rescale": lambda strength, most: strength * most,
}

"""ReMDM: revealed tokens may be masked again, so that mistakes can be corrected.

ReMDM (Wang et al., Remasking Discrete Diffusion Models with Inference-Time Scaling,
arXiv 2503.00307) keeps the marginals of the probability path (a token is clean with probability
kappa(t)), but in a step t -> s

    a revealed token is masked with probability sigma,
    a masked token is revealed with probability (kappa(s) - (1 - sigma) kappa(t)) / (1 - kappa(t)),

for any sigma <= sigma_max = min(1, (1 - kappa(s)) / kappa(t)). sigma = 0 is the exact flow-matching
rule (`fm`). Two of the paper's choices are available:

    cap       sigma = min(strength, sigma_max)
    rescale   sigma = strength sigma_max.

The last step has sigma_max = 0 and reveals everything. Known tokens are never masked. (The paper's
time runs in the opposite direction, and its alpha is kappa.)
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling import frame_schedules
from maskflow_jax.sampling.plans import RolloutPlan
from maskflow_jax.sampling.types import Proposal, RolloutRequest, Step, WindowShape

TINY = 1e-12  # below any positive 1 - kappa(t) of float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReMDM:
    """The chain with remasking.

    Attributes:
        num_steps: Number of steps S of a window.
        remask: How the strength bounds the remasking probability, a key of `REMASKING`.
        strength: The paper's eta, from 0 (no remasking) to 1.
        independent_time: Time passed to the network for new frames; None passes their times.

    Raises:
        ValueError: if a setting is out of range or a name is unknown.

    Source: Wang et al., arXiv 2503.00307: the remasking posterior, its bound on sigma, and the
        capped and rescaled schedules.
    """

    name: ClassVar[str] = "remdm"
    guidance_time: ClassVar[float] = 0.9

    num_steps: int = 20
    remask: str = "rescale"
    strength: float = 0.05
    independent_time: float | None = None

    def __post_init__(self):
        refuse(
            self.name,
            self,
            {"num_steps": (1, None), "strength": (0.0, 1.0), "independent_time": (0.0, 1.0)},
            {"remask": REMASKING},
        )

    def times(self, window: WindowShape) -> np.ndarray:
        """Returns equal times for all frames, from 0 to 1 in equal steps, [S+1, T]."""
        return frame_schedules.full_sequence(self.num_steps, window.num_frames)

    def step(self, keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        """Reveals masked tokens and masks revealed ones, each with its probability."""
        schedule = step.schedule
        before, after = schedule.kappa(step.t), schedule.kappa(step.s)  # [B, T]
        most = jnp.minimum(1.0, (1.0 - after) / jnp.maximum(before, TINY))
        sigma = REMASKING[self.remask](self.strength, most)
        reveal = (after - (1.0 - sigma) * before) / jnp.maximum(1.0 - before, TINY)
        reveal = jnp.where(step.s >= 1.0, 1.0, reveal)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
        revealed = step.masked & (uniform < reveal[:, :, None, None])
        hidden = step.unknown & ~step.masked & (uniform < sigma[:, :, None, None])
        # A token is either masked or revealed, so one uniform number per token is enough.
        return jnp.where(revealed, proposal.tokens, jnp.where(hidden, step.mask_id, x))

    def plan(self, request: RolloutRequest) -> RolloutPlan:
        """Returns the chunks of a video."""
        return RolloutPlan.of(request, request.guidance.evaluations(self.num_steps))


REMASKING: dict[str, Callable[[float, jax.Array], jax.Array]] = {
    "cap": jnp.minimum,
    "rescale": lambda strength, most: strength * most,
}

"""Diffusion Forcing's pyramid: the chain of `fm` with every frame one step behind the one before.

Earlier frames are therefore finished first. (Chen et al., Diffusion Forcing, arXiv 2407.01392; the
baseline DF in MaskFlow, arXiv 2502.11234, section 5.)
"""

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling import frame_schedules
from maskflow_jax.sampling.plans import RolloutPlan
from maskflow_jax.sampling.samplers.fm import TRANSITIONS, reveal_by_chain
from maskflow_jax.sampling.types import Proposal, RolloutRequest, Step, WindowShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pyramid:
    """The chain with a pyramid of frame times.

    Attributes:
        num_steps: Number of steps of a frame; a window of k frames takes k more.
        transition: Probability with which a step reveals a token, a key of `fm.TRANSITIONS`.
        independent_time: Time passed to the network for new frames; None passes their times.

    Raises:
        ValueError: if a setting is out of range or a name is unknown.

    Source: Chen et al., Diffusion Forcing, arXiv 2407.01392.
    """

    name: ClassVar[str] = "pyramid"
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
        """Returns the pyramid of times, [S+1, T] with S = num_steps + T."""
        return frame_schedules.pyramid(self.num_steps, window.num_frames)

    def step(self, keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        """Reveals every masked token with the probability of the transition."""
        return reveal_by_chain(self.transition, keys, x, proposal, step)

    def plan(self, request: RolloutRequest) -> RolloutPlan:
        """Returns the chunks of a video."""
        if request.guidance.steps is not None:
            raise ValueError(
                "the frames of a pyramid start one after the other, so the first steps of a window "
                "guide its first frames only; leave guidance.steps out to guide all steps"
            )
        num_steps = self.num_steps + request.chunk_size
        return RolloutPlan.of(request, request.guidance.evaluations(num_steps))

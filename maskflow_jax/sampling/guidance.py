"""Partial context guidance: strengthen what a partly visible context adds to the prediction.

    logits + w (logits given the context at time t_g  -  logits given no context)

The first term sees the whole context, the second a re-corrupted one (t_g = 0.3 for MGM, 0.9 for
FM), and the third sees masks in its place (MaskFlow, arXiv 2502.11234, section 4). A guided step
needs three network evaluations. Samplers do not know of guidance: `proposal.Proposer` applies it.
"""

import dataclasses

from maskflow_jax.io.settings import refuse

EVALUATIONS = 3  # network evaluations of a guided step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """Settings of partial context guidance.

    Attributes:
        weight: Weight w; 0 switches guidance off.
        time: Time t_g of the re-corrupted context; None for the sampler's, the paper's 0.3 for MGM
            and Halton and 0.9 for the others.
        steps: Number of first steps of a window that are guided (rolling: of every shift); None
            guides all. Not for pyramid, whose frames start one after the other.

    Raises:
        ValueError: if a setting is out of range.

    Source: MaskFlow, arXiv 2502.11234, section 4.
    """

    weight: float = 0.0
    time: float | None = None
    steps: int | None = None

    def __post_init__(self):
        refuse("guidance", self, {"weight": (None, None), "time": (0.0, 1.0), "steps": (1, None)})

    @property
    def active(self) -> bool:
        """Whether any step is guided."""
        return self.weight != 0.0

    def evaluations(self, num_steps: int) -> int:
        """Returns the number of network evaluations of a window of `num_steps` steps."""
        if not self.active:
            return num_steps
        guided = num_steps if self.steps is None else min(self.steps, num_steps)
        return num_steps + (EVALUATIONS - 1) * guided

"""Guidance: strengthens the influence of the context or of captions on the prediction.

Partial context guidance adds to the logits

    w (logits given the context at time t_g  -  logits given no context)

The logits themselves are computed with the whole context, the second term with a re-corrupted
context (t_g = 0.3 for MGM, 0.9 for FM), and the third with masks in the place of the context
(MaskFlow, arXiv 2502.11234, section 4). A guided step needs three network evaluations.

Classifier-free guidance replaces the logits with the whole context by

    logits given no captions + c (logits  -  logits given no captions),

which takes one more evaluation; a weight of c = 1 leaves the logits as they are (Ho & Salimans
2022, arXiv 2207.12598). Both kinds can be combined. `proposal.Proposer` applies guidance; samplers
do not depend on it.
"""

import dataclasses

from maskflow_jax.io.settings import refuse

EVALUATIONS = 3  # network evaluations of a step with partial context guidance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """Settings of partial context guidance and of guidance by captions.

    Attributes:
        weight: Weight w of partial context guidance; 0 switches it off.
        time: Time t_g of the re-corrupted context; None for the sampler's, the paper's 0.3 for MGM
            and Halton and 0.9 for the others.
        steps: Number of guided steps at the start of a window (rolling: of every shift); None
            guides all steps. Not available for pyramid, whose frames start one after the other.
        captions: Weight c of guidance by captions or labels; 1 switches it off.

    Raises:
        ValueError: if a setting is out of range.

    Source: MaskFlow, arXiv 2502.11234, section 4.
    """

    weight: float = 0.0
    time: float | None = None
    steps: int | None = None
    captions: float = 1.0

    def __post_init__(self):
        refuse(
            "guidance",
            self,
            {
                "weight": (None, None),
                "time": (0.0, 1.0),
                "steps": (1, None),
                "captions": (None, None),
            },
        )

    @property
    def active(self) -> bool:
        """Whether any step is guided by its context."""
        return self.weight != 0.0

    @property
    def by_captions(self) -> bool:
        """Whether any step is guided by captions."""
        return self.captions != 1.0

    def evaluations(self, num_steps: int) -> int:
        """Returns the number of network evaluations of a window of `num_steps` steps."""
        guided = num_steps if self.steps is None else min(self.steps, num_steps)
        more = (EVALUATIONS - 1) * self.active + self.by_captions
        return num_steps + more * guided

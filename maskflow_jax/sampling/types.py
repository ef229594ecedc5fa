"""The types through which the parts of sampling work together.

A window is sampled in S steps. In every step a proposal draws a value for each position from the
network, and a sampler decides which masked positions take their value. A video is sampled window by
window, as its plan says.

    Step       the state of the loop that proposals and samplers see
    Proposal   the drawn values and their probabilities
    Network    the interface of a model (`models.latte.Latte` implements it)
    Sampler    a named algorithm: its frame times, its step, its plan
    Window     one window of a plan
    Plan       the windows of a video and their number of network evaluations (NFE)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.sampling.guidance import Guidance
from maskflow_jax.scenes.conditions import Scenes


class Proposal(NamedTuple):
    """One proposed value per position, masked or not.

    Attributes:
        tokens: int32 [B, T, H, W].
        log_confidence: float32 [B, T, H, W], log-probability of the token at the temperature,
            before top-k and top-p.
    """

    tokens: jax.Array
    log_confidence: jax.Array


class Step(NamedTuple):
    """The state of the sampling loop, as a proposal and a sampler see it.

    Attributes:
        index: Step number i, int32 scalar.
        num_steps: Number of steps S, a Python int.
        t: Frame times before the step, [B, T].
        s: Frame times after the step, [B, T].
        masked: Tokens that are masked before the step, bool [B, T, H, W].
        unknown: Tokens that were masked before step 0, bool [B, T, H, W].
        known: Tokens that were given, bool [B, T, H, W]. Tokens that are neither known nor unknown
            were revealed by an earlier window (`WindowTokens.revealed`).
        mask_id: The mask token, a Python int.
        schedule: The noise schedule of the network's training; None where no rule needs it.
    """

    index: jax.Array
    num_steps: int
    t: jax.Array
    s: jax.Array
    masked: jax.Array
    unknown: jax.Array
    known: jax.Array
    mask_id: int
    schedule: Schedule | None = None


class WindowTokens(NamedTuple):
    """The tokens of a window before it is sampled.

    Attributes:
        tokens: Tokens, int32 [B, T, H, W]; the values of unknown tokens are ignored.
        known: Known tokens, bool [B, T, H, W], in any pattern. They are clean at any frame time.
        revealed: Tokens that an earlier window has revealed in unfinished frames, bool
            [B, T, H, W], or None. They keep their values, but do not change the time of their
            frame.
        scenes: Conditions of the frames; None for networks without.
    """

    tokens: jax.Array
    known: jax.Array
    revealed: jax.Array | None = None
    scenes: Scenes | None = None


Propose = Callable[[jax.Array, jax.Array, Step], Proposal]
StepRule = Callable[[jax.Array, jax.Array, Proposal, Step], jax.Array]


class Network(Protocol):
    """The methods of a model that sampling uses."""

    @property
    def mask_id(self) -> int:
        """The mask token, which is the size of the codebook."""

    def features(
        self,
        tokens: jax.Array,
        times: jax.Array,
        *,
        positions: np.ndarray | None = None,
        context: Any | None = None,
        num_wanted: int | None = None,
        scenes: Scenes | None = None,
    ) -> jax.Array:
        """Maps tokens [B, T, H, W] at times [B, T] to features [B, T, N, D].

        `positions` [T] are the frame numbers, `context` comes from `context_cache`, and with
        `num_wanted` the result covers only that many frames at the end. `scenes` are the
        conditions; a network without conditions is never given any.
        """

    def logits(self, features: jax.Array) -> jax.Array:
        """Maps features [B, t, N, D] of any frames to logits [B, t, H, W, K] in float32."""

    def context_cache(
        self,
        tokens: jax.Array,
        times: jax.Array,
        *,
        positions: np.ndarray | None = None,
        scenes: Scenes | None = None,
    ) -> Any:
        """Evaluates frames [B, m, H, W] once, so that later frames can attend to them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowShape:
    """The properties of a window from which a sampler computes its times.

    Attributes:
        num_frames: Number of frames k.
        context_frames: Number of known frames m at the start.
        tokens_per_frame: Number of tokens of a frame, H times W.
        schedule: Noise schedule of the network's training.
        stage: Stage of the plan, "chunk" for all samplers but rolling.
    """

    num_frames: int
    context_frames: int
    tokens_per_frame: int
    schedule: Schedule
    stage: str = "chunk"


class Window(NamedTuple):
    """One window of a plan.

    Attributes:
        context: Number of finished frames at its start.
        finished: Number of frames after the context that the window finishes.
        carried: Number of frames after those that are passed to the next window, partly revealed;
            the frames after them are dropped.
        stage: Stage of the sampler, which selects its matrix of times.
    """

    context: int
    finished: int
    carried: int = 0
    stage: str = "chunk"


class Plan(Protocol):
    """The windows of a video: `plans.RolloutPlan` or `samplers.rolling.RollingPlan`."""

    video_length: int
    chunk_size: int
    context_frames: int

    @property
    def known_at_start(self) -> int:
        """Number of frames that are finished before the first window."""

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows in order."""

    @property
    def nfe(self) -> int:
        """Number of network evaluations for the whole video."""

    def window_nfe(self, window: Window) -> int:
        """Number of network evaluations of one of the windows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutRequest:
    """The video for which a sampler makes a plan.

    Attributes:
        video_length: Number of frames L, context included.
        chunk_size: Number of frames k of a window.
        context_frames: Number of context frames m of a window.
        stride: Number of new frames s kept per window; None for the sampler's default, which is
            k - m (rolling: 1).
        known_frames: Number of frames known at the start, 0 to m; None for m.
        known_tail: Number of frames known at the end, for which the strides are arranged.
        guidance: Guidance, which needs further network evaluations.
    """

    video_length: int
    chunk_size: int
    context_frames: int
    stride: int | None = None
    known_frames: int | None = None
    known_tail: int = 0
    guidance: Guidance = Guidance()


class Sampler(Protocol):
    """A sampling algorithm: one frozen dataclass of its settings in one file.

    Attributes:
        name: Name in the registry and in configs.
        guidance_time: Time of the re-corrupted context in guidance where no other is set.
        num_steps: Number of steps of a window (pyramid and rolling: of a frame).
        independent_time: Time passed to the network for all frames that are not context; None for
            times that follow the sampling.
    """

    name: ClassVar[str]
    guidance_time: ClassVar[float]
    num_steps: int
    independent_time: float | None

    def times(self, window: WindowShape) -> np.ndarray:
        """Returns the frame times before and after each step, float32 [S+1, T]."""

    def step(self, keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        """Returns the window after a step, int32 [B, T, H, W]; keys are [B]."""

    def plan(self, request: RolloutRequest) -> Plan:
        """Returns the windows of a video; raises ValueError where there is no such rollout."""

"""Views: the tokens and times of a window that the network receives at a step.

In training, the time of a frame is tied to its share of clean tokens, kappa(t). A frame of which a
share c was given and the rest is at time t has the share c kappa(t_c) + (1 - c) kappa(t), where t_c
is the time of the context, 1 unless it is lowered; so the network is passed

    kappa^-1(c kappa(t_c) + (1 - c) kappa(t)).

c = 0 gives t itself and c = 1 gives t_c, so the same formula covers context frames and spatial
in-painting. With t_c < 1 each known token is masked in the network's input with probability
1 - kappa(t_c), independently at every step, so that tokens and times agree as they did in training.
The window itself keeps its known tokens. (MaskFlow, arXiv 2502.11234, section 4; the released code
calls t_c the stabilization level.)
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling.types import Step

GRID = 4096  # number of intervals between which kappa's inverse is interpolated linearly


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """The input of the network for a window.

    Attributes:
        schedule: Noise schedule kappa of the network's training.
        context_time: Time t_c of known tokens; 1 shows all of them, 0 none.
        independent_time: Time passed for every frame that is not known entirely. None passes the
            frame's actual time. The paper uses 0, its released code 1.
        revealed_times: Whether the time of a frame follows from the share of its tokens that is
            currently revealed instead of from the sampler's matrix of times.

    Raises:
        ValueError: if a time is outside [0, 1].

    Source: MaskFlow, arXiv 2502.11234, section 4.
    """

    schedule: Schedule
    context_time: float = 1.0
    independent_time: float | None = None
    revealed_times: bool = False

    def __post_init__(self):
        refuse("view", self, {"context_time": (0.0, 1.0), "independent_time": (0.0, 1.0)})

    def __call__(self, keys: jax.Array, x: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
        """Returns the window as shown, int32 [B, T, H, W], and its times, float32 [B, T].

        Args:
            keys: One random key per sample, [B].
            x: The window, int32 [B, T, H, W].
            step: The state of the loop.
        """
        with jax.ensure_compile_time_eval():  # this may run while a sampler is traced
            clean_share = float(self.schedule.kappa(np.float32(self.context_time)))
        times = self._times(step, clean_share)
        all_known = jnp.all(step.known, axis=(2, 3))  # [B, T]
        times = jnp.where(all_known, self.context_time, times)
        if clean_share < 1.0:
            uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
            x = jnp.where(step.known & (uniform >= clean_share), step.mask_id, x)
        return x, times

    def _times(self, step: Step, clean_share: float) -> jax.Array:
        """Times of the frames that are not context, float32 [B, T]."""
        if self.independent_time is not None:
            return jnp.full(step.t.shape, self.independent_time, jnp.float32)
        known_share = jnp.mean(step.known, axis=(2, 3), dtype=jnp.float32)  # [B, T]
        if self.revealed_times:
            revealed = jnp.mean(~step.known & ~step.masked, axis=(2, 3), dtype=jnp.float32)
            return _inverse(self.schedule, known_share * clean_share + revealed)
        mixed = known_share * clean_share + (1.0 - known_share) * self.schedule.kappa(step.t)
        return jnp.where(known_share > 0.0, _inverse(self.schedule, mixed), step.t)


def _inverse(schedule: Schedule, kappa: jax.Array) -> jax.Array:
    """Returns kappa^-1 inside a trace, where `Schedule.inverse` (numpy) cannot be called."""
    grid = np.linspace(0.0, 1.0, GRID + 1, dtype=np.float32)
    with jax.ensure_compile_time_eval():
        values = np.asarray(schedule.kappa(grid))
    return jnp.interp(kappa, values, grid)

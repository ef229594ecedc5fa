"""Views: what the network is shown of a window, tokens and times, at a step.

Training connects a frame's time with its share of clean tokens, kappa(t). A frame of which a share
c was given and the rest is at time t has the share c kappa(t_c) + (1 - c) kappa(t), where t_c is
the context's time, 1 unless lowered; so the network is told

    kappa^-1(c kappa(t_c) + (1 - c) kappa(t)).

c = 0 is t itself and c = 1 is t_c, so context frames, spatial in-painting and everything between
are one formula. With t_c < 1 each known token is hidden from the network with probability
1 - kappa(t_c), afresh at every step, so that tokens and times agree as they did in training; the
window itself keeps its known tokens. (MaskFlow, arXiv 2502.11234, section 4; the released code
calls t_c the stabilization level.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.sampling.window import Step

GRID = 4096  # points between which kappa's inverse is linear; off by 1 / GRID at most

View = Callable[[jax.Array, jax.Array, Step], tuple[jax.Array, jax.Array]]


def make_view(
    schedule: Schedule,
    *,
    context_time: float = 1.0,
    independent_time: float | None = None,
) -> View:
    """Builds a view.

    Args:
        schedule: kappa, the one the network was trained with.
        context_time: t_c, the time of known tokens; 1 shows them all, 0 none.
        independent_time: None tells the network the actual times (time-dependent sampling);
            a number is told for every frame that is not known entirely. The paper's text says 0,
            its released code passes 1.

    Returns:
        view(keys [B], x [B, T, H, W], Step) -> (x as shown, times float32 [B, T]).

    Raises:
        ValueError: a time is outside [0, 1].

    Source: MaskFlow, arXiv 2502.11234, section 4.
    """
    for name, time in (("context_time", context_time), ("independent_time", independent_time)):
        if time is not None and not 0.0 <= time <= 1.0:
            raise ValueError(f"{name} is {time}; times run from 0 (masked) to 1 (clean)")
    with jax.ensure_compile_time_eval():  # callable while a sampler is being traced
        clean_share = float(schedule.kappa(np.float32(context_time)))

    def view(keys: jax.Array, x: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
        known_share = jnp.mean(step.known, axis=(2, 3), dtype=jnp.float32)  # [B, T]
        if independent_time is None:
            mixed = known_share * clean_share + (1.0 - known_share) * schedule.kappa(step.t)
            told = jnp.where(known_share > 0.0, _inverse(schedule, mixed), step.t)
        else:
            told = jnp.full(step.t.shape, independent_time, jnp.float32)
        told = jnp.where(jnp.all(step.known, axis=(2, 3)), context_time, told)
        if clean_share < 1.0:
            uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
            x = jnp.where(step.known & (uniform >= clean_share), step.mask_id, x)
        return x, told

    return view


def _inverse(schedule: Schedule, kappa: jax.Array) -> jax.Array:
    """kappa^-1 inside a trace, where `Schedule.inverse` (numpy) cannot be called."""
    grid = np.linspace(0.0, 1.0, GRID + 1, dtype=np.float32)
    with jax.ensure_compile_time_eval():
        values = np.asarray(schedule.kappa(grid))
    return jnp.interp(kappa, values, grid)

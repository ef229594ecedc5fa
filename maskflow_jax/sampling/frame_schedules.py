"""Frame schedules: a sampler's plan as one matrix of times.

Row i holds the time of every frame of the window before step i, row S the times at the end:
`times[i] -> times[i + 1]` is step i, and the number of steps S is the number of network passes
(NFE). Samplers that treat frames alike have constant rows; samplers that finish early frames first
are other matrices for the same loop (`window.sample_window`).
"""

from collections.abc import Callable

import numpy as np

from maskflow_jax.flow.schedules import Schedule


def full_sequence(num_steps: int, num_frames: int) -> np.ndarray:
    """Every frame goes from masked to clean together, in steps of equal time.

    Args:
        num_steps: S, the number of network passes.
        num_frames: T, the window's length.

    Returns:
        Times float32 [S+1, T], from 0 in the first row to 1 in the last.

    Raises:
        ValueError: num_steps < 1.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 3.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a window needs at least one step")
    return _alike(np.linspace(0.0, 1.0, num_steps + 1), num_frames)


def matched(fractions: np.ndarray, num_frames: int, schedule: Schedule) -> np.ndarray:
    """Every frame is at the time at which training would have revealed as much as is revealed.

    A rule that reveals by count (`mgm`) does not follow kappa. Its network still has to be told a
    time, and the one it was trained to connect with a fraction f of clean tokens is kappa^-1(f).

    Args:
        fractions: [S+1] fraction of the unknown tokens revealed before each step and at the end,
            from 0 to 1 (`mgm.revealed_fractions`).
        num_frames: T, the window's length.
        schedule: the schedule the network was trained with.

    Returns:
        Times float32 [S+1, T], from 0 in the first row to 1 in the last.

    Raises:
        ValueError: the fractions do not rise from 0 to 1.
    """
    fractions = np.asarray(fractions, np.float64)
    if fractions[0] != 0.0 or fractions[-1] != 1.0 or np.any(np.diff(fractions) < 0.0):
        raise ValueError(f"fractions must rise from 0 to 1; got {fractions}")
    return _alike(schedule.inverse(fractions), num_frames)


def _alike(times: np.ndarray, num_frames: int) -> np.ndarray:
    """One time per row for all frames."""
    return np.repeat(times.astype(np.float32)[:, None], num_frames, axis=1)  # [S+1, T]


# Matrices that need nothing but (num_steps, num_frames); `matched` also needs a rule's counts.
FRAME_SCHEDULES: dict[str, Callable[..., np.ndarray]] = {
    "full_sequence": full_sequence,
}

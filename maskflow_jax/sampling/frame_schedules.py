"""Frame schedules: a sampler's plan as one matrix of times.

Row i holds the time of every frame of the window before step i, row S the times at the end:
`times[i] -> times[i + 1]` is step i, and the number of steps S is the number of network passes
(NFE). Samplers that treat frames alike have constant rows; Diffusion Forcing's pyramid and rolling
diffusion, which finish early frames first, are other matrices for the same loop
(`window.sample_window`).
"""

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
    _check_steps(num_steps)
    return _alike(np.linspace(0.0, 1.0, num_steps + 1), num_frames)


def pyramid(num_steps: int, num_frames: int) -> np.ndarray:
    """Every frame starts one step after the frame before it, and takes as many steps.

    Diffusion Forcing's matrix: what comes first is certain first. Frame f moves from row f + 1 to
    row f + 1 + num_steps. The first pass moves nothing, nor do passes for frames that are known:
    they are kept because the published numbers of passes count them.

    Args:
        num_steps: steps of one frame.
        num_frames: T, the window's length, context included.

    Returns:
        Times float32 [S+1, T] with S = num_steps + num_frames.

    Raises:
        ValueError: num_steps < 1.

    Source: Chen et al., Diffusion Forcing, arXiv 2407.01392; MaskFlow, arXiv 2502.11234, section 5.
    """
    _check_steps(num_steps)
    row, frame = np.ogrid[: num_steps + num_frames + 1, :num_frames]
    return np.clip((row - frame - 1) / num_steps, 0.0, 1.0).astype(np.float32)


def rolling_times(num_frames: int, context_frames: int) -> np.ndarray:
    """The rolling state: the j-th of the w new frames of a window is at time (w - j - 1) / w.

    Args:
        num_frames: T, the window's length.
        context_frames: m; w = T - m.

    Returns:
        Times float64 [T], 1 for the context. One shift of 1 / w finishes the first new frame and
        leaves the others, moved up by one frame, in this state again.

    Raises:
        ValueError: no frame is new.

    Source: Ruhe et al., Rolling Diffusion Models, arXiv 2402.09470.
    """
    new = num_frames - context_frames
    if new < 1:
        raise ValueError(f"{context_frames} context frames of {num_frames}; lower context_frames")
    return np.concatenate([np.ones(context_frames), (new - 1 - np.arange(new)) / new])


def between(start: np.ndarray, end: np.ndarray, num_steps: int) -> np.ndarray:
    """Every frame goes from its first to its last time in equal steps.

    Args:
        start: [T] times in the first row.
        end: [T] times in the last row, not below `start`.
        num_steps: S.

    Returns:
        Times float32 [S+1, T].

    Raises:
        ValueError: num_steps < 1, or a frame would go back.
    """
    _check_steps(num_steps)
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    if np.any(end < start):
        raise ValueError(f"times may not fall: from {start} to {end}")
    share = np.linspace(0.0, 1.0, num_steps + 1)[:, None]
    return ((1.0 - share) * start + share * end).astype(np.float32)


def matched(fractions: np.ndarray, num_frames: int, schedule: Schedule) -> np.ndarray:
    """Every frame is at the time at which training would have revealed as much as is revealed.

    A rule that reveals by count (`mgm`) does not follow kappa. Its network still needs a
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


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a window needs at least one step")


def _alike(times: np.ndarray, num_frames: int) -> np.ndarray:
    """One time per row for all frames."""
    return np.repeat(times.astype(np.float32)[:, None], num_frames, axis=1)  # [S+1, T]

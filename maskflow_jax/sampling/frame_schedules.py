"""Frame schedules: the times of all frames of a window at every step, as one matrix.

Row i holds the time of every frame before step i, and row S the times at the end: step i goes from
`times[i]` to `times[i + 1]`, and the number of steps S is the number of network evaluations (NFE)
of a window. Samplers that treat all frames alike have equal times within a row. Diffusion Forcing's
pyramid and rolling diffusion, which finish early frames first, are other matrices for the same
loop (`window.sample_window`).
"""

import numpy as np

from maskflow_jax.flow.schedules import Schedule


def full_sequence(num_steps: int, num_frames: int) -> np.ndarray:
    """Returns times at which all frames go from masked to clean together, in equal steps.

    Args:
        num_steps: Number of steps S.
        num_frames: Number of frames T of the window.

    Returns:
        Times float32 [S+1, T], from 0 in the first row to 1 in the last.

    Raises:
        ValueError: if num_steps < 1.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 3.
    """
    _check_steps(num_steps)
    return _alike(np.linspace(0.0, 1.0, num_steps + 1), num_frames)


def pyramid(num_steps: int, num_frames: int) -> np.ndarray:
    """Returns times at which every frame starts one step after the frame before it.

    This is the matrix of Diffusion Forcing, which finishes early frames first. Frame f goes from
    time 0 in row f + 1 to time 1 in row f + 1 + num_steps. The first step changes no time, and the
    steps of known frames have no effect; they are kept because the published numbers of network
    evaluations count them.

    Args:
        num_steps: Number of steps of one frame.
        num_frames: Number of frames T of the window, context included.

    Returns:
        Times float32 [S+1, T] with S = num_steps + num_frames.

    Raises:
        ValueError: if num_steps < 1.

    Source: Chen et al., Diffusion Forcing, arXiv 2407.01392; MaskFlow, arXiv 2502.11234, section 5.
    """
    _check_steps(num_steps)
    row, frame = np.ogrid[: num_steps + num_frames + 1, :num_frames]
    return np.clip((row - frame - 1) / num_steps, 0.0, 1.0).astype(np.float32)


def rolling_times(num_frames: int, context_frames: int) -> np.ndarray:
    """Returns the times of the rolling state.

    The j-th of the w new frames of a window is at time (w - j - 1) / w. If all times grow by 1 / w,
    the first new frame is finished; the others, moved up by one frame, are in this state again.

    Args:
        num_frames: Number of frames T of the window.
        context_frames: Number of context frames m; w = T - m.

    Returns:
        Times float64 [T], 1 for the context.

    Raises:
        ValueError: if no frame is new.

    Source: Ruhe et al., Rolling Diffusion Models, arXiv 2402.09470.
    """
    new = num_frames - context_frames
    if new < 1:
        raise ValueError(f"{context_frames} context frames of {num_frames}; lower context_frames")
    return np.concatenate([np.ones(context_frames), (new - 1 - np.arange(new)) / new])


def between(start: np.ndarray, end: np.ndarray, num_steps: int) -> np.ndarray:
    """Returns times at which every frame goes from its first to its last time in equal steps.

    Args:
        start: Times in the first row, [T].
        end: Times in the last row, [T], not below `start`.
        num_steps: Number of steps S.

    Returns:
        Times float32 [S+1, T].

    Raises:
        ValueError: if num_steps < 1, or the time of a frame would fall.
    """
    _check_steps(num_steps)
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    if np.any(end < start):
        raise ValueError(f"times may not fall: from {start} to {end}")
    share = np.linspace(0.0, 1.0, num_steps + 1)[:, None]
    return ((1.0 - share) * start + share * end).astype(np.float32)


def matched(fractions: np.ndarray, num_frames: int, schedule: Schedule) -> np.ndarray:
    """Returns the times that belong to given fractions of revealed tokens.

    A rule that reveals a planned number of tokens (`mgm`) does not follow kappa, but the network
    still needs a time as input. In training, a fraction f of clean tokens belongs to the time
    kappa^-1(f).

    Args:
        fractions: Fraction of the unknown tokens that is revealed before each step and at the end,
            [S+1], from 0 to 1 (`mgm.revealed_fractions`).
        num_frames: Number of frames T of the window.
        schedule: Noise schedule of the network's training.

    Returns:
        Times float32 [S+1, T], from 0 in the first row to 1 in the last.

    Raises:
        ValueError: if the fractions do not rise from 0 to 1.
    """
    fractions = np.asarray(fractions, np.float64)
    if fractions[0] != 0.0 or fractions[-1] != 1.0 or np.any(np.diff(fractions) < 0.0):
        raise ValueError(f"fractions must rise from 0 to 1; got {fractions}")
    return _alike(schedule.inverse(fractions), num_frames)


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a window needs at least one step")


def _alike(times: np.ndarray, num_frames: int) -> np.ndarray:
    """Repeats the time of each row for all frames."""
    return np.repeat(times.astype(np.float32)[:, None], num_frames, axis=1)  # [S+1, T]

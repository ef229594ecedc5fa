"""How generated video changes along its length, window of frames by window.

For each window of consecutive frames:

    entropy, code_usage          of its tokens: bits per token, share of the codebook in use
    unigram, spatial, temporal   distance of its tokens' statistics from those of real videos
    motion_energy                mean absolute difference of neighbouring frames, in grey levels
    seam                         the same where one sampling window ends and the next begins, over
                                 that of all other pairs of frames: 1 for a video without seams
    legal, legal_with_confidence, turning    on mazes only, by the motion reader

All but the last three need nothing but the videos. A model that repeats itself loses entropy and
codes; one that stands still loses motion.
"""

import numpy as np

from maskflow_jax.evaluation.motion_reader import MotionReader
from maskflow_jax.evaluation.reconstruction import code_statistics
from maskflow_jax.evaluation.token_statistics import TokenStatistics, distance, token_statistics

Row = dict[str, float | None]


def window_slices(num_frames: int, window: int) -> list[slice]:
    """The windows of a video; a last part that is shorter is left out.

    Raises:
        ValueError: If there is no whole window.
    """
    if not 1 < window <= num_frames:
        raise ValueError(
            f"windows of {window} frames of videos of {num_frames}: choose 2 to {num_frames}"
        )
    return [slice(start, start + window) for start in range(0, num_frames - window + 1, window)]


def token_rows(
    tokens: np.ndarray, window: int, groups: np.ndarray, reference: TokenStatistics | None
) -> list[Row]:
    """Measures the tokens of each window.

    Args:
        tokens: int [N, L, h, w].
        window: Number of frames of a window.
        groups: Group of each code (`token_statistics.code_groups`).
        reference: Statistics of real videos; None leaves the distances out.

    Returns:
        A row per window.
    """
    rows = []
    for at in window_slices(tokens.shape[1], window):
        part = tokens[:, at]
        found = code_statistics(np.bincount(part.ravel(), minlength=len(groups)))
        row: Row = {
            "entropy": float(np.log2(found["perplexity"])),
            "code_usage": found["code_usage"],
        }
        if reference is not None:
            apart = distance(token_statistics(part, groups), reference)
            row |= {name: getattr(apart, name) for name in ("unigram", "spatial", "temporal")}
        rows.append(row)
    return rows


class FrameMeter:
    """Measures frames, a video at a time.

    Args:
        window: Number of frames of a window.
        seams: Numbers of the frames with which a sampling window's new frames begin.
        reader: Reads motion on mazes; None leaves it out.
    """

    def __init__(
        self, window: int, seams: tuple[int, ...] = (), reader: MotionReader | None = None
    ):
        self._window, self._seams, self._reader = window, seams, reader
        self._energy: list[np.ndarray] = []
        self._motion: list[list[dict[str, float]]] = []

    def add(self, frames: np.ndarray) -> None:
        """Takes a video in, uint8 [L, S, S, 3]; all have one length."""
        steps = zip(frames[1:], frames[:-1], strict=True)
        energy = [np.abs(b.astype(np.int16) - a).mean() for b, a in steps]
        self._energy.append(np.array([np.nan, *energy]))
        if self._reader is not None:
            self._motion.append(self._reader.read(frames[None]).by_window(self._window))

    def rows(self) -> list[Row]:
        """A row per window.

        Raises:
            ValueError: If there was no video.
        """
        if not self._energy:
            raise ValueError("no videos: add at least one")
        energy = np.stack(self._energy)  # [N, L]
        seam = np.zeros(energy.shape[1], bool)
        seam[[at for at in self._seams if 0 < at < len(seam)]] = True
        rows = []
        for index, at in enumerate(window_slices(energy.shape[1], self._window)):
            part, here = energy[:, at], seam[at]
            known = np.isfinite(part[0])
            row: Row = {"motion_energy": float(np.nanmean(part)), "seam": None}
            if here.any() and (known & ~here).any():
                inside = part[:, known & ~here].mean()
                row["seam"] = float(part[:, here].mean() / inside) if inside else None
            for name in self._motion[0][index] if self._motion else ():
                row[name] = float(np.mean([video[index][name] for video in self._motion]))
            rows.append(row)
        return rows

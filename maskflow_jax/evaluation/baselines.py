"""What a model has to beat: two predictors of tokens that need no network.

`unigram` knows how often each token occurs. `copy` also knows the previous frame: with probability
a the token stays what it was, otherwise it is drawn from the unigram distribution; a is fitted to
training videos. Both are proper distributions, so their cross-entropy compares with a model's in
nats.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

_FIT_ITERATIONS = 50  # of expectation-maximisation in one parameter: converges in a few


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """The fitted predictors.

    Attributes:
        unigram: probabilities [K], add-one smoothed.
        copy_probability: a.
    """

    unigram: np.ndarray
    copy_probability: float


def fit(videos: Iterable[np.ndarray], codebook_size: int) -> Baselines:
    """Fits both predictors.

    Args:
        videos: training videos, tokens int [F, h, w] each.
        codebook_size: K.

    Returns:
        The baselines.

    Raises:
        ValueError: if no video has two frames.
    """
    counts = np.ones(codebook_size)
    pairs = []
    for tokens in videos:
        counts += np.bincount(tokens.reshape(-1), minlength=codebook_size)
        pairs.append((tokens[:-1].reshape(-1), tokens[1:].reshape(-1)))
    if not any(len(previous) for previous, _ in pairs):
        raise ValueError("the copy baseline needs a training video of two frames or more")
    unigram = counts / counts.sum()
    previous, current = (np.concatenate(side) for side in zip(*pairs, strict=True))
    same, chance = previous == current, unigram[current]
    copy = 0.5
    for _ in range(_FIT_ITERATIONS):
        copied = copy * same / (copy * same + (1 - copy) * chance)
        copy = float(copied.mean())
    return Baselines(unigram=unigram, copy_probability=copy)


def measure(baselines: Baselines, clips: np.ndarray) -> dict[str, float]:
    """Cross-entropy and accuracy on validation clips.

    Args:
        baselines: fitted on other videos.
        clips: tokens int [B, T, h, w]. A clip's first frame has none before it, so `copy` falls
            back on the unigram distribution there.

    Returns:
        `unigram_cross_entropy`, `copy_cross_entropy` in nats per token, `unigram_accuracy`,
        `copy_accuracy`.
    """
    chance = baselines.unigram[clips]
    copied = chance.copy()
    same = clips[:, 1:] == clips[:, :-1]
    a = baselines.copy_probability
    copied[:, 1:] = a * same + (1 - a) * chance[:, 1:]
    likeliest = clips == baselines.unigram.argmax()
    return {
        "unigram_cross_entropy": float(-np.log(chance).mean()),
        "copy_cross_entropy": float(-np.log(copied).mean()),
        "unigram_accuracy": float(likeliest.mean()),
        "copy_accuracy": float(np.concatenate([likeliest[:, :1], same], axis=1).mean()),
    }

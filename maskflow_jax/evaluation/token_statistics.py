"""How far generated tokens are from real ones, without a decoder or a pretrained network.

The distance is total variation, half the sum of |p - q|: 0 for equal distributions and 1 for
disjoint ones.

    unigram     which tokens occur
    spatial     which tokens occur beside and below each other
    temporal    which tokens follow each other in time, at one place

Pairs of K codes are too many to count (a million for 1,024), so pairs are counted over groups of
similar codes, the clusters of the codebook's vectors. A finite sample differs from its own
distribution: compare a sampler's figures with those of as many real frames, never with 0.
"""

import dataclasses

import numpy as np
from scipy.cluster.vq import kmeans2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenStatistics:
    """Frequencies in a set of videos, or distances between two sets.

    Attributes:
        unigram: of tokens [K]; or the distance.
        spatial: of pairs of groups (left, right) and (upper, lower) [2, G, G]; or the distance.
        temporal: of pairs of groups (before, after) [G, G]; or the distance.
    """

    unigram: np.ndarray | float
    spatial: np.ndarray | float
    temporal: np.ndarray | float


def code_groups(codebook: np.ndarray, num_groups: int = 16, seed: int = 0) -> np.ndarray:
    """Groups similar codes by k-means.

    Args:
        codebook: vectors [K, C].
        num_groups: G.
        seed: of the first centres; a seed gives the same groups.

    Returns:
        The group of each code, int [K], of 0..G-1.
    """
    return kmeans2(codebook.astype(np.float64), num_groups, minit="++", rng=seed)[1]


def token_statistics(videos: np.ndarray, groups: np.ndarray) -> TokenStatistics:
    """Counts tokens and pairs.

    Args:
        videos: tokens int [B, F, h, w], two or more along F, h and w.
        groups: of each code, int [K] (`code_groups`).

    Returns:
        The frequencies.

    Raises:
        ValueError: there are no pairs.
    """
    if min(videos.shape[1:]) < 2:
        raise ValueError(f"videos {videos.shape} need two frames, rows and columns to have pairs")
    grouped = groups[videos]
    beside = _pairs(grouped[..., :-1], grouped[..., 1:], groups)
    below = _pairs(grouped[..., :-1, :], grouped[..., 1:, :], groups)
    return TokenStatistics(
        unigram=np.bincount(videos.ravel(), minlength=len(groups)) / videos.size,
        spatial=np.stack([beside, below]) / 2,
        temporal=_pairs(grouped[:, :-1], grouped[:, 1:], groups),
    )


def distance(left: TokenStatistics, right: TokenStatistics) -> TokenStatistics:
    """Total variation between the frequencies of two sets of videos, each in [0, 1]."""
    return TokenStatistics(
        **{
            field.name: float(
                np.abs(getattr(left, field.name) - getattr(right, field.name)).sum() / 2
            )
            for field in dataclasses.fields(TokenStatistics)
        }
    )


def _pairs(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Frequencies [G, G] of pairs of groups."""
    size = int(groups.max()) + 1
    counts = np.bincount((first * size + second).ravel(), minlength=size**2)
    return counts.reshape(size, size) / counts.sum()

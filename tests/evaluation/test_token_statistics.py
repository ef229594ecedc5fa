"""Distances of token statistics: known laws, and that each sees what it is for."""

import numpy as np
import pytest

from maskflow_jax.evaluation.token_statistics import code_groups, distance, token_statistics

RNG = np.random.default_rng(0)
GROUPS = np.arange(8) // 2


def statistics(videos):
    return token_statistics(np.asarray(videos), GROUPS)


def noise(*shape):
    return RNG.integers(0, 8, shape)


def test_frequencies_sum_to_one_and_distances_to_oneself_are_zero():
    counted = statistics(noise(3, 5, 4, 6))
    for table in (counted.unigram, counted.spatial, counted.temporal):
        assert table.sum() == pytest.approx(1.0)
    same = distance(counted, counted)
    assert (same.unigram, same.spatial, same.temporal) == (0.0, 0.0, 0.0)


def test_disjoint_videos_are_at_distance_one():
    apart = distance(statistics(np.zeros((1, 2, 3, 3), int)), statistics(np.full((1, 2, 3, 3), 7)))
    assert (apart.unigram, apart.spatial, apart.temporal) == (1.0, 1.0, 1.0)


def test_known_pairs():
    """Frames 0 1 / 2 6 and 0 1 / 2 0: groups 0 0 / 1 3 and 0 0 / 1 0."""
    counted = statistics([[[[0, 1], [2, 6]], [[0, 1], [2, 0]]]])
    beside, below = 2 * counted.spatial
    assert (beside[0, 0], beside[1, 3], beside[1, 0]) == (0.5, 0.25, 0.25)
    assert (below[0, 1], below[0, 3], below[0, 0]) == (0.5, 0.25, 0.25)
    assert (counted.temporal[0, 0], counted.temporal[1, 1], counted.temporal[3, 0]) == (
        0.5,
        0.25,
        0.25,
    )


def test_each_distance_sees_its_own_failure():
    """Shuffled in space or in time, tokens keep their unigram law."""
    rows = np.broadcast_to(np.arange(8)[:, None], (40, 8, 8, 8))  # every row is of one token
    still = rows[:, RNG.permutation(8)]
    shuffled_space = RNG.permuted(rows.reshape(40, 8, 64), axis=2).reshape(rows.shape)
    apart = distance(statistics(still), statistics(shuffled_space))
    assert apart.unigram == 0.0
    assert apart.spatial > 0.3
    frames = np.broadcast_to(noise(40, 1, 1, 1), (40, 8, 8, 8))  # every video is of one token
    shuffled_time = RNG.permuted(frames.reshape(320, 64), axis=0).reshape(frames.shape)
    apart = distance(statistics(frames), statistics(shuffled_time))
    assert apart.unigram == 0.0
    assert apart.temporal > 0.3


def test_samples_of_one_law_come_near_as_they_grow():
    small, large = (
        distance(statistics(noise(n, 4, 8, 8)), statistics(noise(n, 4, 8, 8))) for n in (1, 64)
    )
    assert large.temporal < 0.25 * small.temporal
    assert large.unigram < 0.02


def test_groups_are_clusters_and_the_same_for_a_seed():
    centres = 10.0 * np.eye(4)[np.repeat(np.arange(4), 25)]
    groups = code_groups(centres + 0.1 * RNG.standard_normal(centres.shape), 4)
    assert len(np.unique(groups)) == 4
    assert all(len(np.unique(groups[25 * i : 25 * i + 25])) == 1 for i in range(4))
    codebook = RNG.standard_normal((100, 4))
    np.testing.assert_array_equal(code_groups(codebook, 8), code_groups(codebook, 8))


def test_one_frame_is_refused():
    with pytest.raises(ValueError, match="two frames"):
        statistics(noise(2, 1, 4, 4))

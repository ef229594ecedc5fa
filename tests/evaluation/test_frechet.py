"""Distances of feature sets: closed forms, the published numbers, the variants, and refusals."""

from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng

from maskflow_jax.evaluation.frechet import frechet_distance, kernel_distance

REFERENCE = Path(__file__).parents[1] / "reference/i3d.npz"


def features(count=60, size=20, seed=0):
    rng = default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) / 4 + 1


@pytest.mark.parametrize("root", ["exact", "svd_float32"])
@pytest.mark.parametrize("count", [12, 60])  # fewer vectors than features, and more
def test_closed_forms(root, count):
    x, shift, s = features(count), default_rng(1).normal(size=20), 1.7
    tolerance = {"exact": 1e-9, "svd_float32": 5e-3}[root]
    scale = np.var(x, axis=0, ddof=1).sum()
    assert frechet_distance(x, x, root=root) == pytest.approx(0, abs=tolerance * scale)
    assert frechet_distance(x, x + shift, root=root) == pytest.approx(
        shift @ shift, rel=tolerance, abs=tolerance * scale
    )
    centred = x - x.mean(axis=0)
    scaled = frechet_distance(centred, s * centred, root=root)
    assert scaled == pytest.approx((1 - s) ** 2 * scale, rel=tolerance, abs=tolerance * scale)


def test_published_numbers():
    """Both released formulas in float64, from an unbiased covariance."""
    with np.load(REFERENCE) as reference:
        a, b = reference["features_a"], reference["features_b"]
        for name in ("frechet_styleganv", "frechet_videogpt"):
            assert frechet_distance(a, b, ddof=1) == pytest.approx(float(reference[name]), rel=1e-9)
        assert frechet_distance(a, b, ddof=1, root="svd_float32") == pytest.approx(
            float(reference["frechet_videogpt"]), rel=1e-4
        )
        # Divided by N instead of N - 1: smaller variances, another distance.
        assert frechet_distance(a, b, ddof=0) == pytest.approx(8.8419629, rel=1e-6)


def test_both_exact_ways_agree():
    """The sum of singular values, taken for few vectors, is the trace by eigenvalues."""
    x, y = features(30, seed=1), features(19, seed=2)  # 19 < 20: by singular values
    s1, s2 = (np.cov(z, rowvar=False, ddof=1) for z in (x, y))
    values = np.linalg.eigvals(s1 @ s2)
    trace = np.sum(np.sqrt(np.clip(values.real, 0, None)))
    plain = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(s1) + np.trace(s2) - 2 * trace
    assert frechet_distance(x, y) == pytest.approx(plain, rel=1e-6)


def test_kernel_distance_of_small_sets_is_the_sum_over_pairs():
    x, y = features(5, 3), features(4, 3, seed=1)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [
        np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])
        for z in (x, y)
    ]
    across = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(sum(within) - 2 * across)


def test_kernel_distance_has_no_bias_and_the_frechet_distance_has():
    draws = [features(24, seed=3)[default_rng(s).integers(0, 24, (2, 12))] for s in range(200)]
    kernel = [kernel_distance(a, b) for a, b in draws]
    assert abs(np.mean(kernel)) < 3 * np.std(kernel) / np.sqrt(len(kernel))
    assert min(frechet_distance(a, b) for a, b in draws) > 0
    assert kernel_distance(features(), features(seed=5) + 3) > 0.1


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), "of the same network"),
        (np.zeros((1, 3)), np.zeros((5, 3)), "needs two or more"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "NaN or infinity"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(left, right, message):
    for measure in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match=message):
            measure(left, right)
    with pytest.raises(ValueError, match="choose a root"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 3)), root="sqrtm")

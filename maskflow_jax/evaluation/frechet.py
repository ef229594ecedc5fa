"""Distances between two sets of feature vectors: Frechet and polynomial-kernel.

The Frechet distance is that of two Gaussians with the sets' means and covariances,

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2),

and published code differs in how the covariance is divided and how the root is taken. Two roots are
here:

    "exact"        float64: eigenvalues of S1^(1/2) S2 S1^(1/2), or, where there are fewer vectors
                   than features, the singular values of Xc Yc^T, which are the same sum
    "svd_float32"  the released one: float32, by singular value decompositions, values below 1e-10
                   not rooted; off by 1.3 % at 2,048 vectors of 400 features

Few vectors make the distance too large: compare it with that of two real sets of the same size.
The kernel distance has no such bias.

Source: Heusel et al. 2017 (Frechet); Binkowski et al. 2018 (kernel); Unterthiner et al. 2018.
"""

import numpy as np

ROOTS = ("exact", "svd_float32")
_NOT_ROOTED = 1e-10
_DEGREE = 3


def frechet_distance(
    left: np.ndarray, right: np.ndarray, *, ddof: int = 1, root: str = "exact"
) -> float:
    """Frechet distance of two sets.

    Args:
        left: Features [N, D].
        right: Features [M, D].
        ddof: 0 divides the covariances by N ("biased"), 1 by N - 1.
        root: A name in `ROOTS`.

    Returns:
        The distance; rounding may make that of equal sets slightly negative.

    Raises:
        ValueError: If the sets cannot be compared, or the root is unknown.
    """
    left, right = check_features(left, right)
    if root not in ROOTS or ddof not in (0, 1):
        raise ValueError(f"root {root!r}, ddof {ddof}: choose a root of {ROOTS} and ddof 0 or 1")
    number = np.float32 if root == "svd_float32" else np.float64
    left, right = left.astype(number), right.astype(number)
    difference = left.mean(axis=0) - right.mean(axis=0)
    if root == "svd_float32":
        s1, s2 = (_covariance(x, ddof) for x in (left, right))
        half = _root_by_svd(s1)
        trace = np.trace(_root_by_svd(half @ s2 @ half))
        total = np.trace(s1) + np.trace(s2)
    else:
        trace = _trace_of_root(left, right, ddof)
        total = sum(np.sum(np.var(x, axis=0, ddof=ddof)) for x in (left, right))
    return float(difference @ difference + total - 2 * trace)


def kernel_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Squared maximum mean discrepancy with the kernel (x y / D + 1)^3, without bias.

    It is 0 on average for two sets from one distribution, of any size, so it can be negative.

    Args:
        left: Features [N, D].
        right: Features [M, D].

    Raises:
        ValueError: If the sets cannot be compared.
    """
    left, right = (x.astype(np.float64) for x in check_features(left, right))

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1.0) ** _DEGREE

    def mean_of_pairs(x):
        values, count = kernel(x, x), len(x)
        return (values.sum() - np.trace(values)) / (count * (count - 1))

    return float(mean_of_pairs(left) + mean_of_pairs(right) - 2 * kernel(left, right).mean())


def check_features(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two sets of features as arrays.

    Raises:
        ValueError: If they are not [N, D] and [M, D] of at least two vectors each, or hold values
            that are not finite.
    """
    left, right = np.asarray(left), np.asarray(right)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(
            f"features of shape {left.shape} and {right.shape}: give [N, D] and [M, D], of the "
            "same network"
        )
    if min(len(left), len(right)) < 2:
        raise ValueError(
            f"{len(left)} and {len(right)} feature vectors: a covariance needs two or more"
        )
    for name, features in (("first", left), ("second", right)):
        if not np.isfinite(features).all():
            raise ValueError(f"the {name} set of features holds NaN or infinity: {features.shape}")
    return left, right


def _covariance(x: np.ndarray, ddof: int) -> np.ndarray:
    centred = x - x.mean(axis=0)
    return centred.T @ centred / (len(x) - ddof)


def _trace_of_root(left: np.ndarray, right: np.ndarray, ddof: int) -> float:
    """The trace of (S1 S2)^(1/2) in float64, by the cheaper of two equal ways."""
    if min(len(left), len(right)) < left.shape[1]:
        x, y = left - left.mean(axis=0), right - right.mean(axis=0)
        divisor = np.sqrt(float(len(x) - ddof) * (len(y) - ddof))
        return float(np.sum(np.linalg.svd(x @ y.T, compute_uv=False)) / divisor)
    s1, s2 = (_covariance(x, ddof) for x in (left, right))
    values, vectors = np.linalg.eigh(s1)
    half = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return float(np.sum(np.sqrt(np.clip(np.linalg.eigvalsh(half @ s2 @ half), 0, None))))


def _root_by_svd(matrix: np.ndarray) -> np.ndarray:
    """The released square root of a symmetric matrix."""
    u, values, vt = np.linalg.svd(matrix)
    return (u * np.where(values < _NOT_ROOTED, values, np.sqrt(values))) @ vt

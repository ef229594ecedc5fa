"""Whether stored weights are those that a network takes: their names and shapes."""

from collections.abc import Mapping

import numpy as np


def check_weights(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], heading: str
) -> None:
    """Compares the names and shapes of weights.

    Args:
        found: Shapes of the stored arrays by name.
        wanted: Shapes that the network takes by name.
        heading: First line of the error.

    Raises:
        ValueError: if names are missing or unexpected or shapes differ; all of them are named.
    """
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unexpected {name}" for name in sorted(found.keys() - wanted.keys())]
    problems += [
        f"{name} has shape {tuple(found[name])}, the config asks for {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if problems:
        raise ValueError("\n  ".join([heading, *problems]))


def check_finite(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Checks that weights are numbers.

    Args:
        arrays: Arrays by name.
        source: Where they come from, for the error.

    Raises:
        ValueError: if an array holds NaN or infinity; the first ten are named.
    """
    bad = [
        name
        for name, array in arrays.items()
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all()
    ]
    if bad:
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(
            f"{source} holds values that are not finite in {', '.join(bad[:10])}{more}: its "
            "training diverged or the file is damaged; use other weights"
        )

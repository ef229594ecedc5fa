"""Weights that do not fit are named, all at once."""

import numpy as np
import pytest

from maskflow_jax.io.weights import check_finite, check_weights


def test_all_mismatches_are_named():
    wanted = {"a": (1, 2), "b": (3,), "c": (4,)}
    check_weights({"a": (1, 2), "b": (3,), "c": (4,)}, wanted, "heading")
    with pytest.raises(ValueError, match="heading") as caught:
        check_weights({"a": (2, 1), "b": (3,), "x": (1,)}, wanted, "heading")
    assert str(caught.value).splitlines()[1:] == [
        "  missing c",
        "  unexpected x",
        "  a has shape (2, 1), the config asks for (1, 2)",
    ]


def test_weights_that_are_no_numbers_are_named():
    good = {"a": np.ones(3, np.float32), "step": np.array(3)}
    check_finite(good, "w.pt")
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"w\.pt holds values that are not finite in b:"):
            check_finite(good | {"b": np.array([1.0, value], np.float32)}, "w.pt")

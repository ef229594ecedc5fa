"""Programs that do not fit in memory end in an error with advice."""

import jax
import jax.numpy as jnp
import pytest

from maskflow_jax.parallel.memory import OutOfMemoryError, explain_out_of_memory


def test_too_little_memory_is_explained():
    with (
        pytest.raises(OutOfMemoryError, match=r"RESOURCE_EXHAUSTED.*; halve the batch$"),
        explain_out_of_memory("halve the batch"),
    ):
        jax.block_until_ready(jnp.zeros((2**12, 2**30)))


def test_other_errors_pass():
    with pytest.raises(jax.errors.JaxRuntimeError), explain_out_of_memory("halve the batch"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

"""Errors of devices that have too little memory, with what to change."""

import contextlib
from collections.abc import Iterator

import jax


class OutOfMemoryError(RuntimeError):
    """A program needs more memory than its devices have."""


@contextlib.contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Adds advice to the error of a program that does not fit into the memory of its devices.

    Args:
        advice: Advice what to change, as an imperative clause.

    Raises:
        OutOfMemoryError: if a program inside the block ran out of memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        first_line = str(error).splitlines()[0]
        raise OutOfMemoryError(
            f"the devices have too little memory ({first_line}); {advice}"
        ) from error

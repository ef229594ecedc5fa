"""One readable log: of talkative libraries only short warnings, and all lines of other code."""

import logging as python_logging
import sys

from absl import logging

# Orbax alone writes thirty informative lines per checkpoint.
TALKATIVE = ("orbax", "jax", "grain", "etils", "tensorflow", "tensorflow_datasets", "clu", "httpx")
_LONGEST = 300  # characters of a library's warning


def quiet_libraries(*, tracebacks: bool = False) -> None:
    """Drops the informative lines of talkative libraries from absl's log, and their tracebacks.

    Their warnings and errors stay, each as one line: what the program itself says of the error
    stands at the end and is not to be searched for among two hundred tracebacks, which is what
    orbax's threads write when a disk is full. Every line of other code stays as it is.

    Args:
        tracebacks: Whether the tracebacks of these libraries stay.
    """
    parts = tuple(f"/site-packages/{name}/" for name in TALKATIVE)

    def keep(record: python_logging.LogRecord) -> bool:
        talkative = any(part in record.pathname.replace("\\", "/") for part in parts)
        if talkative and not tracebacks:
            _shorten(record)
        return record.levelno >= python_logging.WARNING or not talkative

    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(keep)
    if not tracebacks:
        sys.unraisablehook = _report_but_closed_loops


def _shorten(record: python_logging.LogRecord) -> None:
    """Makes a record one line without a traceback."""
    text = " ".join(record.getMessage().split())
    record.msg = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    record.args, record.exc_info, record.exc_text = (), None, None


def _report_but_closed_loops(unraisable: "sys.UnraisableHookArgs") -> None:
    """Reports an error that nobody can catch, as Python does, except one that says nothing.

    When one write of a checkpoint fails, orbax closes the event loop that the other writes report
    to; each of them then prints this error from a thread of its own.
    """
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)

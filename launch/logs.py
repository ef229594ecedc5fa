"""One readable log: our lines, and of the libraries' only the warnings."""

import logging as python_logging
from pathlib import Path

from absl import logging

_OURS = str(Path(__file__).resolve().parents[1])


def quiet_libraries() -> None:
    """Drops the libraries' informative lines (Orbax writes thirty per checkpoint) from absl's log.

    Warnings and errors stay, whoever they come from.
    """

    def keep(record: python_logging.LogRecord) -> bool:
        ours = record.pathname.startswith(_OURS) and "site-packages" not in record.pathname
        return ours or record.levelno >= python_logging.WARNING

    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(keep)

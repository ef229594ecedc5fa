"""One readable log: of some talkative libraries only the warnings, and all other lines."""

import logging as python_logging

from absl import logging

# Orbax alone writes thirty informative lines per checkpoint.
TALKATIVE = ("orbax", "jax", "grain", "etils", "tensorflow", "tensorflow_datasets", "clu", "httpx")


def quiet_libraries() -> None:
    """Drops the informative lines of talkative libraries from absl's log.

    Warnings and errors stay, whoever they come from, and so does every line of other code.
    """
    parts = tuple(f"/site-packages/{name}/" for name in TALKATIVE)

    def keep(record: python_logging.LogRecord) -> bool:
        talkative = any(part in record.pathname.replace("\\", "/") for part in parts)
        return record.levelno >= python_logging.WARNING or not talkative

    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(keep)

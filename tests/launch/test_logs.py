"""The log of the programs keeps everybody's lines but those of talkative libraries."""

import logging as python_logging

import pytest
from absl import logging

from launch.logs import quiet_libraries


@pytest.fixture
def handler():
    handler = logging.get_absl_handler()
    before, verbosity = list(handler.filters), logging.get_verbosity()
    quiet_libraries()
    yield handler
    handler.filters[:] = before
    logging.set_verbosity(verbosity)


@pytest.mark.parametrize(
    ("path", "level", "kept"),
    [
        ("/home/me/my_hook.py", "INFO", True),
        ("/venv/lib/site-packages/my_package/hook.py", "INFO", True),
        ("/venv/lib/site-packages/maskflow_jax/training/loop.py", "INFO", True),
        ("/venv/lib/site-packages/orbax/checkpoint/manager.py", "INFO", False),
        ("/venv/lib/site-packages/orbax/checkpoint/manager.py", "WARNING", True),
    ],
)
def test_whose_lines_are_kept(handler, path, level, kept):
    number = getattr(python_logging, level)
    record = python_logging.LogRecord("absl", number, path, 1, "text", None, None)
    assert bool(handler.filter(record)) is kept

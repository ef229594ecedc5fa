"""The log of the programs keeps everybody's lines but those of talkative libraries."""

import logging as python_logging
import sys
from types import SimpleNamespace

import pytest
from absl import logging

from launch.logs import quiet_libraries


@pytest.fixture
def handler():
    handler = logging.get_absl_handler()
    before, verbosity = list(handler.filters), logging.get_verbosity()
    hook = sys.unraisablehook
    quiet_libraries()
    yield handler
    sys.unraisablehook = hook
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


def failed_record(path):
    try:
        raise OSError("no space left on device")
    except OSError:
        error = sys.exc_info()
    text = "saving failed:\n%s" + "\nand so on" * 100
    return python_logging.LogRecord("absl", python_logging.ERROR, path, 1, text, ("disk",), error)


def test_an_error_of_a_library_is_one_line(handler):
    record = failed_record("/venv/lib/site-packages/orbax/checkpoint/manager.py")
    assert handler.filter(record)
    line = python_logging.Formatter().format(record)
    assert line.startswith("saving failed: disk and so on")
    assert "\n" not in line
    assert len(line) < 310


def test_errors_of_other_code_keep_their_traceback(handler):
    record = failed_record("/home/me/my_hook.py")
    assert handler.filter(record)
    assert "OSError: no space left on device" in python_logging.Formatter().format(record)


@pytest.mark.parametrize(
    ("error", "reported"),
    [(RuntimeError("Event loop is closed"), False), (RuntimeError("another"), True)],
)
def test_which_errors_of_threads_are_reported(handler, monkeypatch, error, reported):
    seen = []
    monkeypatch.setattr(sys, "__unraisablehook__", seen.append)
    sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert bool(seen) is reported


def test_tracebacks_stay_when_asked_for(handler):
    handler.filters.clear()
    quiet_libraries(tracebacks=True)
    record = failed_record("/venv/lib/site-packages/orbax/checkpoint/manager.py")
    assert handler.filter(record)
    assert "OSError: no space left on device" in python_logging.Formatter().format(record)

"""A real browser for tests of pages."""

import contextlib
import importlib
import shutil
import warnings

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium(*, needs=()):
    """Chromium under Playwright; where anything is missing the tests are skipped, and a warning
    says so.

    Args:
        needs: Further packages without which there is nothing to look at.
    """
    place = next(filter(None, map(shutil.which, NAMES)), None)
    if place is None:
        _skip("Chromium")
    for name in ("playwright.sync_api", *needs):
        try:
            importlib.import_module(name)
        except ImportError as error:
            _skip(error.name)
    from playwright import sync_api

    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield browser
        browser.close()


def _skip(missing):
    text = f"the page was NOT looked at in a browser: {missing} is not installed"
    warnings.warn(text, stacklevel=4)
    pytest.skip(text)

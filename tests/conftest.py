"""What several test files share."""

import pytest
import tiny


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return tiny.World(tmp_path_factory.mktemp("world") / "data")


def pytest_collection_modifyitems(items):
    """Starts the files that run whole programs first, so that two processes end together."""
    slow = ("test_programs", "test_train")
    items.sort(key=lambda item: item.path.stem not in slow)

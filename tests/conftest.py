"""What several test files share."""

import pytest
import tiny


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return tiny.World(tmp_path_factory.mktemp("world") / "data")

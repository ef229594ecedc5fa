"""What several test files share."""

import os

import jax
import pytest
import tiny

# Tests spend most of their time in the compiler; programs that tests start read the variable.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def follow_environment():
    """jax has read the variable when it was imported, which may have been before."""
    chosen = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    jax.config.update("jax_disable_most_optimizations", chosen)


follow_environment()

CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """Programs started by tests keep what they compile for each other, not in the user's home."""
    shared = tmp_path_factory.getbasetemp().parent / "cache_home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return tiny.World(tmp_path_factory.mktemp("world") / "data")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A finished run, beside the folders of its dataset and tokenizer."""
    from maskflow_jax.training.trainer import train

    folder = tmp_path_factory.mktemp("tiny")
    tiny.write_world(folder)
    settings = tiny.settings_of(folder, run__num_steps=3)
    with tiny.quick_compilation():
        assert train(settings, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def full_optimisation():
    """For modules that compute longer than they compile: those with models that ship."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        follow_environment()
        yield
    follow_environment()


@pytest.fixture(scope="module")
def compilation_cache(tmp_path_factory):
    """Compiles a program once for all tests of a module; the value is for other processes."""
    directory = str(tmp_path_factory.mktemp("cache"))
    settings = CACHE | {"jax_compilation_cache_dir": directory}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)


def pytest_collection_modifyitems(items):
    """Starts the files that run whole programs first, so that two processes end together."""
    slow = (
        "test_two_processes",
        "test_programs",
        "test_train",
        "test_released_weights",
        "test_configs",
        "test_many_devices",
        "test_app_page",
    )
    items.sort(key=lambda item: item.path.stem not in slow)

"""Programs keep what they compile, where they may."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from launch import startup

ROOT = Path(__file__).parents[2]
PROGRAM = """
import jax
from launch.startup import start
start(keep_compiled={keep})
jax.jit(lambda x: x @ x)(jax.numpy.ones((4, 4)))
"""


def run(keep, home, **variables):
    environment = os.environ | {"XDG_CACHE_HOME": str(home)} | variables
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    environment["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    program = PROGRAM.format(keep=keep)
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True)


def files(folder):
    return sorted(path for path in folder.rglob("*-cache") if path.is_file())


def test_compiled_programs_are_kept_under_the_cache_home(tmp_path):
    run(True, tmp_path / "home")
    kept = files(tmp_path / "home" / "maskflow_jax")
    assert kept
    times = [path.stat().st_mtime_ns for path in kept]
    run(True, tmp_path / "home")  # found there: nothing new is written
    assert files(tmp_path / "home") == kept
    assert [path.stat().st_mtime_ns for path in kept] == times


@pytest.mark.parametrize("keep", [True, False])
def test_the_cache_can_be_moved_and_turned_off(tmp_path, keep):
    run(keep, tmp_path / "home", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "elsewhere"))
    assert not files(tmp_path / "home")
    assert bool(files(tmp_path / "elsewhere")) == keep


def test_cpus_that_differ_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = set()
    for flags in ("flags : sse2", "flags : sse2 avx512f", "flags : sse2"):
        description = tmp_path / "cpuinfo"
        description.write_text(f"cpu MHz : {len(folders)}\n{flags}\n{flags}\n")
        monkeypatch.setattr(startup, "_CPU_DESCRIPTION", description)
        folders.add(startup.cache_directory())
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {tmp_path / "maskflow_jax"}


def test_a_folder_that_is_set_stays(monkeypatch):
    updates, before = {}, jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(jax.config, "update", updates.__setitem__)
    monkeypatch.setattr(startup, "quiet_libraries", lambda **_: None)
    startup.start()
    was_free = before is None  # another test of this process may have started a program
    expected = {"jax_compilation_cache_dir": str(startup.cache_directory())}
    assert updates == (expected if was_free else {})

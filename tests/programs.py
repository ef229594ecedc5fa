"""Programs in processes of their own, which a test may kill.

The processes are forked from one that has imported everything but has not touched a device. The
programs are not imported here: two of them in one process would define the same flags.
"""

import contextlib
import importlib
import multiprocessing
import os
import sys

import conftest
import jax
import tiny

PRELOADED = ["programs", "maskflow_jax.generation.job_folder", "launch.cli"]


def _run(name, arguments, cache, folder):
    from absl import flags

    os.chdir(folder)
    sys.argv = [name, *arguments]  # where changes of a config are looked for
    program = importlib.import_module(name)
    for setting, value in cache.items():
        jax.config.update(setting, value)
    flags.FLAGS(sys.argv)
    # Not where a program traces code that is compiled already.
    with contextlib.nullcontext() if name == "launch.train" else tiny.quick_compilation():
        sys.exit(program.main(None))


def start(name, *arguments, folder="."):
    """Starts a program in a folder; it keeps what it compiles where this process does."""
    names = (*conftest.CACHE, "jax_compilation_cache_dir")
    cache = {name: getattr(jax.config, name) for name in names}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(name, arguments, cache, folder))
    process.start()
    return process


def call(name, *arguments, folder="."):
    """Runs a program in a folder to its end; the exit code."""
    process = start(name, *arguments, folder=folder)
    process.join()
    return process.exitcode

"""Programs in processes of their own, which a test may kill.

The processes are forked from one that has imported everything but has not touched a device. The
programs are not imported here: two of them in one process would define the same flags.
"""

import importlib
import multiprocessing
import sys

import conftest
import jax
import tiny

PRELOADED = ["programs", "maskflow_jax.generation.job_folder", "launch.cli"]


def _run(name, arguments, cache):
    from absl import flags

    program = importlib.import_module(name)
    for setting, value in cache.items():
        jax.config.update(setting, value)
    flags.FLAGS([name, *arguments])
    with tiny.quick_compilation():
        sys.exit(program.main(None))


def start(name, *arguments):
    """Starts a program, which keeps what it compiles where this process does."""
    names = (*conftest.CACHE, "jax_compilation_cache_dir")
    cache = {name: getattr(jax.config, name) for name in names}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(name, arguments, cache))
    process.start()
    return process


def call(name, *arguments):
    """Runs a program to its end; the exit code."""
    process = start(name, *arguments)
    process.join()
    return process.exitcode

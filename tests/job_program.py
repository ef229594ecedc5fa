"""The program of sampling jobs in a process of its own, that a test may kill.

The processes are forked from one that has imported everything but has not touched a device.
"""

import multiprocessing
import sys

import conftest
import jax
import tiny
from absl import flags

from launch import jobs

PRELOADED = [
    "job_program",
    "maskflow_jax.generation.job_folder",
    "maskflow_jax.generation.previews",
    "maskflow_jax.generator",
]


def call(*arguments):
    """Calls the program as the command line would; its exit code."""
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["jobs", *arguments])
    try:
        with tiny.quick_compilation():
            return jobs.main(None)
    finally:
        for module in ("launch.jobs", "launch.distributed"):
            for flag in flags.FLAGS.flags_by_module_dict()[module]:
                flag.unparse()


def _run(arguments, cache):
    for name, value in cache.items():
        jax.config.update(name, value)
    sys.exit(call(*arguments))


def start(*arguments):
    """Starts the program, which keeps what it compiles where this process does."""
    names = (*conftest.CACHE, "jax_compilation_cache_dir")
    cache = {name: getattr(jax.config, name) for name in names}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(arguments, cache))
    process.start()
    return process

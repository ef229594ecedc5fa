"""What every program does first: a readable log, and compiled programs that are kept.

Compiling a train step or a sampler takes seconds to minutes; jax keeps what it compiled in a folder
and finds it there the next time. The folder is `$XDG_CACHE_HOME/maskflow_jax` (by default under
`~/.cache`) unless `JAX_COMPILATION_CACHE_DIR` names another; `JAX_ENABLE_COMPILATION_CACHE=0` turns
it off, and deleting the folder loses nothing but time.
"""

import hashlib
import os
import platform
from pathlib import Path

from absl import flags

from launch.logs import quiet_libraries

_CPU_DESCRIPTION = Path("/proc/cpuinfo")


def start(*, keep_compiled: bool = True) -> None:
    """Prepares a program's process.

    Args:
        keep_compiled: whether compiled programs are kept on disk and looked for there.
    """
    import jax  # here, for processes that import a program but only decode video

    shown = flags.FLAGS.is_parsed() and flags.FLAGS.flag_values_dict().get("debug", False)
    quiet_libraries(tracebacks=shown)
    if not keep_compiled:
        jax.config.update("jax_enable_compilation_cache", False)
    elif jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory()))


def cache_directory() -> Path:
    """Where compiled programs are kept: a folder for each kind of CPU.

    Programs for CPUs hold instructions of the CPU they were compiled on, and home directories are
    shared by machines that differ.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "maskflow_jax" / f"{platform.machine()}-{_cpu_features()}"


def _cpu_features() -> str:
    """A short name for what this CPU can do."""
    description = platform.processor()
    if _CPU_DESCRIPTION.is_file():
        lines = _CPU_DESCRIPTION.read_text().splitlines()
        named = ("flags", "Features", "model name")
        description = "\n".join(sorted({line for line in lines if line.startswith(named)}))
    return hashlib.sha256(description.encode()).hexdigest()[:12]

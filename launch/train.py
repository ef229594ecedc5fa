"""Trains MaskFlow on a dataset of tokenised videos.

    python -m launch.train --config=configs/maze.py --workdir=runs/maze [--config.seed=1 ...]

The same command, started again in the same folder, goes on from the last checkpoint. After SIGTERM
it saves and exits with code 143. On several hosts, start it on each with `--multihost`.
"""

import sys
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from launch.logs import quiet_libraries
from launch.training import train_from_config

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of checkpoints, metrics and previews.")
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Join the processes that SLURM, a TPU pod or Kubernetes has started."
)
flags.mark_flags_as_required(["config", "workdir"])

EXIT_PREEMPTED = 143  # 128 + SIGTERM, what schedulers take for "run me again"


def main(_) -> None:
    """Trains, and says by its exit code whether there is more to do."""
    quiet_libraries()
    if _MULTIHOST.value:
        jax.distributed.initialize()
    if not train_from_config(_CONFIG.value.to_dict(), Path(_WORKDIR.value)):
        sys.exit(EXIT_PREEMPTED)


if __name__ == "__main__":
    app.run(main)

"""Trains MaskFlow on a dataset of tokenised videos.

    python -m launch.train --config=configs/maze.py --workdir=runs/maze [--config.seed=1 ...]

The same command, started again in the same folder, goes on from the last checkpoint. After SIGTERM
it saves and exits with code 143. Several processes join by themselves under SLURM, Open MPI and on
TPU pods, else by `--coordinator=HOST:PORT --num_processes=N --process_id=I` (`--distributed`).
`--dry_run` prints which process and device would hold what, and stops.
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from launch import distributed
from launch.startup import start
from launch.training import describe, train_from_config

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of checkpoints, metrics and previews.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Prints processes, devices, mesh, batch and memory, and changes nothing."
)
flags.mark_flags_as_required(["config", "workdir"])

EXIT_PREEMPTED = 143  # 128 + SIGTERM, what schedulers take for "run me again"


def main(_) -> None:
    """Trains, and says by its exit code whether there is more to do."""
    start()
    hosts = distributed.join()
    config, workdir = _CONFIG.value.to_dict(), Path(_WORKDIR.value)
    if _DRY_RUN.value:
        print(describe(config, workdir, hosts), end="", flush=True)
    elif not train_from_config(config, workdir):
        sys.exit(EXIT_PREEMPTED)


if __name__ == "__main__":
    app.run(main)

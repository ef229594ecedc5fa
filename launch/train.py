"""Trains MaskFlow on a dataset of tokenised videos.

    python -m launch.train --config=configs/maze.py --workdir=runs/maze [--config.seed=1 ...]

The same command, started again in the same folder, goes on from the last checkpoint. After SIGTERM
it saves and exits with code 143. Several processes join by themselves under SLURM, Open MPI and on
TPU pods, else by `--coordinator=HOST:PORT --num_processes=N --process_id=I`. `--dry_run` prints
which process and device would hold what, and stops.
"""

from absl import flags
from ml_collections import config_flags

from launch import cli, distributed
from launch.startup import start

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of checkpoints, metrics and previews.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Prints processes, devices, mesh, batch and memory, and changes nothing."
)
flags.mark_flags_as_required(["config", "workdir"])

EXIT_PREEMPTED = 143  # 128 + SIGTERM, what schedulers take for "run me again"


def main(_) -> int:
    """Trains; the exit code says whether there is more to do."""
    start()
    hosts = distributed.join()
    import maskflow_jax as mf
    from maskflow_jax.training.description import describe

    if not _DRY_RUN.value:
        return 0 if mf.train(_CONFIG.value, _WORKDIR.value, [mf.previews]) else EXIT_PREEMPTED
    try:
        identity = mf.Tokenizer.load(_CONFIG.value.data.tokenizer).identity
    except FileNotFoundError as error:
        identity = None
        print(f"tokenizer: MISSING: {error}")
    print(describe(_CONFIG.value, _WORKDIR.value, hosts, identity), end="", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)

"""Trains a tokenizer on rendered maze video.

    python -m launch.train_tokenizer --config=configs/maze_tokenizer.py --workdir=runs/tokenizer

leaves `workdir/tokenizer` (config.json, model.safetensors), which `Tokenizer.load` takes, and its
figures in `workdir/metrics.jsonl`. Started again, the training of a "patch_vq" goes on from its
last saved state; that of a VQGAN starts in a new folder.
"""

from absl import flags
from ml_collections import config_flags

from launch import cli
from launch.startup import start

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the tokenizer and the log.")
flags.mark_flags_as_required(["config", "workdir"])


def main(_) -> None:
    """Renders, trains, measures and saves."""
    start()
    from maskflow_jax.tokenizer_trainer import train_tokenizer

    train_tokenizer(_CONFIG.value.to_dict(), _WORKDIR.value)


if __name__ == "__main__":
    cli.run(main)

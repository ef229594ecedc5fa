r"""Turns released torch weights into a run: launch.sample samples it, launch.train goes on from it.

    python -m launch.import_checkpoint --checkpoint=maskflow.pt --config=configs/faceforensics.py \
        --tokenizer=tokenizers/vq_f8 --workdir=runs/faceforensics_released

Reads torch's pickles (`pip install ".[torch]"`) and .safetensors (needs no torch). Nothing but
tensors and plain values is unpickled.
"""

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from launch.importing import import_checkpoint
from launch.startup import start

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "File of torch weights.")
_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the new run.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "Tokenizer of the model's tokens; by default that of config.data.directory."
)
_KEEP_STEP = flags.DEFINE_bool("keep_step", False, "Count on from the file's train_steps.")
flags.mark_flags_as_required(["checkpoint", "config", "workdir"])


def main(_) -> None:
    """Writes the run."""
    start()
    import_checkpoint(
        Path(_CHECKPOINT.value),
        _CONFIG.value.to_dict(),
        Path(_WORKDIR.value),
        tokenizer=_TOKENIZER.value,
        keep_step=_KEEP_STEP.value,
    )


if __name__ == "__main__":
    app.run(main)

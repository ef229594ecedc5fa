r"""Imports released torch weights: a Latte model as a run, an autoencoder as a tokenizer.

    python -m launch.import_weights --checkpoint=maskflow.pt --config=configs/faceforensics.py \
        --tokenizer=tokenizers/vq_f8 --workdir=runs/faceforensics_released
    python -m launch.import_weights --checkpoint=vq-f8.ckpt --out=tokenizers/vq_f8

The names of the parameters tell which of the two a file holds. It reads torch's pickles
(`pip install ".[torch]"`) and .safetensors (needs no torch); nothing but tensors and plain values
is unpickled. An autoencoder of latent-diffusion or taming-transformers is recognised by its
weights; where they are ambiguous, --preset, --config_file or --frame_size decides.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from launch import cli
from launch.startup import start
from maskflow_jax.tokenizers.importing import holds_tokenizer, import_tokenizer
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.tokenizers.vqgan_configs import PRESETS
from maskflow_jax.training.released_weights import import_checkpoint

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "File of torch weights.", required=True)
_CONFIG = config_flags.DEFINE_config_file("config", None, "Settings of the run.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the new run.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "Tokenizer of the model's tokens; by default that of config.data.directory."
)
_KEEP_STEP = flags.DEFINE_bool("keep_step", False, "Count on from the file's train_steps.")
_OUT = flags.DEFINE_string("out", None, "Folder of the new tokenizer.")
_PRESET = flags.DEFINE_enum("preset", None, sorted(PRESETS), "Published autoencoder that it is.")
_CONFIG_FILE = flags.DEFINE_string("config_file", None, "The autoencoder's config, YAML or JSON.")
_FRAME_SIZE = flags.DEFINE_integer("frame_size", None, "Side of the frames in pixels.")


def main(_) -> None:
    """Writes the run or the tokenizer."""
    start()
    if holds_tokenizer(_CHECKPOINT.value):
        if _OUT.value is None or _WORKDIR.value or _CONFIG.value:
            raise ValueError("the file holds a tokenizer: give --out, not --workdir or --config")
        identity = import_tokenizer(
            _CHECKPOINT.value,
            _OUT.value,
            preset=_PRESET.value,
            config_file=_CONFIG_FILE.value,
            frame_size=_FRAME_SIZE.value,
        )
        print(f"wrote {_OUT.value}: {identity}")
        return
    if _WORKDIR.value is None or _CONFIG.value is None or _OUT.value:
        raise ValueError("the file holds no tokenizer: give --workdir and --config for a model")
    settings, identity = _CONFIG.value.to_dict(), None
    if _TOKENIZER.value:
        settings["data"]["tokenizer"] = _TOKENIZER.value
        identity = Tokenizer.load(_TOKENIZER.value).identity
    import_checkpoint(
        Path(_CHECKPOINT.value),
        settings,
        Path(_WORKDIR.value),
        tokenizer=identity,
        keep_step=_KEEP_STEP.value,
    )


if __name__ == "__main__":
    cli.run(main)

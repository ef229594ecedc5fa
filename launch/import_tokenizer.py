r"""Turns a published VQ autoencoder of torch into a tokenizer of this project.

    python -m launch.import_tokenizer vq-f8.ckpt tokenizers/vq_f8

takes checkpoints of latent-diffusion and taming-transformers: torch's pickles
(`pip install ".[torch]"`) and .safetensors (needs no torch). Nothing but tensors and plain values
is unpickled. The weights tell what they are; where they do not, say it:

    python -m launch.import_tokenizer vq-f8.ckpt tokenizers/vq_f8 --preset=ldm-vq-f8
    python -m launch.import_tokenizer mine.ckpt tokenizers/mine --config_file=mine/config.yaml
    python -m launch.import_tokenizer mine.safetensors tokenizers/mine --frame_size=128
"""

from pathlib import Path

from absl import app, flags

from launch.importing_tokenizers import import_tokenizer
from launch.startup import start
from maskflow_jax.tokenizers.vqgan_configs import PRESETS

_PRESET = flags.DEFINE_enum("preset", None, sorted(PRESETS), "The published model that it is.")
_CONFIG_FILE = flags.DEFINE_string("config_file", None, "The model's own config, YAML or JSON.")
_FRAME_SIZE = flags.DEFINE_integer(
    "frame_size", None, "Side of the frames in pixels; by default what the model was trained with."
)


def main(argv: list[str]) -> None:
    """Writes the tokenizer's folder."""
    if len(argv) != 3:
        raise app.UsageError("give two arguments: the checkpoint and the folder to write")
    start()
    import_tokenizer(
        Path(argv[1]),
        Path(argv[2]),
        preset=_PRESET.value,
        config_file=Path(_CONFIG_FILE.value) if _CONFIG_FILE.value else None,
        frame_size=_FRAME_SIZE.value,
    )


if __name__ == "__main__":
    app.run(main)

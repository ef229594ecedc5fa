"""Writes a run's newest weights in the released layout, for the PyTorch code.

    python -m launch.export_weights --workdir=runs/faceforensics --out=maskflow.pt

A .pt file (`pip install ".[torch]"`) has the sections "model" and "ema"; a .safetensors file has
the averaged weights alone and needs no torch. The torch model has one more class, the mask token;
it gets a bias so low that it is never drawn.
"""

from pathlib import Path

from absl import flags

from launch import cli
from launch.startup import start
from maskflow_jax.training.released_weights import export_checkpoint

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUT = flags.DEFINE_string("out", None, "File to write: .pt or .safetensors.", required=True)


def main(_) -> None:
    """Writes the file."""
    start()
    export_checkpoint(Path(_WORKDIR.value), Path(_OUT.value))


if __name__ == "__main__":
    cli.run(main)

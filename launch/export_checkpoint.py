"""Writes a run's newest weights in the released layout, for the torch code.

    python -m launch.export_checkpoint --workdir=runs/faceforensics --out=maskflow.pt

A .pt file (`pip install ".[torch]"`) has the sections "model" and "ema"; a .safetensors file the
averaged weights alone and needs no torch. The torch model's last class, the mask token, which the
network here has not, gets a bias so low that it is never drawn.
"""

from pathlib import Path

from absl import app, flags

from launch.importing import export_checkpoint
from launch.startup import start

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUT = flags.DEFINE_string("out", None, "File to write: .pt or .safetensors.", required=True)


def main(_) -> None:
    """Writes the file."""
    start()
    export_checkpoint(Path(_WORKDIR.value), Path(_OUT.value))


if __name__ == "__main__":
    app.run(main)

"""Writes a run's averaged weights and config as a folder that can be passed on.

    python -m launch.export_model --workdir=runs/maze --out=models/maze

The folder can take the place of a run in `VideoGenerator.load` and in `--workdir` of the programs
that sample and evaluate. Training goes on in the run's own folder.
"""

from absl import flags, logging

from launch import cli
from launch.startup import start

_WORKDIR = flags.DEFINE_string("workdir", None, "Run or exported model.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["float32", "bfloat16", "float16"], "Type of the stored weights."
)


def main(_) -> None:
    """Writes the folder."""
    start()
    from maskflow_jax.generation.trained_model import export_model
    from maskflow_jax.training.model_files import load_model

    export_model(load_model(_WORKDIR.value), _OUT.value, dtype=_DTYPE.value)
    logging.info("wrote %s", _OUT.value)


if __name__ == "__main__":
    cli.run(main)

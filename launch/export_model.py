"""Writes a run's averaged weights and config as a model folder that can be passed on.

    python -m launch.export_model --workdir=runs/maze --out=models/maze

The folder takes the place of a run's in `--workdir` of launch.sample and the like; training goes on
in the run's own folder.
"""

from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from launch.rollouts import load_run
from launch.startup import start
from maskflow_jax.models.model_folder import save_model

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_DATASET = flags.DEFINE_string("dataset", None, "Dataset directory to name in the config.")


def main(_) -> None:
    """Writes the folder."""
    start()
    run = load_run(Path(_WORKDIR.value))
    config = dict(run.config)
    if _DATASET.value is not None:
        config["data"] = {**config["data"], "directory": _DATASET.value}
    save_model(Path(_OUT.value), config, jax.tree.map(np.asarray, run.params))
    logging.info("wrote %s", _OUT.value)


if __name__ == "__main__":
    app.run(main)

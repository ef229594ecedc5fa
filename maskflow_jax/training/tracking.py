"""Metrics to Weights & Biases, an optional extra, which is offline by default.

Errors here do not stop a run: if the package is missing or fails, a warning is logged, and the
metrics are still written to `metrics.jsonl`. The environment variable WANDB_MODE has the meaning
that the package documents. Without it the metrics are stored locally, and `wandb sync` sends them
later.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from maskflow_jax.io.files import write_text

_ID = "wandb_id"  # file with the id of the run, which a restarted run uses again


class Tracker:
    """Sends the metrics of a run to Weights & Biases until an error occurs.

    Args:
        project: Name of the project; nothing is sent if it is empty.
        workdir: Folder of the run.
        settings: Settings of the run, JSON values.
    """

    def __init__(self, project: str, workdir: Path, settings: Mapping[str, Any]):
        self._run, self._errors = None, (OSError,)
        if not project:
            return
        try:
            import wandb
        except ImportError as error:
            logging.warning(
                "nothing goes to Weights & Biases: %s (pip install 'maskflow_jax[wandb]')", error
            )
            return
        self._errors = (wandb.Error, OSError)
        try:
            self._run = wandb.init(
                project=project,
                name=workdir.resolve().name,
                id=_run_id(workdir),
                resume="allow",
                dir=str(workdir),
                mode=os.environ.get("WANDB_MODE", "offline"),
                config=dict(settings),
            )
        except self._errors as error:
            logging.warning("nothing goes to Weights & Biases: %s", error)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Sends scalars at a step."""
        self._try(lambda run: run.log(dict(scalars), step=step))

    def close(self) -> None:
        """Ends the run of the project."""
        self._try(lambda run: run.finish())
        self._run = None

    def _try(self, call) -> None:
        """Calls a function of the run; after an error nothing more is sent."""
        if self._run is None:
            return
        try:
            call(self._run)
        except self._errors as error:
            logging.warning("no more goes to Weights & Biases: %s", error)
            self._run = None


def _run_id(workdir: Path) -> str:
    """The id of a run, the same after a restart."""
    path = workdir / _ID
    if not path.is_file():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text().strip()

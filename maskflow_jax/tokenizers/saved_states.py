"""Saved states of a tokenizer's training, so that a run that was stopped goes on."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp

from maskflow_jax.io.files import differences, write_text

T = TypeVar("T")
SETTINGS = "settings.json"


class SavedStates:
    """The states in a folder, of which the last one is kept; `open_states` makes it."""

    def __init__(self, manager: ocp.CheckpointManager):
        self._manager = manager

    def restore(self, template: T) -> T | None:
        """Returns the last state, or None if there is none.

        Args:
            template: A state of the right shapes and types.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        return self._manager.restore(step, args=ocp.args.StandardRestore(template))

    def save(self, step: int, state: Any) -> None:
        """Saves a state and waits until it is on the disk."""
        self._manager.save(step, args=ocp.args.StandardSave(state))
        self._manager.wait_until_finished()


@contextlib.contextmanager
def open_states(directory: str | Path, settings: Mapping[str, Any]) -> Iterator[SavedStates]:
    """Opens the folder of a training's states.

    Args:
        directory: The folder, made if missing.
        settings: All that decides the training, JSON values.

    Raises:
        ValueError: if the folder holds states of other settings, naming the differences.
    """
    directory = Path(directory).absolute()
    path, settings = directory / SETTINGS, json.loads(json.dumps(settings))
    if path.is_file() and (changed := differences(json.loads(path.read_text()), settings)):
        raise ValueError(
            f"{directory} holds the training of a tokenizer with other settings: "
            f"{'; '.join(changed)}; restore them, or choose another folder"
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(settings, indent=2) + "\n")
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(directory, options=options) as manager:
        yield SavedStates(manager)

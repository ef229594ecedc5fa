"""Checkpoints of a run: saving, restoring, and recovery from damaged files.

A checkpoint has five items, which can be read separately: `train_state` (step, parameters,
optimiser), `ema_params` (the only item that sampling reads), `data` (the position in the data),
`config` (the resolved settings) and `digests` (checksums of the first three items). Checkpoints of
imported weights have no position in the data but an item `imported`, which states where the weights
come from; elsewhere a missing position is a sign of damage. Orbax writes a step under a temporary
name and renames it when it is complete. A complete step that cannot be read, or whose digests have
changed since it was saved, is moved away, and the step before it is used.

With several processes, each reads independently, so that one that finds damage does not leave the
others waiting in a barrier. Then they agree: a step that one cannot read is damaged for all.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from grain import checkpoint as grain_checkpoint
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from maskflow_jax.parallel.processes import gather_numbers
from maskflow_jax.training.digests import array_digests, changed_parts, json_digest
from maskflow_jax.training.state import TrainState

# Errors of damaged items: JSON or metadata that are truncated or missing.
_DAMAGE = (ValueError, OSError, KeyError)
# Errors of a save that a full disk or an unavailable storage may cause.
_NOT_SAVED = (OSError, ValueError, RuntimeError)
_NO_STEP = -1


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none could be read."""


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`.

    A single failed save is logged as an error, because a storage may be unavailable for a short
    time. If two saves in a row fail, or the last one of a run (`wait`), an exception is raised.

    Args:
        workdir: Folder of the run.
        keep: Number of the newest checkpoints to keep.
    """

    def __init__(self, workdir: Path, *, keep: int = 2):
        self.directory = Path(workdir).resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.LatestN(keep),
            save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._reader = _make_reader(self.directory)
        self._step: int | None = None  # step of the newest save
        self._failed: Exception | str | None = None  # error of the newest save
        self._failures = 0  # number of saves before it that failed in a row
        # Threads of a failed save may create its folder again: `wait` deletes it once more.
        self._any_failed = False

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, data: Any, config: dict) -> None:
        """Saves in the background.

        Args:
            state: The train state.
            data: The grain iterator, not advanced past the batch of this step.
            config: The resolved settings, JSON values only.

        Raises:
            CheckpointError: if two saves in a row failed (for instance on a full disk), or the
                step is not newer than the existing checkpoints.
        """
        # Every process has its own position in the data.
        positions = gather_numbers(json_digest(data.get_state())).tolist()
        self._save(state, config, positions, data=grain_checkpoint.CheckpointSave(data))

    def save_imported(self, state: TrainState, config: dict, origin: dict) -> None:
        """Saves imported weights; a run continues from them with its data at the beginning.

        Args:
            state: The train state.
            config: The resolved settings, JSON values only.
            origin: Origin of the weights, JSON values only.

        Raises:
            CheckpointError: if the save failed.
        """
        self._save(state, config, [], imported=ocp.args.JsonSave(origin))

    def _save(self, state: TrainState, config: dict, positions: list[int], **item: Any) -> None:
        step = int(state["step"])
        rest = {name: state[name] for name in ("step", "params", "opt_state")}
        items = ocp.args.Composite(
            train_state=ocp.args.StandardSave(rest),
            ema_params=ocp.args.StandardSave(state["ema_params"]),
            config=ocp.args.JsonSave(config),
            digests=ocp.args.JsonSave({**array_digests(state), "data": positions}),
            **item,
        )
        self._settle()
        self._step = step
        try:
            saved = self._manager.save(step, args=items)
        except _NOT_SAVED as error:
            self._failed = error
            if self._failures:
                raise self._not_saved(error) from error
            logging.error("%s", self._not_saved(error))
            return
        if not saved:  # the folder has this step or a later one
            raise self._not_saved(f"step {step} is not newer than what is there")

    def wait(self) -> None:
        """Waits until the last save is on disk.

        Raises:
            CheckpointError: if it failed.
        """
        self._finish()
        if self._any_failed:
            self._delete_unfinished()
        if self._failed is not None:
            error, self._failed = self._failed, None
            raise self._not_saved(error) from (error if isinstance(error, Exception) else None)

    def _finish(self) -> None:
        """Waits for the save in the background, and keeps its error."""
        try:
            self._manager.wait_until_finished()
        except _NOT_SAVED as error:
            self._failed = error

    def _settle(self) -> None:
        """Checks the result of the previous save in all processes; raises the second failure."""
        self._finish()
        failed = np.flatnonzero(gather_numbers(self._failed is not None))
        if not failed.size:
            self._failures = 0
            return
        self._failures += 1
        self._any_failed = True
        error = self._failed or f"processes {failed.tolist()} could not write their part"
        self._failed = None
        self._delete_unfinished()  # frees space on a full disk
        message = self._not_saved(error)
        if self._failures > 1:
            raise message from (error if isinstance(error, Exception) else None)
        logging.error("the run goes on, the next checkpoint is the second try: %s", message)
        self._manager.reload()

    def restore(self, state: TrainState, data: Any) -> TrainState | None:
        """Restores the newest readable checkpoint, from which the run continues.

        Newer checkpoints that are damaged are moved to `workdir/damaged_checkpoint_STEP`, and files
        of unfinished saves are deleted.

        Args:
            state: A state of the right shapes and shardings; its arrays are not used.
            data: The grain iterator, set to its saved position; unchanged for imported weights.

        Returns:
            The state, or None where the run has no checkpoint yet.

        Raises:
            CheckpointError: if there are checkpoints and none of them can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        ema_params = abstract.pop("ema_params")
        beginning = data.get_state()
        restored, damaged = self._restore_newest(
            train_state=ocp.args.StandardRestore(abstract),
            ema_params=ocp.args.StandardRestore(ema_params),
            data=grain_checkpoint.CheckpointRestore(data),
        )
        self._clear_the_way(damaged)
        if restored is None:
            return None
        if "data" not in restored.keys():  # noqa: SIM118 (a Composite has keys, but no `in`)
            # Reading a newer, damaged checkpoint may have changed the position of the iterator.
            data.set_state(beginning)
            logging.info("these weights were imported: the data starts from its beginning")
        return {**restored["train_state"], "ema_params": restored["ema_params"]}

    def restore_ema_params(self, abstract_params: dict) -> tuple[int, dict]:
        """Restores the averaged parameters and their step, also while the run is training.

        Args:
            abstract_params: Shapes, types and shardings of the parameters.

        Returns:
            The step and the averaged parameters.

        Raises:
            CheckpointError: if there is no checkpoint that can be read.
        """
        restored, _ = self._restore_newest(ema_params=ocp.args.StandardRestore(abstract_params))
        if restored is None:
            raise self._nothing_there()
        return self._restored_step, restored["ema_params"]

    def restore_weights(self, abstract_params: dict) -> tuple[int, dict, dict]:
        """Returns step, parameters and averaged parameters, also while the run is training.

        Args:
            abstract_params: Shapes, types and shardings of the parameters.

        Raises:
            CheckpointError: if there is no checkpoint that can be read.
        """
        # Only a part of the item: the moments of the optimiser, twice the parameters, are not read.
        part = {"step": jax.ShapeDtypeStruct((), np.int32), "params": abstract_params}
        restored, _ = self._restore_newest(
            train_state=ocp.args.PyTreeRestore(
                part,
                restore_args=ocp.checkpoint_utils.construct_restore_args(part),
                partial_restore=True,
            ),
            ema_params=ocp.args.StandardRestore(abstract_params),
        )
        if restored is None:
            raise self._nothing_there()
        train_state = restored["train_state"]
        return int(train_state["step"]), train_state["params"], restored["ema_params"]

    def close(self) -> None:
        """Waits for the last save and releases the manager."""
        self.wait()
        self._manager.close()
        self._reader.close()

    def _restore_newest(self, **items: ocp.args.CheckpointArgs) -> tuple[Any | None, list[int]]:
        """Returns the newest readable checkpoint, and the steps of newer ones that are damaged."""
        problems, steps = {}, self.steps()
        while (step := self._newest_of_all(steps)) is not None:
            for newer in (number for number in steps if number > step):
                problems[newer] = f"step {newer}: other processes do not see it"
            steps = [number for number in steps if number < step]
            restored, problem = self._read(step, items)
            if not gather_numbers(problem is not None).any():
                problem = self._changed(step, restored, items.get("data"))
                if not gather_numbers(problem is not None).any():
                    logging.info("restored step %d from %s", step, self.directory)
                    self._restored_step = step
                    return restored, list(problems)
            problems[step] = problem or f"step {step}: another process cannot read it"
            logging.warning("a checkpoint cannot be read, %s", problems[step])
        if problems:
            raise CheckpointError(
                f"no checkpoint in {self.directory} can be read with this config and dataset; "
                "restore those it was made with, or move the folder away to start again\n  "
                + "\n  ".join(problems.values())
            )
        return None, []

    def _newest_of_all(self, steps: list[int]) -> int | None:
        """Returns the newest step among the remaining ones that every process finds, or None."""
        newest = gather_numbers(steps[-1] if steps else _NO_STEP)
        if newest.max() == _NO_STEP:
            return None
        if newest.min() == _NO_STEP:
            raise CheckpointError(
                f"process {newest.argmin()} sees no checkpoint in {self.directory}, process "
                f"{newest.argmax()} sees step {newest.max()}; put the run's folder on a disk that "
                "all processes share"
            )
        return int(newest.min())

    def _read(self, step: int, items: dict) -> tuple[Any | None, str | None]:
        """Returns the items of a step as this process reads them, or else the problem."""
        absent = "data" if (self.directory / str(step) / "imported").is_dir() else None
        wanted = {name: item for name, item in items.items() if name != absent}
        if (self.directory / str(step) / "digests").is_dir():
            wanted["digests"] = ocp.args.JsonRestore()
        try:
            return self._reader.restore(step, args=ocp.args.Composite(**wanted)), None
        except Exception as error:
            # Orbax raises a bare Exception for a truncated array; other errors are not damage.
            if type(error) is not Exception and not isinstance(error, _DAMAGE):
                raise
            return None, f"step {step}: {(str(error) or repr(error)).splitlines()[0][:300]}"

    def _changed(self, step: int, restored: Any, data: Any) -> str | None:
        """Describes the parts of a step that changed since the save; all processes call this."""
        found = dict(restored.items())
        if "digests" not in found:
            logging.info("step %d was saved without digests: its arrays are not checked", step)
            return None
        position = json_digest(data.item.get_state()) if "data" in found else None
        changed = changed_parts(found["digests"], found, position)
        return f"step {step}: {', '.join(changed)} changed since the save" if changed else None

    def _clear_the_way(self, damaged: list[int]) -> None:
        """Moves damaged steps to another folder, because the run will save these steps again."""
        if jax.process_index() == 0:
            for step in damaged:
                target = self.directory.parent / f"damaged_checkpoint_{step}"
                shutil.rmtree(target, ignore_errors=True)
                shutil.move(self.directory / str(step), target)
                logging.warning("the checkpoint of step %d was moved to %s", step, target)
        self._delete_unfinished()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints cleared")
        self._manager.reload()

    def _delete_unfinished(self) -> None:
        if jax.process_index() == 0:
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)

    def _nothing_there(self) -> CheckpointError:
        return CheckpointError(f"no complete checkpoint in {self.directory}; train first")

    def _not_saved(self, error: Exception | str) -> CheckpointError:
        free = shutil.disk_usage(self.directory).free / 1e6
        steps = self.steps()
        again = f"step {steps[-1]}" if steps else "its beginning"
        return CheckpointError(
            f"saving to {self.directory} failed with {free:.0f} MB free on the disk, step "
            f"{self._step}: {error}\ncomplete checkpoints: steps {steps or 'none'}; make room and "
            f"start the same command again, it goes on from {again}"
        )


def _make_reader(directory: Path) -> ocp.CheckpointManager:
    """Returns a manager for this process only, which does not wait for other processes."""
    me = jax.process_index()
    return ocp.CheckpointManager(
        directory,
        options=ocp.CheckpointManagerOptions(
            create=False,
            save_root_metadata=False,
            enable_async_checkpointing=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"reader_{me}"
            ),
        ),
    )

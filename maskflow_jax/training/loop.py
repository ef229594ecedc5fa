"""The training loop: steps, logs, validation, checkpoints and hooks.

The loop ends at `num_steps`; on SIGTERM after saving, so that the same command continues from
there; or with an error if the loss or a gradient is not finite, before such a state is saved.
"""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from tqdm import tqdm

from maskflow_jax.config import RunConfig
from maskflow_jax.parallel import sharding
from maskflow_jax.parallel.memory import explain_out_of_memory
from maskflow_jax.training.checkpoints import Checkpoints
from maskflow_jax.training.metrics import MetricWriter, summarise_bins
from maskflow_jax.training.state import TrainState
from maskflow_jax.training.steps import TimeSums

Hook = Callable[[int, TrainState], None]


_LESS_MEMORY = (
    "lower data.batch_size, raise optimizer.micro_batches, or set model.remat to 'full'; the last "
    "checkpoint stays good"
)


class NonFiniteLossError(RuntimeError):
    """The loss or a gradient is not a finite number."""


class Preemption:
    """Watches for SIGTERM inside a `with` block; `reached(step)` says whether to stop."""

    def __init__(self):
        self._signalled = False

    def __enter__(self) -> "Preemption":
        """Installs the handler; with several processes, a service of jax watches the signal."""
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_) -> None:
        """Restores the previous handler."""
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)

    def _notice(self, *_) -> None:
        self._signalled = True

    def reached(self, step: int) -> bool:
        """Whether all processes should stop after this step."""
        if jax.process_count() == 1:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a training run that the loop combines.

    Attributes:
        train_step: Train step from `make_train_step`.
        batches: Checkpointable iterator of this process's share of the batches, token clips
            [B, T, H, W].
        evaluate: Function of the averaged parameters to validation scalars.
        checkpoints: Checkpoints of the run.
        writer: Writer of the scalars.
        hooks: Functions that are called as `hook(step, state)`, such as previews.
    """

    train_step: Callable
    batches: Iterator[np.ndarray]
    evaluate: Callable[[dict], Mapping[str, float]]
    checkpoints: Checkpoints
    writer: MetricWriter
    hooks: Iterable[Hook] = ()


def train_loop(
    parts: Parts, state: TrainState, key: jax.Array, run: RunConfig, config: dict
) -> tuple[TrainState, bool]:
    """Trains from `state` to `run.num_steps`.

    Args:
        parts: The parts of the run.
        state: The state to continue from.
        key: The run's PRNG key.
        run: Settings of lengths and intervals.
        config: The settings as JSON values, which every checkpoint stores.

    Returns:
        The last state, and whether the run is finished (False after SIGTERM).

    Raises:
        NonFiniteLossError: with the step and the gradient norms; the last checkpoint is kept.
        CheckpointError: if a checkpoint could not be written.
        OutOfMemoryError: if a step needs more memory than the devices have.
    """
    train_step, batches, evaluate = parts.train_step, parts.batches, parts.evaluate
    checkpoints, writer, hooks = parts.checkpoints, parts.writer, parts.hooks
    mesh = state["step"].sharding.mesh
    step = first = int(state["step"])
    metrics = None
    if step >= run.num_steps:
        logging.info(
            "step %d of %d: nothing left to train; raise run.num_steps", step, run.num_steps
        )
        # The previous run may have stopped before its final validation, which follows the save.
        _look(step, state, evaluate, writer, hooks)
    with (
        Preemption() as preemption,
        explain_out_of_memory(_LESS_MEMORY),
        contextlib.closing(_Progress(first, run.num_steps)) as progress,
    ):
        while step < run.num_steps:
            state, next_metrics = train_step(state, key, sharding.place_batch(mesh, next(batches)))
            if metrics is not None:
                # One step late, so that the device already computes the next step during the check.
                check_finite(step, metrics)
            step, metrics = step + 1, next_metrics
            progress.advance()
            last = step == run.num_steps
            if step % run.log_every == 0 or last:
                check_finite(step, metrics)
                progress.log(step, metrics, writer)
            stop = preemption.reached(step)
            if step % run.checkpoint_every == 0 or last or stop:
                check_finite(step, metrics)
                checkpoints.save(state, batches, config)
            if stop and not last:
                checkpoints.wait()
                logging.warning("SIGTERM: saved step %d; the same command goes on from it", step)
                return state, False
            due = step % run.eval_every == 0 or last
            called = hooks if step % run.hook_every == 0 or last else ()
            _look(step, state, evaluate if due else None, writer, called)
    checkpoints.wait()
    return state, True


def _look(
    step: int,
    state: TrainState,
    evaluate: Callable | None,
    writer: MetricWriter,
    hooks: Iterable[Hook],
) -> None:
    if evaluate is not None:
        log_validation(step, evaluate(state["ema_params"]), writer)
    for hook in hooks:
        hook(step, state)


def check_finite(step: int, metrics: Mapping[str, Any]) -> None:
    """Raises NonFiniteLossError with the gradient norms unless loss and norm are finite."""
    loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
    if math.isfinite(loss) and math.isfinite(norm):
        return
    norms = {name: float(value) for name, value in metrics["grad_norms"].items()}
    raise NonFiniteLossError(
        f"step {step}: loss {loss}, gradient norm {norm}; by part of the model: "
        + ", ".join(f"{name} {value:.3g}" for name, value in norms.items())
        + ". Nothing of this step was saved; lower the learning rate, raise warmup_steps or use "
        "float32, and start again from the last checkpoint"
    )


def validate(
    eval_step: Callable,
    params: dict,
    clips: Iterable[tuple[np.ndarray, np.ndarray]],
    mesh: jax.sharding.Mesh,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Measures parameters on validation clips.

    The times and masks of a clip depend only on the seed and the number of the clip, so results
    with different batch sizes and numbers of processes are comparable.

    Args:
        eval_step: Validation step from `make_eval_step`.
        params: The parameters to measure.
        clips: Batches from `eval_clips`, (tokens [B, T, H, W], numbers [B]).
        mesh: The mesh.
        seed: Seed of times and masks.

    Returns:
        Masked cross-entropy in nats and accuracy, over all times and by time bin.

    Raises:
        ValueError: if the clips have no masked token.
    """
    total = TimeSums(0.0, 0.0, 0.0)
    key = jax.random.key(seed)
    for batch in clips:
        sums = eval_step(params, key, *sharding.place_batch(mesh, batch))
        # In float64, because float32 cannot count beyond 2^24 tokens.
        total = jax.tree.map(lambda whole, part: whole + np.asarray(part, float), total, sums)
    if not np.sum(total.count):
        raise ValueError("there is no masked token in the validation clips to evaluate on")
    return summarise_bins(total)


def log_validation(step: int, summary: Mapping[str, float], writer: MetricWriter) -> None:
    """Writes a validation summary and logs its two means."""
    writer.write(step, {f"validation/{name}": value for name, value in summary.items()})
    logging.info(
        "step %d validation: cross-entropy %.3f nats, accuracy %.1f%%",
        step,
        summary["cross_entropy"],
        100 * summary["accuracy"],
    )


class _Progress:
    """Progress of training: a bar on a terminal, elsewhere log lines with rate and time left."""

    def __init__(self, first: int, num_steps: int):
        self._step, self._num_steps, self._time = first, num_steps, time.monotonic()
        # None leaves the choice to tqdm, which shows a bar where stderr is a terminal.
        disable = None if jax.process_index() == 0 else True
        self._bar = tqdm(total=num_steps, initial=first, unit="step", disable=disable)

    def advance(self) -> None:
        """Counts a step."""
        self._bar.update()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def log(self, step: int, metrics: Mapping[str, Any], writer: MetricWriter) -> None:
        now = time.monotonic()
        rate = (step - self._step) / (now - self._time)
        self._step, self._time = step, now
        names = ("loss", "accuracy", "masked", "grad_norm")
        scalars = {f"train/{name}": float(metrics[name]) for name in names}
        writer.write(step, scalars | {"train/steps_per_second": rate})
        loss, accuracy = scalars["train/loss"], 100 * scalars["train/accuracy"]
        if not self._bar.disable:
            self._bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1f}%")
            return
        minutes, seconds = divmod(round((self._num_steps - step) / rate), 60)
        logging.info(
            "step %d/%d  loss %.3f  accuracy %.1f%%  %.2f steps/s  %d:%02d left",
            step,
            self._num_steps,
            loss,
            accuracy,
            rate,
            minutes,
            seconds,
        )

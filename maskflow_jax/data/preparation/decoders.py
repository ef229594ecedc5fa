"""Decoders: a thread, or several processes, that read items ahead of the encoder.

A bounded queue connects the decoders to the one encoder, so that decoding overlaps encoding and
memory is bounded by a few batches, however long a video is.

FFmpeg decodes on several cores and without Python's lock, so one thread is often enough. Processes
help where an accelerator encodes faster than that. They do not use JAX, since the accelerator
belongs to the process that encodes, and they end with it, even if it is killed.
"""

import contextlib
import functools
import multiprocessing
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from maskflow_jax.data.preparation.decoding import Outcome, decode_item
from maskflow_jax.data.preparation.frame_transforms import FrameTransform
from maskflow_jax.data.sources.items import Item

Message = tuple[int, np.ndarray | Outcome]  # index of the item, its next batch or its end

_BATCHES_AHEAD = 2  # in the queue, for each decoder
_LOOK = 0.2  # seconds between checks whether the other side is still running


class _StoppedError(Exception):
    """The encoder needs no more frames."""


class DecoderDiedError(RuntimeError):
    """A decoder ended for another reason than a bad video."""


@contextlib.contextmanager
def decoded(
    source: Any,
    items: Sequence[Item],
    transform: FrameTransform,
    *,
    batch_size: int,
    workers: int = 0,
) -> Iterator[Iterator[Message]]:
    """Reads items in the background during a `with` block.

    Args:
        source: Source of the items.
        items: Items to read.
        transform: Transform of their frames.
        batch_size: Number of frames of a batch.
        workers: Number of processes that read; 0 reads in a thread.

    Yields:
        An iterator of messages `(index, batch or Outcome)`. Those of one item come in order and end
        with its outcome; several workers' items mix.

    Raises:
        ValueError: for a negative number of workers.
        DecoderDiedError: from the iterator, if a decoder fails, or its process is killed.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}: choose 0 (a thread) or a number of processes")
    workers = min(workers, len(items))
    start = _start_processes if workers else _start_thread
    with start((source, transform, batch_size), items, workers) as (results, check):
        yield _received(results, check, len(items))


def _received(results: Any, check: Callable[[], None], num_items: int) -> Iterator[Message]:
    """Yields messages until all items have ended."""
    ended = 0
    while ended < num_items:
        try:
            index, content = results.get(timeout=_LOOK)
        except queue.Empty:
            check()
            continue
        if isinstance(content, BaseException):
            raise content
        ended += isinstance(content, Outcome)
        yield index, content


@contextlib.contextmanager
def _start_thread(job: tuple, items: Sequence[Item], workers: int) -> Iterator[tuple]:
    """One thread; unlike processes it shares the encoder's memory, and nothing is copied."""
    del workers
    tasks, results, stop = queue.Queue(), queue.Queue(_BATCHES_AHEAD), threading.Event()
    for task in enumerate(items):
        tasks.put(task)
    tasks.put(None)
    work = (job, tasks, results, stop.is_set, lambda index: None)
    thread = threading.Thread(target=_work, args=work, daemon=True)
    thread.start()
    try:
        yield results, lambda: None
    finally:
        stop.set()
        thread.join(timeout=10)  # it may be hashing a huge file


@contextlib.contextmanager
def _start_processes(job: tuple, items: Sequence[Item], workers: int) -> Iterator[tuple]:
    """Several processes. They are spawned: a fork would copy JAX's threads half-way."""
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue(_BATCHES_AHEAD * workers)
    for task in enumerate(items):
        tasks.put(task)
    for _ in range(workers):
        tasks.put(None)
    current = context.RawArray("q", [-1] * workers)  # item of each, to be read after its death
    processes = [
        context.Process(
            target=_work_in_process, args=(job, tasks, results, current, worker), daemon=True
        )
        for worker in range(workers)
    ]
    for process in processes:
        process.start()

    def check() -> None:
        for process, index in zip(processes, current, strict=True):
            if process.exitcode:
                at = f"while reading {items[index].id}" if index >= 0 else "before it began"
                raise DecoderDiedError(
                    f"a decoding process ended with code {process.exitcode} {at}: if it does so "
                    "again, move that file away; if memory ran out, lower workers or batch_size; "
                    "in a script of your own, start workers below `if __name__ == '__main__':`. "
                    "Finished items are kept"
                )

    try:
        yield results, check
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        tasks.cancel_join_thread()


def _work_in_process(job: tuple, tasks: Any, results: Any, current: Any, worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the encoder gets it too, and ends this process
    parent = multiprocessing.parent_process()
    note = functools.partial(current.__setitem__, worker)
    _work(job, tasks, results, lambda: not parent.is_alive(), note)
    if not parent.is_alive():
        results.cancel_join_thread()


def _work(
    job: tuple,
    tasks: Any,
    results: Any,
    stopped: Callable[[], bool],
    note: Callable[[int], None],
) -> None:
    """Reads items from `tasks` until it returns None, and reports the current one to `note`."""
    source, transform, batch_size = job
    try:
        while (task := _get(tasks, stopped)) is not None:
            index, item = task
            note(index)
            for content in decode_item(source, item, transform, batch_size):
                _put(results, (index, content), stopped)
    except _StoppedError:
        return
    except BaseException as error:
        # As text: not every error survives the way out of a process.
        crash = DecoderDiedError("reading videos failed:\n" + traceback.format_exc())
        with contextlib.suppress(_StoppedError):
            _put(results, (-1, crash), stopped)
        if not isinstance(error, Exception):
            raise


def _get(tasks: Any, stopped: Callable[[], bool]) -> Any:
    while not stopped():
        with contextlib.suppress(queue.Empty):
            return tasks.get(timeout=_LOOK)
    raise _StoppedError


def _put(results: Any, message: tuple, stopped: Callable[[], bool]) -> None:
    while not stopped():
        with contextlib.suppress(queue.Full):
            return results.put(message, timeout=_LOOK)
    raise _StoppedError

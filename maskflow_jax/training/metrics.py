"""Writing of metrics: always to `metrics.jsonl`, to other places if they are installed.

Validation results are summarised here, too, from sums per time bin to means.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from absl import logging

from maskflow_jax.io.files import write_text
from maskflow_jax.training.steps import TimeSums
from maskflow_jax.training.tracking import Tracker


class MetricWriter:
    """Writes scalars to `metrics.jsonl` and, through clu, to TensorBoard.

    Only the first process of a run writes.

    Args:
        workdir: Folder of the run.
        from_step: Step from which the run continues. Lines of later steps, which a killed run wrote
            and this one will write again, are removed; None keeps all.
        project: Project of Weights & Biases to which scalars are also sent; empty for none.
        settings: Settings of the run for that project.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        from_step: int | None = None,
        project: str = "",
        settings: Mapping[str, Any] = MappingProxyType({}),
    ):
        self._active = jax.process_index() == 0
        if self._active and from_step is not None:
            _drop_later_steps(workdir / "metrics.jsonl", from_step)
        self._tensorboard = _tensorboard_writer(workdir) if self._active else None
        self._file = (workdir / "metrics.jsonl").open("a") if self._active else None
        self._tracker = Tracker(project if self._active else "", workdir, settings)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line of scalars at a step."""
        if not self._active:
            return
        values = {name: float(value) for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            self._tensorboard.write_scalars(step, values)
        self._tracker.log(step, values)

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray]) -> None:
        """Shows videos uint8 [F, H, W, 3] in TensorBoard, frames side by side."""
        if self._tensorboard is not None:
            strips = {name: np.concatenate(list(v), axis=1)[None] for name, v in videos.items()}
            self._tensorboard.write_images(step, strips)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._active:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._tracker.close()


def _drop_later_steps(path: Path, step: int) -> None:
    """Removes the lines after a step, and a truncated last line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] > step:
                continue
        except (json.JSONDecodeError, KeyError, TypeError):
            logging.warning("%s: dropped a line that is not one of metrics: %.60s", path, line)
            continue
        kept.append(line + "\n")
    write_text(path, "".join(kept))


def _tensorboard_writer(workdir: Path):
    try:
        import tensorflow as tf
        from clu import metric_writers
    except ImportError as error:
        logging.warning(
            "no TensorBoard files, metrics go to metrics.jsonl and the log: %s "
            "(pip install -e '.[tensorboard]')",
            error,
        )
        return None
    tf.config.set_visible_devices([], "GPU")  # the accelerator is left to jax
    return metric_writers.SummaryWriter(str(workdir))


def summarise_bins(sums: TimeSums) -> dict[str, float]:
    """Computes the validation means from sums per time bin.

    Args:
        sums: Sums over the validation clips, [bins] each.

    Returns:
        `cross_entropy` (nats per masked token) and `accuracy` over all bins, and the same per bin
        as `cross_entropy_t0.0-0.1` and so on; bins without a token are left out.
    """
    cross_entropy, count, correct = (np.asarray(x, np.float64) for x in sums)
    summary = {
        "cross_entropy": cross_entropy.sum() / count.sum(),
        "accuracy": correct.sum() / count.sum(),
    }
    edges = np.linspace(0, 1, len(count) + 1)
    for index in np.flatnonzero(count):
        bin_name = f"t{edges[index]:.1f}-{edges[index + 1]:.1f}"
        summary[f"cross_entropy_{bin_name}"] = cross_entropy[index] / count[index]
        summary[f"accuracy_{bin_name}"] = correct[index] / count[index]
    return {name: float(value) for name, value in summary.items()}

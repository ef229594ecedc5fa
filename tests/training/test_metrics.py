"""Where metrics go, with and without TensorFlow."""

import json
import sys

import jax
import numpy as np
import pytest

from maskflow_jax.training.metrics import MetricWriter, summarise_bins
from maskflow_jax.training.steps import TimeSums


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_without_tensorflow_metrics_go_to_the_file_and_a_warning_says_so(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it is an ImportError
    for step in (1, 2):  # a second writer appends, as a resumed run does
        writer = MetricWriter(tmp_path)
        writer.write(step, {"train/loss": np.float32(0.5), "train/accuracy": jax.numpy.float32(1)})
        writer.write_videos(step, {"preview": np.zeros((2, 4, 4, 3), np.uint8)})
        writer.close()
    assert lines(tmp_path) == [
        {"step": step, "train/loss": 0.5, "train/accuracy": 1.0} for step in (1, 2)
    ]
    assert "no TensorBoard files" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_lines_are_on_disk_before_the_writer_is_closed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    writer = MetricWriter(tmp_path)
    writer.write(3, {"a": 1})
    assert lines(tmp_path) == [{"step": 3, "a": 1.0}]
    writer.close()


def test_tensorboard_file(tmp_path):
    pytest.importorskip("tensorflow")
    writer = MetricWriter(tmp_path)
    writer.write(1, {"train/loss": 0.25})
    writer.write_videos(1, {"preview": np.zeros((2, 4, 4, 3), np.uint8)})
    writer.close()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"train/loss" in events.read_bytes()
    assert b"preview" in events.read_bytes()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    writer = MetricWriter(tmp_path)
    writer.write(1, {"a": 1.0})
    writer.write_videos(1, {"b": np.zeros((2, 4, 4, 3), np.uint8)})
    writer.close()
    assert not list(tmp_path.iterdir())


def test_means_weigh_every_token_alike_and_empty_bins_are_left_out():
    sums = TimeSums(*np.array([[2.0, 0.0, 9.0], [1, 0, 3], [1, 0, 1]]))
    assert summarise_bins(sums) == pytest.approx(
        {
            "cross_entropy": 11 / 4,
            "accuracy": 2 / 4,
            "cross_entropy_t0.0-0.3": 2.0,
            "accuracy_t0.0-0.3": 1.0,
            "cross_entropy_t0.7-1.0": 3.0,
            "accuracy_t0.7-1.0": 1 / 3,
        }
    )

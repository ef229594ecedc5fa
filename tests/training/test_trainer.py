"""Training from end to end: runs that are stopped, go on, fail, and show what they learn."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import (
    CHANGES,
    TOKENIZER,
    assert_same,
    host_copy,
    settings_of,
    write_videos,
    write_world,
)

from maskflow_jax.generation.previews import previews
from maskflow_jax.io.video_files import read_video
from maskflow_jax.training import trainer
from maskflow_jax.training.loop import NonFiniteLossError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("compilation_cache")  # all runs here are one program


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A tokenizer that was never trained, and a dataset that says it is the tokenizer's."""
    directory = tmp_path_factory.mktemp("shared")
    write_world(directory)
    return directory


class Watch:
    """Records what `trainer.train` does: batches, last state, compiled step."""

    def __init__(self, monkeypatch):
        self.batches, self.state, self.steps = [], None, []
        make_step, train, clip_batches = (
            trainer.make_train_step,
            trainer.train_loop,
            trainer.clip_batches,
        )
        watch = self

        def watched_step(*args):
            watch.steps.append(make_step(*args))
            return watch.steps[-1]

        def watched_train(*args):
            state, finished = train(*args)
            watch.state = host_copy(state)
            return state, finished

        def watched_batches(*args, **kwargs):
            iterator = clip_batches(*args, **kwargs)
            read = type(iterator).__next__

            class Watched(type(iterator)):
                def __next__(self):
                    watch.batches.append(read(self))
                    return watch.batches[-1]

            iterator.__class__ = Watched
            return iterator

        monkeypatch.setattr(trainer, "make_train_step", watched_step)
        monkeypatch.setattr(trainer, "train_loop", watched_train)
        monkeypatch.setattr(trainer, "clip_batches", watched_batches)


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(shared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    settings = settings_of(shared, run__hook_every=2, run__eval_every=2)
    assert trainer.train(settings, workdir, [previews])
    return workdir


def test_preview_and_validation_of_a_finished_run(finished):
    videos = sorted((finished / "previews").iterdir())
    assert [video.name for video in videos] == ["00000002.mp4", "00000004.mp4", "00000006.mp4"]
    frames, fps = read_video(videos[-1])
    # Two windows; two rows of generated, gap, real, enlarged.
    assert frames.shape == (8, 2 * 16, 2 * (8 + 2 + 8), 3)
    assert fps == pytest.approx(5)
    measured = [line for line in metrics(finished) if "validation/cross_entropy" in line]
    assert [line["step"] for line in measured] == [2, 4, 6]
    assert measured[-1]["validation/cross_entropy"] < measured[0]["validation/cross_entropy"]


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(shared, tmp_path, monkeypatch):
    broken = settings_of(shared, run__checkpoint_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "make_train_step", diverging_at(5))
        with pytest.raises(NonFiniteLossError, match=r"step 5: loss nan.*blocks nan.*head nan"):
            trainer.train(broken, tmp_path, [previews])
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert steps == [2, 4]
    watch = Watch(monkeypatch)
    assert trainer.train(broken, tmp_path, [previews])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(watch.state))
    assert len(watch.batches) == 2


def diverging_at(step):
    """A train step whose parameters are nan from a step on, as real divergence leaves them."""
    make_step = trainer.make_train_step

    def make(*args):
        train_step = make_step(*args)

        def diverging(state, key, batch):
            if int(state["step"]) + 1 == step:
                params = jax.tree.map(lambda leaf: leaf * np.nan, state["params"])
                state = {**state, "params": params}
            return train_step(state, key, batch)

        return diverging

    return make


def launch(environment, shared, workdir, *flags, prefix=()):
    """Starts `launch.train` as a user does."""
    changes = CHANGES | {
        "data.directory": f"{shared}/data",
        "data.tokenizer": f"{shared}/tokenizer",
    }
    command = [*prefix, sys.executable, "-m", "launch.train", "--config=configs/maze.py:smoke"]
    command += [f"--config.{name}={value}" for name, value in changes.items()]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *flags],
        env=os.environ | environment | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sigterm_then_the_same_command(shared, tmp_path, monkeypatch, compilation_cache):
    workdir, whole = tmp_path / "stopped", tmp_path / "whole"
    process = launch(compilation_cache, shared, workdir, "--config.run.num_steps=1000000")
    while not (workdir / "metrics.jsonl").is_file() or not metrics(workdir):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 143, log
    (stopped,) = (int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert f"SIGTERM: saved step {stopped}" in log
    assert stopped % 5 or stopped % 4  # not at the end of an epoch of 5 videos

    watch = Watch(monkeypatch)
    going_on = settings_of(shared, run__num_steps=stopped + 3)
    assert trainer.train(going_on, workdir, [previews])
    state, batches = watch.state, watch.batches
    assert len(batches) == 3
    assert watch.steps[0]._cache_size() == 1  # for restored states too
    watch.batches = []
    assert trainer.train(going_on, whole, [previews])
    assert_same(watch.state, state)
    assert len(watch.batches) == stopped + 3
    np.testing.assert_array_equal(np.stack(watch.batches[-3:]), np.stack(batches))
    losses = [[line.get("train/loss") for line in metrics(run)] for run in (workdir, whole)]
    assert len(losses[0]) == stopped + 4  # and a line of held-out measures at the end
    assert losses[0] == losses[1]


def test_a_full_disk_ends_the_program_with_our_error(shared, tmp_path, compilation_cache):
    """Files may have 30 kB; a checkpoint is written in the background, while more steps run."""
    limited = ["bash", "-c", 'ulimit -f 30 && exec "$@"', "bash"]
    flags = ["--config.run.num_steps=1000", "--config.run.checkpoint_every=3"]
    process = launch(compilation_cache, shared, tmp_path, *flags, prefix=limited)
    _, log = process.communicate(timeout=120)
    assert process.returncode not in (0, 143)
    assert "Traceback" not in log
    last = log.rstrip().splitlines()[-1]
    assert last.startswith(f"error: saving to {tmp_path}/checkpoints failed with")
    assert "complete checkpoints: steps none" in last


def test_an_unknown_setting_on_the_command_line_is_named(shared, tmp_path):
    process = launch({}, shared, tmp_path / "w", "--config.model.wdith=3")
    _, log = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "wdith" in log
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data__directory": "nowhere"}, FileNotFoundError, "no dataset of tokens at nowhere"),
        ({"data__clip_frames": 11}, ValueError, "clip_frames is 11.*shortest video.*10 frames"),
        ({"optimizer__lr": 1.0}, ValueError, "no setting 'optimizer.lr'"),
        ({"run__steps": 1}, ValueError, "did you mean 'run.num_steps'"),
        ({"mesh__fsdp": 5}, ValueError, "fsdp 5 x tensor 1 does not cover 1 devices"),
        ({"model__attention": "cudnn"}, ValueError, "cudnn.*needs a GPU"),
        ({"data__tokenizer": "nothing"}, FileNotFoundError, "no tokenizer at nothing"),
        (
            {"sampling__sampler__name": "mmg"},
            ValueError,
            "unknown sampler 'mmg' in sampling",
        ),
    ],
)
def test_settings_that_cannot_work_fail_before_training(shared, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        trainer.train(settings_of(shared, **changes), tmp_path / "run", [previews])
    # The corrected command may take the folder.
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_tokenizer_that_did_not_make_the_dataset_is_named(shared, tmp_path):
    write_videos(tmp_path / "other")
    settings = settings_of(shared, data__directory=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"sha256 00000000.*tokenizer.*'tokenizer'.*sha256 differ"):
        trainer.train(settings, tmp_path / "run", [previews])
    assert TOKENIZER["sha256"].startswith("00000000")


def test_a_folder_of_another_config_is_refused(shared, finished):
    changed = settings_of(shared, data__batch_size=2, model__width=32, seed=3)
    with pytest.raises(ValueError, match=r"(?s)another config.*data\.batch_size.*width.*seed"):
        trainer.train(changed, finished, [previews])

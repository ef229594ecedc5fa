"""Real processes: two of two CPU devices each train, are killed, resume, and sample together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
import tiny
from absl import flags
from gates import CONFIG, Gate, make_state
from jax._src import compiler, distributed
from jax.experimental import multihost_utils

from launch import sample
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.pipeline import clip_batches
from maskflow_jax.generation.videos import Videos
from maskflow_jax.parallel.processes import Job, connect
from maskflow_jax.training import metrics, trainer
from maskflow_jax.training.checkpoints import Checkpoints

HERE = Path(__file__).parent
STEPS, KILLED_AT = 6, 5
LIMIT = 240  # seconds for a pair of processes
SAMPLES = ("--length=7", "--num_videos=5", "--batch_size=2", "--context=train", "--nogif")


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(call, environment):
    """A process that calls a function of this file."""
    code = (
        f"import sys; sys.path[:0] = {[str(HERE), *map(str, HERE.parents[:2])]!r}\n"
        f"import test_two_processes as t; t.{call}"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_pair(action, folder, cache):
    """Two processes that run `action(folder)`, a function of this file."""
    port = free_port()
    calls = [f"member({action!r}, {str(folder)!r}, {port}, {index})" for index in range(2)]
    return [start(call, cache | {"JAX_NUM_CPU_DEVICES": "2"}) for call in calls]


def finish_pair(processes):
    """Waits for both; if one fails, shows its last words."""
    try:
        logs = [process.communicate(timeout=LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, log in zip(processes, logs, strict=True):
        assert process.returncode == 0, log[-6000:]
    return logs


def member(action, folder, port, index):
    """What one of the two processes does."""
    metrics._tensorboard_writer = lambda _: None  # seconds to import, and not what is tested
    write = compiler._cache_write

    def write_anywhere(*args):
        """Programs of process 1 have keys of their own, and jax writes those of process 0 only."""
        with mock.patch.object(distributed.global_state, "process_id", 0):
            write(*args)

    compiler._cache_write = write_anywhere
    connect(Job(coordinator=f"localhost:{port}", num_processes=2, process_id=index, timeout=60))
    assert (jax.process_count(), jax.device_count()) == (2, 4)
    with tiny.quick_compilation():
        globals()[action](Path(folder))


def settings(folder, **changes):
    changes = {"run__checkpoint_every": 2, "run__num_steps": STEPS, **changes}
    return tiny.settings_of(folder, **changes)


def recorded(batches):
    """`clip_batches` whose batches are also written down."""
    make = trainer.clip_batches

    def recording(*args, **kwargs):
        iterator = make(*args, **kwargs)
        read = type(iterator).__next__

        class Recorded(type(iterator)):
            def __next__(self):
                batches.append(read(self))
                return batches[-1]

        iterator.__class__ = Recorded
        return iterator

    return mock.patch.object(trainer, "clip_batches", recording)


def train_until_killed(folder):
    """Waits in the middle of the run, after its checkpoint of step 4, for the SIGKILL."""

    def hook(step, state):
        if step == KILLED_AT:
            while not (folder / "killed/checkpoints/4").is_dir():
                time.sleep(0.05)
            (folder / f"ready_{jax.process_index()}").touch()
            time.sleep(10 * LIMIT)

    trainer.train(settings(folder, run__hook_every=1), folder / "killed", [lambda run: hook])


def go_on(folder):
    """All that follows, in one pair of processes, for they take long to start."""
    batches, me = [], jax.process_index()
    assert trainer.train(settings(folder), folder / "killed")
    with recorded(batches):
        assert trainer.train(settings(folder), folder / "whole")
    np.savez(folder / f"batches_{me}.npz", np.stack(batches))
    if me == 0:
        shutil.copytree(folder / "whole", folder / "damaged")
    multihost_utils.sync_global_devices("copied")
    with damage_seen_by(1, step=STEPS):
        assert trainer.train(settings(folder), folder / "damaged")
    run_sample(folder / "whole", folder / "samples")


def damage_seen_by(process, step):
    """Reading a step fails in one process only, as a damaged file of its own shards would."""
    read = Checkpoints._read

    def one_fails(self, number, items):
        if jax.process_index() == process and number == step:
            return None, f"step {number}: a cut file"
        return read(self, number, items)

    return mock.patch.object(Checkpoints, "_read", one_fails)


def run_sample(workdir, out, *changes):
    """Calls launch.sample as the command line would, in a process that has joined already."""
    flags.FLAGS.unparse_flags()
    command = ["sample", f"--workdir={workdir}", f"--out={out}", "--distributed=off"]
    flags.FLAGS([*command, *SAMPLES, *changes])
    try:
        sample.main(None)
    finally:
        for module in ("launch.sample", "launch.distributed", "launch.places"):
            for name in flags.FLAGS.flags_by_module_dict()[module]:
                name.unparse()


def losses(workdir):
    """Step and loss of every logged step, in the order they were written."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


def tokens_of(out):
    return {path.name: np.load(path)["tokens"] for path in sorted(out.glob("sample_*.npz"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, compilation_cache):
    """What two processes leave: trained, killed and resumed; trained whole; damaged; sampled."""
    folder = tmp_path_factory.mktemp("two")
    tiny.write_world(folder)
    processes = start_pair("train_until_killed", folder, compilation_cache)
    deadline = time.monotonic() + LIMIT
    while not all((folder / f"ready_{index}").exists() for index in range(2)):
        failed = [process for process in processes if process.poll() is not None]
        if failed or time.monotonic() > deadline:
            for process in processes:
                process.kill()
            raise AssertionError("".join(p.communicate()[1][-3000:] for p in processes))
        time.sleep(0.05)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish_pair(start_pair("go_on", folder, compilation_cache))
    return folder


def test_killed_and_resumed_is_the_uninterrupted_run_to_the_bit(folder):
    whole, killed = losses(folder / "whole"), losses(folder / "killed")
    assert [step for step, _ in whole] == list(range(1, STEPS + 1))
    # The killed run had come to step 5; from the checkpoint of step 4 it did that step again, and
    # the lines after the restored step were removed.
    assert killed == whole  # with each step once


def test_a_step_that_one_process_cannot_read_is_left_by_both(folder):
    damaged = losses(folder / "damaged")
    assert damaged == losses(folder / "whole")
    assert (folder / "damaged" / f"damaged_checkpoint_{STEPS}").is_dir()
    assert (folder / "damaged" / "checkpoints" / str(STEPS)).is_dir()


def test_losses_are_those_of_one_process(folder, tmp_path):
    parts = [np.load(folder / f"batches_{index}.npz")["arr_0"] for index in range(2)]
    batches = iter(np.concatenate(parts, axis=1))
    make = trainer.clip_batches

    def replaying(*args, **kwargs):
        iterator = make(*args, **kwargs)

        class Replayed(type(iterator)):
            def __next__(self):
                return next(batches)

        iterator.__class__ = Replayed
        return iterator

    replayed = mock.patch.object(trainer, "clip_batches", replaying)
    with replayed, tiny.quick_compilation():
        assert trainer.train(settings(folder), tmp_path / "one")
    one, two = dict(losses(tmp_path / "one")), dict(losses(folder / "whole"))
    np.testing.assert_allclose([two[s] for s in one], [one[s] for s in one], rtol=1e-5)
    assert len(set(one.values())) == STEPS


def test_samples_of_two_processes_are_those_of_one(folder, tmp_path):
    with tiny.quick_compilation():
        run_sample(folder / "whole", tmp_path / "one", "--batch_size=3")
    one, two = tokens_of(tmp_path / "one"), tokens_of(folder / "samples")
    assert list(two) == [f"sample_{number:05d}.npz" for number in range(5)]
    tiny.assert_same(two, one)
    assert len({tokens.tobytes() for tokens in one.values()}) == 5


def test_a_killed_sampling_job_makes_only_what_is_missing(folder, tmp_path):
    out = tmp_path / "samples"
    shutil.copytree(folder / "samples", out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    for number in (1, 4):  # as if killed while these were decoded: no tokens, and a part of them
        tokens = out / f"sample_{number:05d}.npz"
        (out / f".sample_{number:05d}.part.npz").write_bytes(tokens.read_bytes()[:100])
        tokens.unlink()
    with mock.patch.object(Videos, "save", autospec=True, side_effect=Videos.save) as write:
        run_sample(folder / "whole", out)
        assert [call.kwargs["first"] for call in write.call_args_list] == [1, 4]
        run_sample(folder / "whole", out, "--set=frame_block=2")  # the same samples
        assert write.call_count == 2
    tiny.assert_same(tokens_of(out), tokens_of(folder / "samples"))
    kept = [out / f"sample_{number:05d}.npz" for number in (0, 2, 3)]
    assert all(tokens.stat().st_mtime_ns == times[tokens] for tokens in kept)
    with pytest.raises(FileExistsError, match="holds samples of other settings") as refused:
        run_sample(folder / "whole", out, "--seed=1", "--set=sampler.num_steps=3", "--num_videos=4")
    for difference in ("seed: 0 there, 1", "num_videos: 5 there, 4", "sampler.num_steps: "):
        assert difference in str(refused.value)
    assert "temperature" not in str(refused.value)
    trained_less = tmp_path / "run"
    shutil.copytree(folder / "whole", trained_less)
    shutil.rmtree(trained_less / f"checkpoints/{STEPS}")
    with pytest.raises(FileExistsError, match=r"weights: '\w+' there"):
        run_sample(trained_less, out)
    settings = (out / "settings.json").read_text()
    third = json.loads(settings)["contexts"][2]
    (out / "settings.json").write_text(settings.replace(third, "another"))
    for message in ("context of video 2: 'another' there", r"no settings\.json"):
        with pytest.raises(FileExistsError, match=message):
            run_sample(folder / "whole", out)
        (out / "settings.json").unlink(missing_ok=True)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_see_every_video_once_in_an_epoch(world, count):
    """Every video is one frame again and again, so a clip tells its video."""
    videos = read_token_dataset(world.directory, "train")
    number = {videos[i]["tokens"][0].tobytes(): i for i in range(len(videos))}
    seen = []
    for index in range(count):
        place = {"process_index": index, "process_count": count}
        batches = clip_batches(videos, clip_frames=4, batch_size=count, seed=0, **place)
        for _ in range(batches.videos_per_epoch):
            (clip,) = next(batches)
            seen.append(number[clip[0].astype(videos[0]["tokens"].dtype).tobytes()])
        batches.close()
    assert sorted(seen) == list(range(len(videos)))


def save_until_killed(workdir, dataset):
    """Runs in a process of its own: one whole save, then one that stops half-way."""
    videos = read_token_dataset(dataset, "train")
    batches = clip_batches(videos, clip_frames=4, batch_size=4, seed=0)
    checkpoints = Checkpoints(Path(workdir))
    next(batches)
    checkpoints.save(make_state(1), batches, CONFIG)
    checkpoints.wait()
    next(batches)
    with Gate() as gate:
        checkpoints.save(make_state(2), batches, CONFIG)
        assert gate.reached.wait(20)
        Path(workdir, "writing").touch()
        time.sleep(20)


def test_a_save_that_was_killed_is_ignored_and_cleared(tmp_path, world):
    process = start(f"save_until_killed({str(tmp_path)!r}, {str(world.directory)!r})", {})
    deadline = time.monotonic() + 60
    while not (tmp_path / "writing").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    unfinished = list((tmp_path / "checkpoints").glob("2.orbax*"))
    assert len(unfinished) == 1
    assert Checkpoints(tmp_path).steps() == [1]
    checkpoints, batches = Checkpoints(tmp_path), world.batches()
    state = checkpoints.restore(make_state(0), batches)
    checkpoints.close()
    tiny.assert_same(tiny.host_copy(state), tiny.host_copy(make_state(1)))
    assert batches.get_state()["next_batch"] == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]

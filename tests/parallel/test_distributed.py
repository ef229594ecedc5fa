"""How processes join, what is said where they do not meet, and who samples what."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
import tiny

from launch import distributed
from maskflow_jax.generation import sample_folder
from maskflow_jax.parallel import processes
from maskflow_jax.parallel.processes import Job, RendezvousError, connect, launcher, local_gpus

ROOT = Path(__file__).parents[2]
SLURM_STEP = {
    "SLURM_JOB_ID": "4100",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (SLURM_STEP, "slurm"),
        ({**SLURM_STEP, "SLURM_STEP_NUM_TASKS": "1"}, None),  # an interactive shell
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}, None),
        (OPEN_MPI, "openmpi"),
        ({**SLURM_STEP, **OPEN_MPI}, "openmpi"),  # mpirun within a SLURM job
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"JOB_COMPLETION_INDEX": "0"}, "kubernetes"),
    ],
)
def test_launchers_of_several_processes_are_recognised(environ, expected):
    assert launcher(environ) == expected


def test_a_slurm_job_without_srun_says_so_and_does_not_wait():
    with pytest.raises(ValueError, match="put srun before python"):
        connect(Job(), {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"})


def test_a_single_process_joins_nobody():
    assert connect(Job(), {}) == [socket.gethostname()]
    assert connect(Job(join="off"), SLURM_STEP) == [socket.gethostname()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"join": "perhaps"}, "choose one of auto, off, on"),
        ({"join": "off", "coordinator": "a:1"}, "takes no coordinator"),
        ({"num_processes": 2}, "belong together"),
        ({"coordinator": "a:1", "process_id": 0}, "belong together"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "choose 0 to 1"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "is not HOST:PORT"),
    ],
)
def test_jobs_that_cannot_be_joined_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Job(**settings)


def test_the_error_of_jax_is_translated(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: barrier\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    message = r"did not meet within 7 s.*slurm.*DEADLINE"
    with pytest.raises(RendezvousError, match=message) as caught:
        connect(Job(timeout=7), SLURM_STEP)
    assert "more" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({**SLURM_STEP, "JAX_LOCAL_DEVICE_IDS": "0"}, None),
        ({**SLURM_STEP, "SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, []),  # alone with eight GPUs
        ({**SLURM_STEP, "SLURM_GPUS_PER_TASK": "4"}, []),
        ({**SLURM_STEP, "CUDA_VISIBLE_DEVICES": "3"}, []),  # bound by the launcher
        ({**SLURM_STEP, "SLURM_LOCALID": "1"}, [1]),
        ({**SLURM_STEP, "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [2, 3]),
        ({**SLURM_STEP, "SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_NODEID": "1"}, []),
        ({**OPEN_MPI, "CUDA_VISIBLE_DEVICES": "0,1"}, [1]),
    ],
)
def test_local_gpus(environ, expected):
    assert local_gpus(environ) == expected


def test_gpus_that_do_not_divide():
    with pytest.raises(ValueError, match="cannot share its 3 GPUs evenly"):
        local_gpus({**SLURM_STEP, "CUDA_VISIBLE_DEVICES": "0,1,2"})


def test_an_address_where_nobody_answers_is_named(monkeypatch):
    monkeypatch.setattr(processes, "_TRY_SECONDS", 0.1)
    port = free_port()
    with pytest.raises(RendezvousError, match=f"not reached at localhost:{port} within 0 s"):
        connect(Job(coordinator=f"localhost:{port}", num_processes=2, process_id=1, timeout=0), {})


def start(*arguments, folder, **environment):
    """Starts `launch.train --dry_run` as a user does."""
    changes = tiny.CHANGES | {
        "data.directory": f"{folder}/data",
        "data.tokenizer": f"{folder}/tokenizer",
    }
    command = [sys.executable, "-m", "launch.train", "--config=configs/maze.py:smoke", "--dry_run"]
    command += [f"--config.{name}={value}" for name, value in changes.items()]
    return subprocess.Popen(
        [*command, f"--workdir={folder}/run", *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outputs_of(*processes):
    """What they printed and logged; leaves none behind if one hangs."""
    try:
        return [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_dry_run_of_two_processes(tmp_path):
    tiny.write_world(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    port = free_port()
    flags = [f"--coordinator=localhost:{port}", "--num_processes=2", "--config.mesh.fsdp=2"]
    # Clusters have proxies, and gRPC would ask them for the coordinator.
    two = {"JAX_NUM_CPU_DEVICES": "2", "http_proxy": "http://localhost:9", "no_proxy": "x.org"}
    processes = [start(*flags, f"--process_id={i}", folder=tmp_path, **two) for i in range(2)]
    (shown, log), (quiet, _) = outputs_of(*processes)
    assert [process.returncode for process in processes] == [0, 0], log
    assert not [line for line in quiet.splitlines() if "Gloo" not in line]
    host = socket.gethostname()
    assert "2 processes, 4 devices, mesh data 2 x fsdp 2 x tensor 1" in shown
    assert f"process 0 on {host}: 2 x cpu: 0 at (0, 0, 0), 1 at (0, 1, 0)" in shown
    assert f"process 1 on {host}: 2 x cpu: " in shown
    assert "batch: 4 clips of 4 frames, 2 read by each process, 1 on each device" in shown
    assert "dataset: 5 training and 3 validation videos" in shown
    assert "has no checkpoint: starts at step 0" in shown
    assert sorted(tmp_path.rglob("*")) == before  # nothing was written


def test_dry_run_without_a_dataset_and_with_a_batch_that_does_not_divide(tmp_path):
    process = start("--config.data.batch_size=3", folder=tmp_path, JAX_NUM_CPU_DEVICES="2")
    ((shown, log),) = outputs_of(process)
    assert process.returncode == 0, log
    assert "3 clips do NOT divide over 2 ways" in shown
    assert "dataset: MISSING: no dataset" in shown
    assert "state: unknown" in shown


def of(index, count):
    return mock.patch.multiple(jax, process_index=lambda: index, process_count=lambda: count)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("samples", "batch"), [(1, 4), (5, 2), (7, 3), (12, 4), (4, 4)])
def test_every_sample_is_one_process_s(count, samples, batch):
    shares = []
    for index in range(count):
        with of(index, count):
            blocks, size = sample_folder.blocks(samples, batch)
        assert all(1 <= len(block) <= size <= batch for block in blocks)
        shares.append([number for block in blocks for number in block])
    assert sorted(number for share in shares for number in share) == list(range(samples))
    if samples >= count * batch:
        assert all(shares)  # nobody idles


def test_flags_reach_the_job(monkeypatch):
    """`join` is what the programs call."""
    monkeypatch.setattr(distributed, "_DISTRIBUTED", mock.Mock(value="off"))
    for name in ("_COORDINATOR", "_NUM_PROCESSES", "_PROCESS_ID"):
        monkeypatch.setattr(distributed, name, mock.Mock(value=None))
    monkeypatch.setattr(distributed, "_TIMEOUT", mock.Mock(value=1))
    assert distributed.join() == [socket.gethostname()]


def test_digest_tells_names_values_and_shapes_apart():
    trees = [{"a": np.zeros(2)}, {"b": np.zeros(2)}, {"a": np.ones(2)}, {"a": np.zeros((1, 2))}]
    assert len({sample_folder.digest(tree) for tree in trees}) == 4
    assert sample_folder.digest(trees[0]) == sample_folder.digest({"a": np.zeros(2)})

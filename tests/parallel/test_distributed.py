"""Who started a process, how processes meet or what is said if not, and who samples what."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
import tiny

from launch import distributed, sampling_jobs
from launch.distributed import recognise
from maskflow_jax.parallel.processes import (
    Launch,
    RendezvousError,
    _answer_roll,
    _call_roll,
    local_gpus,
)

ROOT = Path(__file__).parents[2]
# What srun gives each task of a step on two nodes, and Open MPI 4 each rank.
SLURM_STEP = {
    "SLURM_JOB_ID": "4100",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
TPU_POD = {
    "TPU_WORKER_HOSTNAMES": "localhost,worker1",
    "TPU_WORKER_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost",  # else jax asks the cloud's metadata server
    "MEGASCALE_NUM_SLICES": "1",
    "MEGASCALE_SLICE_ID": "0",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """The machine that runs the tests may itself be a cluster's."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_COORD", "KUBERNETES_")):
            monkeypatch.delenv(name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def set_all(monkeypatch, *environments):
    for environment in environments:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)


def test_nothing_set_is_a_single_process():
    launch = recognise()
    assert (launch.launcher, launch.num_processes) == ("nobody", 1)
    assert "no launcher" in str(launch)


def test_slurm_step(monkeypatch):
    set_all(monkeypatch, SLURM_STEP)
    launch = recognise()
    assert (launch.launcher, launch.process_id, launch.num_processes) == ("slurm", 2, 4)
    assert launch.coordinator == "gpu007:61444"  # 65535 - 4096 + 1 + 4100 % 4096
    assert "srun's SLURM_STEP_NODELIST" in launch.reason
    assert recognise(coordinator="gpu008:99").coordinator == "gpu008:99"


def test_slurm_job_without_srun_says_so_and_does_not_wait(monkeypatch):
    set_all(monkeypatch, {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"})
    with pytest.raises(ValueError, match=r"4 tasks.*not started by srun.*put srun before python"):
        recognise()
    assert recognise("off").num_processes == 1


@pytest.mark.parametrize("tasks_of_the_job", ["1", "4"])
def test_an_interactive_slurm_shell_runs_alone(monkeypatch, caplog, tasks_of_the_job):
    one = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": tasks_of_the_job}
    set_all(monkeypatch, SLURM_STEP, one)
    assert recognise().num_processes == 1
    assert ("use srun for all" in caplog.text) == (tasks_of_the_job == "4")


def test_open_mpi(monkeypatch):
    set_all(monkeypatch, SLURM_STEP, OPEN_MPI, {"SLURM_STEP_NUM_TASKS": "1"})
    assert recognise("openmpi").process_id == 1
    monkeypatch.delenv("SLURM_JOB_ID")
    launch = recognise()
    assert (launch.launcher, launch.process_id, launch.num_processes) == ("openmpi", 1, 2)
    assert launch.coordinator.startswith("10.96.0.1:")
    # Open MPI 5 does not say where rank 0 is.
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri")
    with pytest.raises(ValueError, match="add --coordinator=HOST:PORT"):
        recognise()
    launch = recognise(coordinator="node1:1234")
    assert (launch.coordinator, launch.process_id) == ("node1:1234", 1)


def test_mpirun_within_a_slurm_job_is_open_mpi(monkeypatch):
    set_all(monkeypatch, OPEN_MPI, {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"})
    assert recognise().launcher == "openmpi"


def test_tpu_pod(monkeypatch):
    set_all(monkeypatch, TPU_POD)
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    launch = recognise()
    assert (launch.launcher, launch.process_id, launch.num_processes) == ("tpu", 1, 2)
    assert launch.coordinator == "localhost:8482"
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert recognise().num_processes == 1


def test_flags():
    launch = recognise(coordinator="h:1", num_processes=2, process_id=1)
    assert (launch.launcher, launch.coordinator, launch.process_id) == ("flags", "h:1", 1)
    for choice in ("auto", "flags"):
        with pytest.raises(ValueError, match="--process_id must be given too"):
            recognise(choice, coordinator="h:1", num_processes=2)
    with pytest.raises(ValueError, match="choose 0 to 1"):
        recognise(coordinator="h:1", num_processes=2, process_id=2)
    with pytest.raises(ValueError, match="--distributed=slurm, but"):
        recognise("slurm")
    with pytest.raises(ValueError, match="leave them out"):
        recognise("off", process_id=1)


@pytest.mark.parametrize(
    ("hosts", "environ", "expected"),
    [
        ("ab", {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [[], []]),
        ("aabb", {}, [[0], [1], [0], [1]]),
        ("aa", {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [[0, 1], [2, 3]]),
        ("aa", {"CUDA_VISIBLE_DEVICES": "5"}, [[], []]),
        ("aa", {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, [[], []]),
        ("aa", {"JAX_LOCAL_DEVICE_IDS": "3"}, [None, None]),
    ],
)
def test_local_gpus(hosts, environ, expected):
    assert [local_gpus(hosts, i, environ) for i in range(len(hosts))] == expected


def test_gpus_that_do_not_divide():
    for gpus in ("0,1,2", "0,1,2,4,5"):
        with pytest.raises(ValueError, match="2 processes on a cannot share"):
            local_gpus("aa", 0, {"CUDA_VISIBLE_DEVICES": gpus})


class Member(threading.Thread):
    """A process of a job, as far as the roll call, in a thread."""

    def __init__(self, port, index, count, timeout):
        super().__init__(daemon=True)
        self.launch = Launch(
            launcher="flags",
            reason="a test",
            coordinator=f"localhost:{port}",
            num_processes=count,
            process_id=index,
        )
        self.port, self.limit, self.hosts, self.error = port, timeout, None, None
        self.start()

    def run(self):
        try:
            if self.launch.process_id == 0:
                self.hosts = _call_roll(self.launch, self.port, self.limit)
            else:
                self.hosts = _answer_roll(self.launch, "localhost", self.port, self.limit)
        except RendezvousError as error:
            self.error = str(error)

    def outcome(self):
        self.join(30)
        assert not self.is_alive()
        return self.hosts, self.error


def test_all_meet_whoever_comes_first():
    port = free_port()
    members = [Member(port, index, 3, 20) for index in (2, 1)]
    time.sleep(0.5)
    members.append(Member(port, 0, 3, 20))
    for member in members:
        assert member.outcome() == ([socket.gethostname()] * 3, None)


def test_all_are_told_who_is_missing():
    port = free_port()
    members = [Member(port, index, 4, 2) for index in (0, 2)]
    for member in members:
        _, error = member.outcome()
        assert f"1, 3 did not call at localhost:{port} within 2 s; there are 0" in error


def test_one_that_left_is_missing():
    port = free_port()
    zero = Member(port, 0, 3, 2)
    time.sleep(0.3)
    with socket.create_connection(("localhost", port)) as call:
        call.sendall(json.dumps({"process": 1, "of": 3, "host": "x"}).encode() + b"\n")
        assert b"heard" in call.recv(100)
    assert "1, 2 did not call" in zero.outcome()[1]


def test_two_of_one_number_and_one_of_another_job():
    port = free_port()
    members = [Member(port, index, 3, 3) for index in (0, 1)]
    time.sleep(0.5)
    assert "process 1 called twice" in Member(port, 1, 3, 3).outcome()[1]
    assert "one of 2 processes called, this job has 3" in Member(port, 1, 2, 3).outcome()[1]
    assert "called twice" in members[0].outcome()[1]


def test_a_stranger_at_the_address_and_a_port_in_use():
    with socket.create_server(("localhost", 0)) as stranger:
        port = stranger.getsockname()[1]
        stranger.settimeout(0.1)
        member = Member(port, 1, 2, 2)
        calls = []
        while member.is_alive():
            try:
                calls.append(stranger.accept()[0])
                calls[-1].sendall(b"HTTP/1.1 400 Bad Request\r\n")
            except TimeoutError:
                continue
        assert "what answers there is not a process 0" in member.outcome()[1]
        assert f"cannot listen at port {port}" in Member(port, 0, 2, 1).outcome()[1]
        for call in calls:
            call.close()


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


def test_programs_that_do_not_meet_end_with_the_reason(tmp_path):
    """jax alone would abort: no Python error, no address, nobody named."""
    ports = free_port(), free_port()
    flags = ["--num_processes=2", "--rendezvous_timeout=2"]
    begin = time.monotonic()
    processes = [
        start(f"--coordinator=localhost:{port}", f"--process_id={i}", *flags, folder=tmp_path)
        for i, port in zip((1, 0), ports, strict=True)
    ]
    (_, called), (_, waited) = outputs_of(*processes)
    assert time.monotonic() - begin < 45
    assert [process.returncode for process in processes] == [1, 1]
    assert "this is process 1 of 2 by flags" in called
    assert f"did not reach process 0 at localhost:{ports[0]} within 2 s" in called
    assert "Connection refused" in called
    assert f"of 2 processes, 1 did not call at localhost:{ports[1]} within 2 s" in waited


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
    assert "dataset: 5 training and 3 held-out videos" in shown
    assert "has no checkpoint: starts at step 0" in shown
    assert sorted(tmp_path.rglob("*")) == before  # nothing was written


def test_dry_run_without_a_dataset_and_with_a_batch_that_does_not_divide(tmp_path):
    process = start("--config.data.batch_size=3", folder=tmp_path, JAX_NUM_CPU_DEVICES="2")
    ((shown, log),) = outputs_of(process)
    assert process.returncode == 0, log
    assert "3 clips do NOT divide over 2 ways" in shown
    assert "dataset: MISSING or unusable: no dataset" in shown
    assert "state: unknown" in shown


def of(index, count):
    return mock.patch.multiple(jax, process_index=lambda: index, process_count=lambda: count)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("samples", "batch"), [(1, 4), (5, 2), (7, 3), (12, 4), (4, 4)])
def test_every_sample_is_one_process_s(count, samples, batch):
    shares = []
    for index in range(count):
        with of(index, count):
            blocks, size = sampling_jobs.blocks(samples, batch)
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
    assert len({sampling_jobs.digest(tree) for tree in trees}) == 4
    assert sampling_jobs.digest(trees[0]) == sampling_jobs.digest({"a": np.zeros(2)})

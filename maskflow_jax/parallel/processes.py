"""Joining the processes of a job: a thin layer on `jax.distributed`.

jax recognises SLURM, Open MPI, TPU pods and Kubernetes, has time-outs and starts the coordination
service. This file decides whether there are other processes to join, which GPUs of its host a
process uses, and turns the errors of jax into messages that say what to change.
"""

import dataclasses
import os
import re
import socket
import time
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

_HOST_BYTES = 256  # longest host name that processes exchange
_JOIN = ("auto", "off", "on")
_TRY_SECONDS = 5.0  # for one attempt to reach process 0


class RendezvousError(RuntimeError):
    """The processes of a job did not find each other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """How a process joins the others.

    Attributes:
        join: When to join: "auto" if a launcher has started several processes or an address is
            given, "on" always, "off" never.
        coordinator: Address HOST:PORT of process 0; None to take the launcher's.
        num_processes: Number of processes; None to take the launcher's.
        process_id: Number of this process; None to take the launcher's.
        timeout: Number of seconds within which all processes must be connected.

    Raises:
        ValueError: if the settings contradict each other.
    """

    join: str = "auto"
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    timeout: int = 300

    def __post_init__(self):
        if self.join not in _JOIN:
            raise ValueError(f"unknown choice {self.join!r}; choose one of {', '.join(_JOIN)}")
        numbers = (self.coordinator, self.num_processes, self.process_id)
        given = [number is not None for number in numbers]
        if self.join == "off" and any(given):
            raise ValueError("a process that joins no other takes no coordinator and no number")
        if any(given[1:]) and not all(given):
            raise ValueError(
                "coordinator, num_processes and process_id belong together: every process gets the "
                "same coordinator HOST:PORT and number of processes, and its own id from 0"
            )
        if all(given) and not 0 <= self.process_id < self.num_processes:
            raise ValueError(
                f"process_id is {self.process_id}; choose 0 to {self.num_processes - 1}"
            )
        if self.coordinator and not re.fullmatch(r".+:\d+", self.coordinator):
            raise ValueError(f"coordinator {self.coordinator!r} is not HOST:PORT")


def connect(job: Job, environ: Mapping[str, str] | None = None) -> list[str]:
    """Joins a job; must come before anything that uses a device.

    Args:
        job: How to join.
        environ: Environment variables, those of this process by default.

    Returns:
        The host name of every process, by process.

    Raises:
        RendezvousError: if the processes do not find each other.
        ValueError: if the launcher started several processes in a way that jax cannot join, or the
            processes of a host cannot share its GPUs evenly.
    """
    environ = os.environ if environ is None else environ
    found = launcher(environ)
    alone = job.join == "off" or (job.join == "auto" and not found and not job.coordinator)
    if alone or job.num_processes == 1:
        logging.info("a single process")
        return [socket.gethostname()]
    logging.info(
        "joining the other processes%s within %d s; where they do not meet, jax aborts the process",
        f" at {job.coordinator}" if job.coordinator else f" (started by {found or 'hand'})",
        job.timeout,
    )
    if job.coordinator:
        _pass_by_proxy(job.coordinator)
    if job.coordinator and job.process_id:
        _wait_for(job.coordinator, job.timeout)
    if jax.config.jax_cpu_collectives_implementation in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            job.coordinator,
            job.num_processes,
            job.process_id,
            local_device_ids=local_gpus(environ),
            initialization_timeout=job.timeout,
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise RendezvousError(
            f"the processes did not meet within {job.timeout} s"
            + (f" at {job.coordinator}" if job.coordinator else f" (started by {found or 'hand'})")
            + f": {str(error).splitlines()[0] if str(error) else error!r}; check that all of them "
            "run and reach the address of process 0, or give coordinator, num_processes and "
            "process_id"
        ) from error
    logging.info("process %d of %d", jax.process_index(), jax.process_count())
    return _hosts()


def _pass_by_proxy(address: str) -> None:
    """Makes gRPC connect to the coordinator without an HTTP proxy.

    Through a proxy the connection fails, and jax aborts the process.
    """
    host = address.rpartition(":")[0].strip("[]")
    names = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
    known = next((os.environ[name] for name in names if os.environ.get(name)), None)
    os.environ[names[0]] = f"{known},{host}" if known else host


def _wait_for(address: str, timeout: float) -> None:
    """Waits until process 0 accepts connections at its address.

    Without this check, the client of jax aborts the process if the address does not answer, and no
    Python error is raised.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_TRY_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RendezvousError(
                    f"process 0 was not reached at {address} within {timeout} s: {error}; check "
                    "that it runs and that the address is its host and a port that is open"
                ) from error
        time.sleep(_TRY_SECONDS / 10)


def launcher(environ: Mapping[str, str]) -> str | None:
    """Returns the launcher that started several processes, or None for a single one.

    Args:
        environ: Environment variables.

    Raises:
        ValueError: for a SLURM job of several tasks if this process was not started by srun: it
            would wait for processes that do not exist.
    """
    # Under mpirun within a SLURM job the variables of both are set; mpirun started the process.
    if int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "openmpi"
    if "SLURM_JOB_ID" in environ:
        if "SLURM_STEP_NODELIST" in environ:
            tasks = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", 1))
            return "slurm" if int(tasks) > 1 else None
        if int(environ.get("SLURM_NTASKS", 1)) > 1:
            raise ValueError(
                f"this SLURM job has {environ['SLURM_NTASKS']} tasks, but this process was not "
                "started by srun (SLURM_STEP_NODELIST is not set): put srun before python, or say "
                "that the process joins no other"
            )
        return None
    if len(environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        return "tpu"
    return "kubernetes" if "JOB_COMPLETION_INDEX" in environ else None


def local_gpus(environ: Mapping[str, str]) -> list[int] | None:
    """Returns which of the visible GPUs belong to this process, as positions among them.

    The rule of jax gives every process of SLURM or Open MPI one GPU, even to a process that is
    alone on a host with eight GPUs. If the launcher has bound each process to its GPU, that rule
    gives a number that does not exist.

    Args:
        environ: Environment variables.

    Returns:
        Positions of the GPUs; an empty list for all GPUs; None to leave the decision to jax.

    Raises:
        ValueError: if the GPUs of a host do not divide among its processes.
    """
    place = _place_on_host(environ)
    if place is None or environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    index, here = place
    if here == 1 or environ.get("SLURM_GPUS_PER_TASK"):
        return []
    visible = [gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if len(visible) == 1:  # the launcher has bound it
        return []
    share, rest = divmod(len(visible), here)
    if rest or (visible and not share):
        raise ValueError(
            f"{here} processes of one host cannot share its {len(visible)} GPUs evenly; start as "
            "many processes as GPUs, or set JAX_LOCAL_DEVICE_IDS for each"
        )
    if not share:  # the number of GPUs is unknown: one each, as jax does
        return [index]
    return list(range(index * share, (index + 1) * share))


def _place_on_host(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Returns the number of this process on its host, and the number of processes of that host."""
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environ:
        return int(environ["OMPI_COMM_WORLD_LOCAL_RANK"]), int(
            environ["OMPI_COMM_WORLD_LOCAL_SIZE"]
        )
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE")
    if tasks is None or "SLURM_LOCALID" not in environ:
        return None
    counts = []  # "2(x3),1" is 2, 2, 2, 1
    for part in tasks.split(","):
        count, repeat = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part).groups()
        counts += [int(count)] * int(repeat or 1)
    return int(environ["SLURM_LOCALID"]), counts[int(environ.get("SLURM_NODEID", 0))]


def _hosts() -> list[str]:
    """The host name of every process."""
    name = np.zeros(_HOST_BYTES, np.uint8)
    encoded = np.frombuffer(socket.gethostname().encode()[:_HOST_BYTES], np.uint8)
    name[: len(encoded)] = encoded
    rows = multihost_utils.process_allgather(name)
    return [bytes(row).rstrip(b"\0").decode() for row in np.asarray(rows).reshape(-1, _HOST_BYTES)]


def gather_numbers(value: int | bool) -> np.ndarray:
    """Gathers a number below 2^32 from each process; all processes must call this.

    Returns:
        int64 [processes].
    """
    if jax.process_count() == 1:
        return np.array([value], np.int64)
    halves = np.array([value >> 16, value & 0xFFFF], np.int32)  # jax's integers have 32 bits
    gathered = np.asarray(multihost_utils.process_allgather(halves), np.int64)
    return gathered[:, 0] * 2**16 + gathered[:, 1]

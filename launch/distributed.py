"""Who started this process, and the flags that say it where nobody else does.

`recognise` asks jax's own cluster classes about SLURM, TPU pods, Open MPI and Kubernetes, and
decides by itself where their answer would make a process wait for others that nobody has started.
"""

import os

import jax
from absl import flags, logging

# Of the private part of jax: the only place that says where the coordinator is before connecting.
from jax._src import clusters

from maskflow_jax.parallel.processes import Launch, RendezvousError, connect

# In this order: mpirun within a SLURM job leaves the variables of both, and started the process.
LAUNCHERS = ("openmpi", "slurm", "tpu", "kubernetes")
CHOICES = ("auto", "off", *LAUNCHERS, "flags")

_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", CHOICES, "Whose processes to join; auto recognises the launcher."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, any free port; for auto and flags."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes in all.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number.", lower_bound=0)
_TIMEOUT = flags.DEFINE_integer(
    "rendezvous_timeout", 300, "Seconds within which all processes must meet.", lower_bound=1
)


def join(*, saves_at_sigterm: bool = True) -> list[str]:
    """Joins the job that the flags or the launcher say, and logs which and why.

    Args:
        saves_at_sigterm: whether the program waits for jax's word that SIGTERM has come; for one
            that does not, SIGTERM is to end it, as it does where it is alone.

    Returns:
        Every process's host name, by process.

    Raises:
        ValueError: if flags are missing or contradict, or a launcher is not there.
        RendezvousError: if the processes do not find each other.
    """
    launch = recognise(
        _DISTRIBUTED.value,
        coordinator=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
        timeout=_TIMEOUT.value,
    )
    logging.info("this is %s", launch)
    if not saves_at_sigterm:
        jax.config.update("jax_enable_preemption_service", False)
    return connect(launch, timeout=_TIMEOUT.value)


def recognise(
    choice: str = "auto",
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 300,
) -> Launch:
    """Finds out who started this process.

    Args:
        choice: "auto" takes what is there, "off" a single process, another name that launcher only.
        coordinator: HOST:PORT of process 0. With a launcher it replaces the launcher's.
        num_processes: processes in all; with "flags" (or "auto" and no launcher).
        process_id: number of this process; likewise.
        timeout: seconds for a launcher's service to name the coordinator.

    Raises:
        ValueError: if flags are missing or contradict, the launcher was not recognised, or a job of
            several tasks runs a process that its launcher did not start.
        RendezvousError: if the launcher does not say where process 0 is.
    """
    numbers = {"--num_processes": num_processes, "--process_id": process_id}
    given = [name for name, value in numbers.items() if value is not None]
    if choice not in CHOICES:
        raise ValueError(f"unknown launcher {choice!r}; choose one of {', '.join(CHOICES)}")
    if choice == "off":
        if given or coordinator:
            raise ValueError("--distributed=off takes no coordinator and no number; leave them out")
        return Launch(launcher="nobody", reason="--distributed=off")
    if choice == "flags" or (choice == "auto" and given):
        return _from_flags(coordinator, num_processes, process_id)
    if given:
        raise ValueError(f"{choice} numbers its processes itself; leave out {' and '.join(given)}")
    for launcher in LAUNCHERS if choice == "auto" else (choice,):
        launch = _RECOGNISE[launcher](coordinator, timeout)
        if launch is not None:
            return launch
    if choice != "auto":
        raise ValueError(
            f"--distributed={choice}, but this process was not started by it ({_SIGNS[choice]}); "
            "start it so, or give --coordinator, --num_processes and --process_id"
        )
    if coordinator:
        return _from_flags(coordinator, num_processes, process_id)
    return Launch(launcher="nobody", reason="no launcher's variables and no flags are set")


def _from_flags(coordinator: str | None, num_processes: int | None, process_id: int | None):
    flags = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if num_processes == 1 and missing in ([], ["--coordinator"]):
        return Launch(launcher="flags", reason="--num_processes=1")
    if missing:
        raise ValueError(
            f"{', '.join(missing)} must be given too: every process gets the same --coordinator="
            "HOST:PORT and --num_processes, and its own --process_id from 0"
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(f"--process_id={process_id}: choose 0 to {num_processes - 1}")
    return Launch(
        launcher="flags",
        reason="--coordinator, --num_processes and --process_id",
        coordinator=coordinator,
        num_processes=num_processes,
        process_id=process_id,
    )


def _slurm(coordinator: str | None, timeout: float) -> Launch | None:
    if "SLURM_JOB_ID" not in os.environ:
        return None
    job_tasks = int(os.environ.get("SLURM_NTASKS", 1))
    if not clusters.SlurmCluster.is_env_present():
        if job_tasks > 1:
            # jax would not join these, or wait for ever for processes that nobody has started.
            raise ValueError(
                f"this SLURM job has {job_tasks} tasks, but this process was not started by srun "
                "(SLURM_STEP_NODELIST is not set): put srun before python, or give "
                "--distributed=off to run on this node alone"
            )
        return Launch(launcher="slurm", reason="a SLURM job of one task, not started by srun")
    # Not SLURM_NTASKS: in an interactive shell it counts the job's tasks, and only one is here.
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", job_tasks))
    if tasks == 1:
        if job_tasks > 1:
            logging.warning(
                "one of the %d tasks of this SLURM job runs here, alone; use srun for all of them",
                job_tasks,
            )
        return Launch(launcher="slurm", reason="a SLURM step of one task")
    return _from_cluster("slurm", clusters.SlurmCluster, coordinator, timeout, tasks)


def _tpu(coordinator: str | None, timeout: float) -> Launch | None:
    for cluster in (clusters.GkeTpuCluster, clusters.GceTpuCluster):
        if cluster.is_env_present():
            return _from_cluster("tpu", cluster, coordinator, timeout)
    return None


def _openmpi(coordinator: str | None, timeout: float) -> Launch | None:
    if "OMPI_COMM_WORLD_SIZE" not in os.environ:
        return None
    # Open MPI 5 no longer says where mpirun runs, so there jax knows no address.
    if not coordinator and not clusters.OmpiCluster.is_env_present():
        if int(os.environ["OMPI_COMM_WORLD_SIZE"]) > 1:
            raise ValueError(
                "this Open MPI does not say where process 0 runs (OMPI_MCA_orte_hnp_uri is not "
                "set); add --coordinator=HOST:PORT, the host of rank 0 and a free port of it"
            )
        return Launch(launcher="openmpi", reason="an Open MPI job of one process")
    return _from_cluster("openmpi", clusters.OmpiCluster, coordinator, timeout)


def _kubernetes(coordinator: str | None, timeout: float) -> Launch | None:
    # A job's pods have this variable; other pods, a notebook's for instance, are not asked about.
    if "JOB_COMPLETION_INDEX" not in os.environ or not clusters.K8sCluster.is_env_present():
        return None
    return _from_cluster("kubernetes", clusters.K8sCluster, coordinator, timeout)


def _from_cluster(
    launcher: str,
    cluster: type[clusters.ClusterEnv],
    coordinator: str | None,
    timeout: float,
    num_processes: int | None = None,
) -> Launch:
    num_processes = num_processes or cluster.get_process_count()
    if num_processes == 1:
        return Launch(launcher=launcher, reason=f"a {launcher} job of one process")
    try:
        address = coordinator or cluster.get_coordinator_address(
            timeout_secs=timeout,
            override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
        )
    except (RuntimeError, OSError) as error:
        raise RendezvousError(
            f"{launcher} does not say where process 0 is: {error}; give --coordinator=HOST:PORT"
        ) from error
    return Launch(
        launcher=launcher,
        reason=f"{_SIGNS[launcher]}; jax's {cluster.__name__}",
        coordinator=address,
        num_processes=num_processes,
        process_id=cluster.get_process_id(),
    )


_RECOGNISE = {"slurm": _slurm, "tpu": _tpu, "openmpi": _openmpi, "kubernetes": _kubernetes}
_SIGNS = {
    "slurm": "SLURM_JOB_ID and srun's SLURM_STEP_NODELIST",
    "tpu": "a TPU VM's metadata or TPU_WORKER_HOSTNAMES",
    "openmpi": "OMPI_COMM_WORLD_SIZE",
    "kubernetes": "JOB_COMPLETION_INDEX and the package kubernetes",
}

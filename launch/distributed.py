"""The flags by which a program joins the other processes of a job."""

import jax
from absl import flags

from maskflow_jax.parallel.processes import Job, connect

_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "off", "on"],
    "Whether to join other processes; auto recognises SLURM, Open MPI, TPU pods and Kubernetes.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, any free port.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process.", lower_bound=0)
_TIMEOUT = flags.DEFINE_integer(
    "rendezvous_timeout", 300, "Seconds within which all processes must meet.", lower_bound=1
)


def join(*, saves_at_sigterm: bool = True) -> list[str]:
    """Joins the job that the flags or the launcher describe.

    Args:
        saves_at_sigterm: Whether the program waits for jax's word that SIGTERM has come; for one
            that does not, SIGTERM is to end it, as it does where it is alone.

    Returns:
        The host name of every process, by process.
    """
    if not saves_at_sigterm:
        jax.config.update("jax_enable_preemption_service", False)
    return connect(
        Job(
            join=_DISTRIBUTED.value,
            coordinator=_COORDINATOR.value,
            num_processes=_NUM_PROCESSES.value,
            process_id=_PROCESS_ID.value,
            timeout=_TIMEOUT.value,
        )
    )

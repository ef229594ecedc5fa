"""How the processes of one job find each other, and what is said when they do not.

`connect` calls the roll before `jax.distributed` starts: jax's coordination client ends the process
by SIGABRT, without a word on who is absent, when the rendezvous fails. So process 0 listens at the
coordinator's address until all have called, tells every process who is there, and only then hands
the port to jax. A process that cannot reach it, and a process 0 that waits in vain, raise
`RendezvousError`. Which launcher started a process is `launch.distributed`'s business.
"""

import dataclasses
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import jax
from absl import logging

_FIRST_RETRY, _LAST_RETRY = 0.2, 3.0  # seconds between calls at process 0's door
_CALL_SECONDS = 5.0  # for one call to connect, or to say its line
_VERDICT_GRACE = 10.0  # how much later than its own limit a process may hear process 0's verdict


class RendezvousError(RuntimeError):
    """The processes of a job did not find each other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """What is known of a job before its processes have met.

    Attributes:
        launcher: who started this process: "slurm", "tpu", ..., "flags" or "nobody".
        reason: how that was recognised, for the log.
        coordinator: HOST:PORT of process 0; empty for a single process.
        num_processes: processes in all.
        process_id: number of this process.
    """

    launcher: str
    reason: str
    coordinator: str = ""
    num_processes: int = 1
    process_id: int = 0

    def __str__(self) -> str:
        if self.num_processes == 1:
            return f"a single process ({self.reason})"
        return (
            f"process {self.process_id} of {self.num_processes} by {self.launcher} "
            f"({self.reason}), coordinator {self.coordinator}"
        )


def connect(launch: Launch, *, timeout: float = 300) -> list[str]:
    """Joins the job; must come before anything that uses a device.

    Args:
        launch: of this process. A single process has nobody to join.
        timeout: seconds within which all processes must have called.

    Returns:
        Every process's host name, by process.

    Raises:
        RendezvousError: naming address and reason, and as far as can be known who is missing.
        ValueError: if the processes of a host cannot share its GPUs evenly.
    """
    if launch.num_processes == 1:
        return [socket.gethostname()]
    host, _, port = launch.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise RendezvousError(f"coordinator {launch.coordinator!r} is not HOST:PORT")
    if launch.process_id == 0:
        hosts = _call_roll(launch, int(port), timeout)
    else:
        hosts = _answer_roll(launch, host.strip("[]"), int(port), timeout)
    if jax.config.jax_cpu_collectives_implementation in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    _pass_by_proxy(host.strip("[]"))
    jax.distributed.initialize(
        launch.coordinator,
        launch.num_processes,
        launch.process_id,
        local_device_ids=local_gpus(hosts, launch.process_id, os.environ),
        initialization_timeout=max(1, round(timeout)),
    )
    return hosts


def _pass_by_proxy(host: str) -> None:
    """Keeps gRPC from asking an HTTP proxy for the coordinator, which would end in an abort."""
    names = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
    known = next((os.environ[name] for name in names if os.environ.get(name)), None)
    os.environ[names[0]] = f"{known},{host}" if known else host


def local_gpus(
    hosts: Sequence[str], process_id: int, environ: Mapping[str, str]
) -> list[int] | None:
    """Which of the GPUs that this process sees are its own.

    jax's own rule gives every process of SLURM or Open MPI one GPU, also where it is alone on its
    host with eight of them, and a number that does not exist where the launcher has bound the GPU.

    Args:
        hosts: every process's host name, by process.
        process_id: number of this process.
        environ: its environment.

    Returns:
        Positions among the visible GPUs; empty for all; None where JAX_LOCAL_DEVICE_IDS says it.

    Raises:
        ValueError: if the GPUs of a host do not divide among its processes.
    """
    if environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    here = [number for number, host in enumerate(hosts) if host == hosts[process_id]]
    place = here.index(process_id)
    if len(here) == 1 or environ.get("SLURM_GPUS_PER_TASK"):
        return []
    visible = [gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if len(visible) == 1:  # the launcher has bound it
        return []
    share, rest = divmod(len(visible), len(here))
    if rest or (visible and not share):
        raise ValueError(
            f"{len(here)} processes on {hosts[process_id]} cannot share its {len(visible)} GPUs "
            "evenly; start as many processes as GPUs, or set JAX_LOCAL_DEVICE_IDS for each"
        )
    if not share:  # nothing says how many GPUs there are: one each, as jax does
        return [place]
    return list(range(place * share, (place + 1) * share))


def _call_roll(launch: Launch, port: int, timeout: float) -> list[str]:
    """Process 0: waits for a call of every other process, then answers all of them."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        raise RendezvousError(
            f"process 0 cannot listen at port {port} of {socket.gethostname()} (coordinator "
            f"{launch.coordinator}): {error}; choose a free port with --coordinator"
        ) from error
    roll = _Roll(launch)
    deadline = time.monotonic() + timeout
    try:
        with server:
            while roll.missing() and time.monotonic() < deadline:
                server.settimeout(max(0.01, min(1.0, deadline - time.monotonic())))
                try:
                    roll.hear(*server.accept())
                except TimeoutError:
                    continue
        verdict = roll.verdict(timeout)
        roll.answer(verdict)
    finally:
        roll.close()
    return _accept(launch, verdict)


class _Roll:
    """Who has called at process 0, and the lines to them."""

    def __init__(self, launch: Launch):
        self._launch, self._calls, self._problems = launch, {}, []
        self._hosts = {0: socket.gethostname()}

    def missing(self) -> list[int]:
        """Who has not called, or has hung up again."""
        for number in [number for number, call in self._calls.items() if _hung_up(call)]:
            self._calls.pop(number).close()
            del self._hosts[number]
        return [i for i in range(self._launch.num_processes) if i not in self._hosts]

    def hear(self, call: socket.socket, address: tuple) -> None:
        """Takes down a call; one that does not belong here is told so and hung up."""
        call.settimeout(_CALL_SECONDS)
        with call.makefile("rb") as stream:
            said = _read_line(stream)
        number, count = said.get("process"), self._launch.num_processes
        problem = None
        if said.get("of") != count:
            problem = f"one of {said.get('of', 'no')} processes called, this job has {count}"
        elif number in self._hosts:
            problem = f"process {number} called twice: {self._hosts[number]} and {said['host']}"
        _say(call, {"error": problem} if problem else {"heard": number})
        if problem is None:
            self._calls[number], self._hosts[number] = call, said["host"]
            return
        call.close()
        self._problems.append(f"{problem} (from {address[0]})")
        logging.warning("rendezvous at %s: %s", self._launch.coordinator, self._problems[-1])

    def verdict(self, timeout: float) -> dict:
        """What all are told: the hosts, or who is missing."""
        missing = self.missing()
        if not missing:
            return {"hosts": [self._hosts[i] for i in range(self._launch.num_processes)]}
        present = ", ".join(f"{i} ({self._hosts[i]})" for i in sorted(self._hosts))
        return {
            "error": f"of {self._launch.num_processes} processes, {_listed(missing)} did "
            f"not call at {self._launch.coordinator} within {timeout:g} s; there are {present}"
            + "".join(f"; {problem}" for problem in self._problems[-3:])
        }

    def answer(self, verdict: dict) -> None:
        for call in self._calls.values():
            _say(call, verdict)

    def close(self) -> None:
        for call in self._calls.values():
            call.close()


def _answer_roll(launch: Launch, host: str, port: int, timeout: float) -> list[str]:
    """Another process: calls process 0 until it answers, and takes its verdict."""
    start, pause = time.monotonic(), _FIRST_RETRY
    while True:
        left = start + timeout - time.monotonic()
        try:
            with socket.create_connection((host, port), max(0.1, min(_CALL_SECONDS, left))) as call:
                verdict = _call(launch, call, timeout)
            if verdict:
                return _accept(launch, verdict)
            reason = "what answers there is not a process 0 that waits for this job"
        except OSError as error:
            reason = str(error)
        if time.monotonic() - start + pause > timeout:
            raise RendezvousError(
                f"process {launch.process_id} of {launch.num_processes} on {socket.gethostname()} "
                f"did not reach process 0 at {launch.coordinator} within {timeout:g} s: {reason}; "
                "check that process 0 runs, that the address is its host's and the port is open, "
                "or raise --rendezvous_timeout"
            )
        time.sleep(pause)
        pause = min(2 * pause, _LAST_RETRY)


def _call(launch: Launch, call: socket.socket, timeout: float) -> dict:
    """Says who this is and waits for the verdict; empty where no process 0 answers."""
    _say(
        call,
        {"process": launch.process_id, "of": launch.num_processes, "host": socket.gethostname()},
    )
    with call.makefile("rb") as stream:
        heard = _read_line(stream)
        if "heard" not in heard:
            return heard
        # Process 0 may have started later; its own limit ends the wait.
        call.settimeout(timeout + _VERDICT_GRACE)
        return _read_line(stream)


def _accept(launch: Launch, verdict: dict) -> list[str]:
    if "error" in verdict:
        raise RendezvousError(
            f"process {launch.process_id} of {launch.num_processes}: {verdict['error']}; see the "
            "logs of those processes, or raise --rendezvous_timeout"
        )
    return verdict["hosts"]


def _say(call: socket.socket, line: dict) -> None:
    try:
        call.sendall(json.dumps(line).encode() + b"\n")
    except OSError as error:  # it has gone; the roll, or jax's own limit, notices
        logging.warning("rendezvous: a process hung up: %s", error)


def _read_line(stream: BinaryIO) -> dict:
    """One line of JSON; empty where something else speaks, or nothing."""
    try:
        said = json.loads(stream.readline(10_000_000))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _hung_up(call: socket.socket) -> bool:
    call.setblocking(False)
    try:
        return call.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        call.settimeout(_CALL_SECONDS)


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:20])
    return shown + (f" and {len(numbers) - 20} more" if len(numbers) > 20 else "")

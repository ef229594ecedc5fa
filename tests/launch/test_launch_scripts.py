"""The scripts for clusters, with stand-ins for the cluster's own commands."""

import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SLURM, TPU = LAUNCH / "slurm.sh", LAUNCH / "tpu_vm.sh"


@pytest.fixture
def stand_in(tmp_path):
    """Makes a command that notes its arguments, one a line, and then runs a bash text."""
    (tmp_path / "bin").mkdir()

    def make(name, text):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >> "{tmp_path}/{name}.args"\n{text}\n')
        path.chmod(0o755)
        return lambda: (tmp_path / f"{name}.args").read_text().splitlines() if called(name) else []

    def called(name):
        return (tmp_path / f"{name}.args").exists()

    return make


def start(script, arguments, tmp_path, **environment):
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(script), *arguments],
        env={"PATH": path, "HOME": str(tmp_path), **environment},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("script", [SLURM, TPU], ids=str)
def test_syntax(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "NOT RUN on a real" in script.read_text()


@pytest.mark.parametrize(
    ("ends_with", "restarts", "code", "requeued"),
    [(0, 0, 0, False), (1, 0, 1, False), (143, 0, 143, True), (143, 50, 143, False)],
)
def test_slurm_puts_back_what_asks_for_it(stand_in, tmp_path, ends_with, restarts, code, requeued):
    srun, scontrol = stand_in("srun", f"exit {ends_with}"), stand_in("scontrol", "")
    command = ["python", "-m", "launch.train", "--workdir=a b"]
    process = start(SLURM, command, tmp_path, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restarts))
    log, _ = process.communicate(timeout=20)
    assert process.returncode == code, log
    assert srun() == ["--kill-on-bad-exit=1", *command]
    assert scontrol() == (["requeue", "7"] if requeued else [])


@pytest.mark.parametrize("ends_with", [143, 15])
def test_slurm_passes_the_signal_on_and_waits_for_the_save(stand_in, tmp_path, ends_with):
    saving = f"trap 'sleep 0.5; touch saved; exit {ends_with}' TERM; touch begun; sleep 20 & wait"
    stand_in("srun", saving)
    scontrol = stand_in("scontrol", "ls > seen")
    process = start(SLURM, ["python"], tmp_path, SLURM_JOB_ID="7")
    wait_for((tmp_path / "begun").exists)
    process.send_signal(signal.SIGTERM)
    # Not communicate(): the stand-in's sleep holds the pipe.
    assert process.wait(timeout=20) == 143
    assert scontrol() == ["requeue", "7"]
    assert "saved" in (tmp_path / "seen").read_text().split()  # not before it was whole


def test_slurm_without_a_command_says_how(tmp_path):
    process = start(SLURM, [], tmp_path)
    log, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "usage" in log


def on_a_host(tmp_path):
    """A gcloud that runs what it is to run over ssh here, below another home."""
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/activate").write_text("export ACTIVE=yes\n")
    (tmp_path / "maskflow_jax").mkdir()
    return 'for word; do case $word in --command=*) exec bash -c "${word#--command=}";; esac; done'


def test_tpu_run_starts_again_after_143_and_not_after_the_end(stand_in, tmp_path):
    gcloud = stand_in("gcloud", on_a_host(tmp_path))
    job = tmp_path / "maskflow_jax" / "job.sh"
    job.write_text('echo "$ACTIVE|$1" >> runs; [ $(wc -l < runs) = 2 ] || exit 143\n')
    process = start(TPU, ["run", "bash", "job.sh", "it's $HOME"], tmp_path, TPU="t", ZONE="z")
    process.wait(timeout=20)
    assert process.returncode == 0
    log = tmp_path / "maskflow_jax.log"
    wait_for(lambda: log.exists() and "exit code" in log.read_text())
    assert log.read_text() == "exit code 0\n"
    assert (job.parent / "runs").read_text() == "yes|it's $HOME\n" * 2
    expected = ["compute", "tpus", "tpu-vm", "ssh", "t", "--zone=z", "--worker=all"]
    assert gcloud()[: len(expected)] == expected


def test_tpu_stop_ends_the_program_and_its_loop(stand_in, tmp_path):
    stand_in("gcloud", on_a_host(tmp_path))
    folder = tmp_path / "maskflow_jax"
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143));"
    program += " open('runs', 'a').write('x'); time.sleep(20)"
    (folder / "launch").mkdir()
    (folder / "launch/__init__.py").touch()
    (folder / "launch/work.py").write_text(program)
    start(TPU, ["run", "python3", "-m", "launch.work"], tmp_path, TPU="t", ZONE="z").wait(20)
    wait_for((folder / "runs").exists)
    assert start(TPU, ["stop"], tmp_path, TPU="t", ZONE="z").wait(20) == 0
    wait_for(lambda: "exit code 143" in (tmp_path / "maskflow_jax.log").read_text())
    assert (folder / "runs").read_text() == "x"


def test_tpu_install_copies_the_checkout_without_history(stand_in, tmp_path):
    copy = f'[ "$4" = scp ] && cp "$5" "{tmp_path}/copied.tar.gz"; exit 0'
    gcloud = stand_in("gcloud", copy)
    process = start(TPU, ["install"], tmp_path, TPU="t", ZONE="z", PROJECT="p")
    log, _ = process.communicate(timeout=60)
    assert process.returncode == 0, log
    with tarfile.open(tmp_path / "copied.tar.gz") as archive:
        names = archive.getnames()
    assert "./launch/train.py" in names
    assert "./pyproject.toml" in names
    assert not [name for name in names if name.startswith("./.git/") or "__pycache__" in name]
    assert gcloud().count("--project=p") == 2
    assert gcloud().count("--worker=all") == 2
    assert any("pip install" in word for word in gcloud())


def test_tpu_asks_for_what_it_needs(tmp_path):
    process = start(TPU, ["log"], tmp_path)
    log, _ = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "name of the TPU VM" in log
    process = start(TPU, ["start"], tmp_path, TPU="t", ZONE="z")
    log, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "launch/tpu_vm.sh run" in log

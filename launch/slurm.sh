#!/bin/bash
#
# Trains or samples on a SLURM cluster, one process per node or per GPU.
#
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh \
#       python -m launch.train --config=configs/faceforensics.py --workdir=runs/ff
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh \
#       python -m launch.sample --workdir=runs/ff --length=160 --num_videos=2048
#   sbatch --array=0-7 --gpus-per-node=1 launch/slurm.sh \
#       python -m launch.jobs --workdir=runs/ff --jobs=jobs.jsonl --out=samples/jobs
#
# Submit it from the folder of the checkout, on a disk that all nodes share. Options of sbatch on
# the command line replace the #SBATCH lines below; partition and account are the cluster's.
#
# - One process per node drives all its GPUs (--ntasks-per-node=1, as below). One process per GPU:
#   --ntasks-per-node=8 --gpus-per-task=1. Each process reads its own share of the videos, so the
#   two see the same data in another order; the number of processes may not change while a run goes on.
# - Preemption and the time limit: SLURM sends TERM to this script 120 s before it ends the job
#   (--signal). The script passes it on to all processes, launch.train saves and exits with code 143
#   ("run me again"), and the job is put back in the queue under its own number; it goes on from
#   that checkpoint. Raise the 120 s if a checkpoint takes longer to write.
# - launch.sample and launch.jobs have nothing to save: at TERM they end, complete samples and
#   windows stay, and the job is put back in the queue likewise.
# - The tasks of an array (--array=0-7) are jobs of their own. launch.jobs divides the samples among
#   them; the one that finishes last writes the manifest.
# - Any other failure ends the job. Its log says why, as does the log of process 0.
#
# ENV=/path/to/venv names a virtual environment to activate; MAX_RESTARTS (50) ends a job that is
# put back for ever. The processes find each other by SLURM's variables (launch/distributed.py);
# see `--dry_run` of launch.train for what would run where.
#
# NOT RUN on a real cluster yet. Tested are the syntax, and the logic of signals and exit codes with
# a stand-in for srun and scontrol (tests/test_launch_scripts.py).

#SBATCH --job-name=maskflow
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
#SBATCH --signal=B:TERM@120

set -uo pipefail

if (($# == 0)); then
    echo "usage: sbatch [options] launch/slurm.sh COMMAND...; see the head of this file" >&2
    exit 2
fi

if [[ -n "${ENV:-}" ]]; then
    # shellcheck disable=SC1091  # the user's file
    source "$ENV/bin/activate" || exit 2
fi

# Newer srun does not take this over from sbatch, and would leave a task one core.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

readonly run_me_again=143 # 128 + SIGTERM; what launch.train ends with after it has saved
restarts="${SLURM_RESTART_COUNT:-0}"
echo "job ${SLURM_JOB_ID:-?}, start $((restarts + 1)), on ${SLURM_JOB_NODELIST:-?}: $*"

# In the background, so that bash can act on the signal while srun runs. --kill-on-bad-exit: a
# process that failed ends the others, which would wait for it. --no-kill is not given: a node that
# is lost ends the step.
srun --kill-on-bad-exit=1 "$@" &
step=$!

terminated=""
# shellcheck disable=SC2317  # the trap calls it
pass_on() {
    terminated=yes
    echo "TERM: passed on, waiting for the processes to save"
    kill -TERM "$step" 2>/dev/null
}
trap pass_on TERM

# `wait` returns early when a signal comes; srun is waited for until it has really ended.
while true; do
    wait "$step"
    status=$?
    kill -0 "$step" 2>/dev/null || break
done

if ((status == 0)); then
    echo "finished"
    exit 0
fi
if ((status == run_me_again)) || [[ -n "$terminated" ]]; then
    if ((restarts >= ${MAX_RESTARTS:-50})); then
        echo "exit code $status after $restarts restarts: not put back in the queue" >&2
        exit "$status"
    fi
    echo "exit code $status: back in the queue"
    # It replaces the job; should it be refused, the exit code still says "run me again".
    scontrol requeue "$SLURM_JOB_ID"
    exit "$run_me_again"
fi
echo "exit code $status: see above" >&2
exit "$status"

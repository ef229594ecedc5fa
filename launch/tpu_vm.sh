#!/bin/bash
#
# Installs the checkout on all hosts of a TPU VM (a slice of any size) and runs a command on them.
#
#   export TPU=my-slice ZONE=us-central2-b            # PROJECT=... if it is not gcloud's default
#   launch/tpu_vm.sh install                          # copies this checkout, installs jax for TPU
#   launch/tpu_vm.sh run python -m launch.train --config=configs/faceforensics.py \
#       --workdir=/mnt/shared/runs/ff --config.data.directory=/mnt/shared/data/faceforensics
#   launch/tpu_vm.sh run python -m launch.jobs --workdir=/mnt/shared/runs/ff \
#       --jobs=/mnt/shared/jobs.jsonl --out=/mnt/shared/samples   # divided among the hosts
#   launch/tpu_vm.sh log                              # the last lines of every host
#   launch/tpu_vm.sh stop                             # TERM: launch.train saves and ends
#
# - Every host runs the same command. The hosts find each other by the TPU's metadata
#   (launch/distributed.py); no address has to be given.
# - Dataset and workdir must lie on a disk that all hosts see under one path: a Filestore (NFS) or a
#   bucket mounted with gcsfuse. Paths like gs://... are not supported.
# - `run` starts the command in the background, so that it survives the connection, and once more
#   whenever it ends with code 143 ("run me again", after SIGTERM). After `stop` it is not started
#   again. A preempted TPU VM is gone with all that was on it: create the slice anew, `install`, and
#   `run` the same command; the run goes on from its last checkpoint on the shared disk.
# - What a host prints goes to ~/maskflow_jax.log there.
#
# Needs gcloud, logged in, on the machine that this is called from.
#
# NOT RUN on a real TPU VM yet. Tested are the syntax, and with a stand-in for gcloud which command
# goes to which hosts (tests/test_launch_scripts.py).

set -euo pipefail

usage() {
    sed -n '3,/^# Needs/p' "$0" | sed 's/^# \{0,1\}//' >&2
    exit 2
}

: "${TPU:?name of the TPU VM}" "${ZONE:?its zone}"
readonly folder=maskflow_jax # below the home of every host

where=(--zone="$ZONE")
if [[ -n "${PROJECT:-}" ]]; then
    where+=(--project="$PROJECT")
fi

# The same command on all hosts at once; fails if it fails on one.
on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$TPU" "${where[@]}" --worker=all --command="$1"
}

install() {
    local checkout archive
    checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    archive="$(mktemp -d)/$folder.tar.gz"
    # Runs, data and samples stay here; so does the history.
    tar -czf "$archive" -C "$checkout" --exclude=.git --exclude=__pycache__ \
        --exclude=./runs --exclude=./data --exclude=./samples --exclude=./demo_output .
    gcloud compute tpus tpu-vm scp "$archive" "$TPU:" "${where[@]}" --worker=all
    rm -r "$(dirname "$archive")"
    on_all_hosts "set -e
        rm -rf $folder && mkdir $folder && tar -xzf $folder.tar.gz -C $folder
        [ -d env ] || python3 -m venv env
        env/bin/pip install --quiet --upgrade pip
        cd $folder && ../env/bin/pip install --quiet -e '.[tpu]'
        ../env/bin/python -c 'import jax; print(jax.__version__)'"
}

run() {
    local command
    # Quoted once for the shell of the host, whatever is in it.
    printf -v command '%q ' "$@"
    on_all_hosts "set -e
        cd $folder
        . ../env/bin/activate
        rm -f ../stopped
        nohup bash -c $(printf '%q' "while true; do
            $command; code=\$?
            [ \$code = 143 ] && [ ! -e ../stopped ] || break
        done
        echo exit code \$code") > ../$folder.log 2>&1 < /dev/null &"
}

stop() {
    # To python itself; a note for the loop around it first. pkill finds what `run` has started by
    # the folder it runs in, and no other user's.
    on_all_hosts "touch stopped
        for process in \$(pgrep -u \$(id -u) -f -- '-m launch\\.'); do
            [ \"\$(readlink /proc/\$process/cwd)\" = \"\$HOME/$folder\" ] &&
                [ \"\$(cat /proc/\$process/comm)\" != bash ] && kill -TERM \$process
        done; true"
}

log() {
    on_all_hosts "hostname; tail -n ${LINES_SHOWN:-20} $folder.log"
}

case "${1:-}" in
install | stop | log)
    (($# == 1)) || usage
    "$1"
    ;;
run)
    shift
    (($# > 0)) || usage
    run "$@"
    ;;
*)
    usage
    ;;
esac

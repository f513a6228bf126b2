#!/usr/bin/env bash
# One run on all hosts of a TPU VM or pod slice:
#
#   experiments/launch/tpu_pod.sh create NAME v5litepod-16 us-west4-a     # makes the slice
#   experiments/launch/tpu_pod.sh setup  NAME us-west4-a                  # copies what is committed and installs it everywhere
#   experiments/launch/tpu_pod.sh run    NAME us-west4-a daag train bc /mnt/runs/maze --fit.directory /mnt/runs/bc
#   experiments/launch/tpu_pod.sh delete NAME us-west4-a
#
# Every host runs the same command; jax.distributed finds the others by itself.  The run's folder must be one that all
# hosts see and that renames folders at once (NFS, Filestore; not a bucket).  A preempted run exits with 75; make the slice
# again, set it up, and the same `run` goes on where it stopped.  RUNTIME names the VM's image, v2-alpha-tpuv5-lite by default.
set -euo pipefail
usage() { sed -n '2,11p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2; }
[ $# -ge 3 ] || usage
verb=$1 name=$2
shift 2
everywhere() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

case $verb in
  create)
    [ $# -eq 2 ] || usage
    gcloud compute tpus tpu-vm create "$name" --accelerator-type="$1" --zone="$2" --version="${RUNTIME:-v2-alpha-tpuv5-lite}" ;;
  setup)
    zone=$1
    root=$(git rev-parse --show-toplevel)
    archive=$(mktemp --suffix=.tar.gz)
    git -C "$root" archive --format=tar.gz -o "$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$name":daag_jax.tar.gz --zone="$zone" --worker=all
    rm "$archive"
    everywhere 'mkdir -p daag_jax && tar xzf daag_jax.tar.gz -C daag_jax && cd daag_jax &&
      python3 -m pip install -q --user uv && python3 -m uv venv -q --seed --python 3.12 .venv && .venv/bin/pip install -q -c constraints.txt -r requirements-tpu.txt' ;;
  run)
    zone=$1
    shift
    [ $# -ge 1 ] || usage
    everywhere "cd daag_jax && PATH=\$PWD/.venv/bin:\$PATH JAX_COMPILATION_CACHE_DIR=\$HOME/.cache/jax $(printf '%q ' "$@")" ;;
  delete)
    gcloud compute tpus tpu-vm delete "$name" --zone="$1" --quiet ;;
  *) usage ;;
esac

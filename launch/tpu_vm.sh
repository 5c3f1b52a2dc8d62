#!/usr/bin/env bash
# Trains on one TPU VM, which it makes, and removes afterwards.
#
#   ZONE=us-west4-a BUCKET=gs://my-bucket launch/tpu_vm.sh base-ssv2 --data.train ... --mesh.fsdp 8
#
# Everything after the script's name goes to `timesformer train`. Run it again to go on after an interruption. KEEP=1
# leaves the VM there.
set -euo pipefail

: "${ZONE:?the zone, such as us-west4-a}" "${BUCKET:?where the run is kept, such as gs://my-bucket}"
NAME=${NAME:-timesformer}
ACCELERATOR=${ACCELERATOR:-v5litepod-8}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
SOURCE=${SOURCE:-timesformer-jax[tpu]} # a requirement, or a URL of the source for pip

if ! gcloud compute tpus tpu-vm describe "$NAME" --zone "$ZONE" > /dev/null 2>&1; then
  gcloud compute tpus tpu-vm create "$NAME" --zone "$ZONE" --accelerator-type "$ACCELERATOR" --version "$RUNTIME"
fi
# Quoted once more for the shell at the other end.
arguments=$(printf '%q ' "$@" --output "/mnt/run/$NAME")
gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "
  set -eu
  command -v gcsfuse > /dev/null || { echo 'install gcsfuse on the VM first: cloud.google.com/storage/docs/gcsfuse-install' >&2; exit 2; }
  sudo mkdir -p /mnt/run && sudo chown \$(whoami) /mnt/run
  mountpoint -q /mnt/run || gcsfuse ${BUCKET#gs://} /mnt/run
  # The VM's own Python is older than 3.11.
  python3 -m pip install --quiet --user uv
  test -d ~/venv || ~/.local/bin/uv venv --quiet --python 3.12 ~/venv
  ~/.local/bin/uv pip install --quiet --python ~/venv/bin/python '$SOURCE'
  ~/venv/bin/timesformer train $arguments
"
[ -n "${KEEP:-}" ] || gcloud compute tpus tpu-vm delete "$NAME" --zone "$ZONE" --quiet

#!/usr/bin/env bash
# Asks for a TPU pod slice as a queued resource, waits for it, and trains on all of its hosts.
#
#   ZONE=us-west4-a BUCKET=gs://my-bucket ACCELERATOR=v5litepod-32 launch/tpu_queued.sh large-ssv2 --mesh.frames 8 ...
#
# Everything after the script's name goes to `timesformer train`, the same on each host. The hosts find each other. When
# the run is finished the queued resource is deleted.
set -euo pipefail

: "${ZONE:?the zone, such as us-west4-a}" "${BUCKET:?where the run is kept, such as gs://my-bucket}"
NAME=${NAME:-timesformer}
export ZONE BUCKET NAME ACCELERATOR=${ACCELERATOR:-v5litepod-32} RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}

if ! gcloud compute tpus queued-resources describe "$NAME" --zone "$ZONE" > /dev/null 2>&1; then
  gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" --zone "$ZONE" \
    --accelerator-type "$ACCELERATOR" --runtime-version "$RUNTIME" ${SPOT:+--spot}
fi
while true; do
  state=$(gcloud compute tpus queued-resources describe "$NAME" --zone "$ZONE" --format 'value(state.state)')
  case $state in
    ACTIVE) break ;;
    FAILED | SUSPENDED) echo "the queued resource $NAME is $state; delete it and ask again." >&2; exit 1 ;;
  esac
  echo "$(date +%T) the queued resource $NAME is $state" >&2
  sleep 30
done
KEEP=1 "$(dirname "$0")/tpu_vm.sh" "$@"
gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force --quiet

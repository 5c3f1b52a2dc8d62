#!/usr/bin/env bash
#SBATCH --job-name=timesformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --signal=TERM@120
# GPUs under Slurm, a process for each. Everything after the script's name goes to `timesformer train`:
#
#   sbatch launch/gpu_slurm.sh base-k400 --data.train k400/train.csv --output runs/k400 --mesh.fsdp 8
#
# SIGTERM comes two minutes before the time is up: a checkpoint is saved; submit the same again to go on. When a process
# dies the others end within a minute, and all of them are started again, up to three times.
set -uo pipefail

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it over by itself
command=(timesformer train "$@" --processes.cluster slurm)
for attempt in 1 2 3; do
  srun --kill-on-bad-exit=0 "${command[@]}" && exit 0
  code=$?
  [ "$code" -eq 2 ] && exit 2 # bad input: trying again won't help
  echo "attempt $attempt ended with $code" >&2
done
exit 1

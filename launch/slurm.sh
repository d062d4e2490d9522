#!/usr/bin/env bash
# Trains on a Slurm cluster, one process per host, all devices of a host in that process.
#   sbatch --nodes=4 launch/slurm.sh configs/dit_a800.py /shared/runs/dit [--config.key=value ...]
# JAX finds hosts and coordinator in Slurm's own variables. A run that is told to stop saves and exits with
# 75; it is then queued again and goes on. Not yet run on a real cluster.
#SBATCH --job-name=exp_jax
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
config=$1 workdir=$2
shift 2
srun --kill-on-bad-exit=1 python -m exp_jax.train --config="$config" --workdir="$workdir" "$@"
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

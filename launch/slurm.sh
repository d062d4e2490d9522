#!/usr/bin/env bash
# Trains on a Slurm cluster, one process per host, all devices of a host in that process.
#   sbatch --nodes=4 launch/slurm.sh configs/dit_a800.py:pod /shared/runs/dit [--config.key=value ...]
# JAX finds hosts and coordinator in Slurm's own variables. 300 s before the time limit, or when the job is preempted,
# every process gets SIGTERM, saves and ends with 75. After 75 (also the watchdog's), or the death of a process, the job
# is queued again and goes on from its last checkpoint; a lost node makes Slurm itself queue it again. 0, 2, 3 and 74
# (see exp_jax/train.py) are final. At most MAX_RESTARTS (default 100) rounds. Not yet run on a real cluster.
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
step='' told=''
trap 'told=1; [ -z "$step" ] || kill -TERM "$step" 2>/dev/null' TERM
srun --kill-on-bad-exit=1 --wait=120 python -m exp_jax.train --config="$config" --workdir="$workdir" "$@" &
step=$!
[ -z "$told" ] || kill -TERM "$step"
wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do            # the trap ended the first wait; the processes are still saving
  wait "$step"
  status=$?
done
case $status in
  0 | 2 | 3 | 74) exit "$status" ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_RESTARTS:-100}" ]; then
  echo "ended with status $status, queued again (restart $((${SLURM_RESTART_COUNT:-0} + 1)))"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

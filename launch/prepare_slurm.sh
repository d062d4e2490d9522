#!/usr/bin/env bash
# Prepares training shards on many hosts: each array task its share of the clips, then one task that makes the shards.
#   job=$(sbatch --parsable --array=0-31 launch/prepare_slurm.sh --clips CLIPS -o OUT --size 512 ...)
#   sbatch --dependency=afterany:"$job" launch/prepare_slurm.sh --clips CLIPS -o OUT --size 512 ...     # the same arguments
#   bash launch/prepare_slurm.sh --processes 8 --clips CLIPS -o OUT ...                          # this machine, both steps
# OUT must be seen by all hosts. A task that is killed, preempted or runs out of time is started again and goes on; clips that
# fail are named in OUT/report*.jsonl and do not stop the others (status 3 of exp_jax.prepare is success here).
# Not yet run on a real cluster.
#SBATCH --job-name=exp_jax_prepare
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
count=''
if [ "${1:-}" = --processes ]; then
  count=$2
  shift 2
fi
work() {  # runs exp_jax.prepare; some clips that fail are no failure of the task
  python -m exp_jax.prepare "$@"
  local status=$?
  [ "$status" -eq 3 ] && status=0
  return "$status"
}
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  work "$@" --shard "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))" --num_shards "$SLURM_ARRAY_TASK_COUNT"
  exit
fi
if [ -n "$count" ]; then
  pids=() status=0
  for ((i = 0; i < count; i++)); do
    work "$@" --shard "$i" --num_shards "$count" &
    pids+=($!)
  done
  trap 'for pid in "${pids[@]}"; do pkill -TERM -P "$pid" 2>/dev/null; done; exit 143' TERM INT
  for pid in "${pids[@]}"; do
    wait "$pid" || status=$?
  done
  [ "$status" -eq 0 ] || exit "$status"
fi
work "$@"

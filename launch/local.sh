#!/usr/bin/env bash
# Trains with N processes on this machine, for trying out what a cluster will do.
#   bash launch/local.sh 2 configs/dit_a800.py:smoke out/two [--config.key=value ...]
# Every process sees one CPU device; set JAX_PLATFORMS and device visibility yourself for anything else.
set -euo pipefail
count=$1 config=$2 workdir=$3
shift 3
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} EXP_JAX_PROCESSES=$count
export EXP_JAX_COORDINATOR=${EXP_JAX_COORDINATOR:-localhost:$((20000 + RANDOM % 10000))}
pids=()
for ((i = 0; i < count; i++)); do
  EXP_JAX_PROCESS=$i python -m exp_jax.train --config="$config" --workdir="$workdir" "$@" &
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit "$status"

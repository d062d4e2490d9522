#!/usr/bin/env bash
# Trains on a TPU slice of a cluster that xpk made: 64 chips of v5p by default.
#   CLUSTER=my-cluster IMAGE=gcr.io/me/exp_jax bash launch/tpu_xpk.sh /mnt/bucket/dit [--config.key=value ...]
# JAX finds the hosts of the slice itself. WORKDIR must be a path that all hosts see, such as a bucket
# that is mounted there (gs:// itself is refused). xpk starts
# the workload again after a failure; the run goes on from its last checkpoint. Not yet run on a real slice.
set -euo pipefail
workdir=$1
shift
tpu=${TPU_TYPE:-v5p-128}
xpk workload create --cluster="$CLUSTER" --workload="${WORKLOAD:-exp-jax-$(date +%m%d-%H%M)}" --tpu-type="$tpu" \
  --num-slices=1 --max-restarts=100 --docker-image="$IMAGE" --env=EXP_JAX_HOSTS=auto \
  --command="python -m exp_jax.train --config=configs/dit_a800.py:tpu --workdir=$workdir $*"

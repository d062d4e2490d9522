#!/usr/bin/env bash
# Fits all photographs and clips of a folder, shared out over processes; started again, it goes on.
#   bash launch/fit_subjects.sh CLIPS SUBJECTS [--processes N] [--config=... --config.key=value ...]    # this machine
#   sbatch --array=0-31 launch/fit_subjects.sh CLIPS SUBJECTS ...                          # one task a part
#SBATCH --job-name=exp_jax_fit
#SBATCH --cpus-per-task=4
#SBATCH --requeue
set -euo pipefail
clips=$1 subjects=$2
shift 2
count=1
if [ "${1:-}" = --processes ]; then
  count=$2
  shift 2
fi
inputs=()
while IFS= read -r -d '' path; do inputs+=(-i "$path"); done < <(
  find "$clips" -maxdepth 1 -type f \( -iname '*.mp4' -o -iname '*.mov' -o -iname '*.mkv' -o -iname '*.webm' \
    -o -iname '*.avi' -o -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o -iname '*.webp' \) -print0 | sort -z)
if [ ${#inputs[@]} -eq 0 ]; then
  echo "error: $clips holds no clips or photographs" >&2
  exit 2
fi
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  exec python -m exp_jax.fit "${inputs[@]}" -o "$subjects" \
    --part "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))/$SLURM_ARRAY_TASK_COUNT" "$@"
fi
pids=() status=0
for ((i = 0; i < count; i++)); do
  python -m exp_jax.fit "${inputs[@]}" -o "$subjects" --part "$i/$count" "$@" &
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit "$status"

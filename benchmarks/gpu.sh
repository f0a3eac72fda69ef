#!/usr/bin/env bash
# All that wants a GPU, in one command: the GPU tests, the training-speed table, then a run, begun or resumed.
#
#   bash benchmarks/gpu.sh MINUTES CONFIG.yaml RUN PHOTOS… [-- key=value …]
#
# The whole takes MINUTES at most: a measurement that fails or lasts too long is reported and does not cost the training
# its time; the run is then asked to stop (SIGTERM) and saves. The log, the speeds, and the run's newest checkpoint with
# its curves are copied to $OUT (default: gpu-out). PYTHON names the interpreter (default: .venv/bin/python).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-gpu-out}
[ $# -ge 4 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
end=$((SECONDS + $1 * 60)) config=$2 run=$3
shift 3
photos=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do photos+=("$1"); shift; done
[ $# -eq 0 ] || shift
mkdir -p "$out"
export OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1

step() { # what it is, its share of the time left in percent, the command
  echo "== $1"
  timeout -k 30 $(((end - SECONDS) * $2 / 100)) "${@:3}" || echo "== $1: exit code $?"
}

{
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true
  step "GPU tests" 25 "$python" -m pytest -q -m gpu
  step "training speed" 25 "$python" benchmarks/training_speed.py "$config" "${photos[@]}" --json "$out/speed.json"
  step "training" 97 "$python" train.py "$config" "data.root=[$(IFS=,; echo "${photos[*]}")]" "run.dir=$run" "$@"
} 2>&1 | tee "$out/gpu.log"
newest=$(ls "$run"/kimg-*.ckpt 2>/dev/null | tail -1)
[ -z "$newest" ] || cp "$newest" "$run/metrics.jsonl" "$run/config.yaml" "$out/"

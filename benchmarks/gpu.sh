#!/usr/bin/env bash
# All that wants a GPU, in one command; or an hour more for the flagship run, on whatever there is.
#
#   bash benchmarks/gpu.sh MINUTES CONFIG.yaml RUN PHOTOS… [-- key=value …]
#   bash benchmarks/gpu.sh flagship MINUTES [--cpu] [-- key=value …]
#
# The first runs the GPU tests and the training-speed table, then begins or resumes RUN. The second only resumes the
# flagship, $RUN (default: ../flagship/best), on the photos of UT-Zap50K in $DATA (default: ../shared/data), then
# exports and evaluates it; --cpu: on one thread, and no GPU is touched.
#
# The whole takes MINUTES at most, the evaluation apart: a measurement that fails or lasts too long is reported and does
# not cost the training its time; the run is then asked to stop (SIGTERM) and saves. Log, speeds, the extractor and the
# run's newest checkpoint with its curves are copied to $OUT (default: gpu-out), the checkpoint in parts of at most
# 15 MiB (cat kimg-*.ckpt.part-* makes it whole again). PYTHON names the interpreter (default: .venv/bin/python).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-gpu-out}
usage() { sed -n '4,5s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
flagship=
photos=() dev=
if [ "$1" = flagship ]; then
  flagship=1 data=${DATA:-../shared/data} run=${RUN:-../flagship/best} config=configs/best.yaml
  photos=("$data"/ut-zap50k-train-*.zip) dev=$data/ut-zap50k-dev.zip
  end=$((SECONDS + $2 * 60))
  shift 2
  if [ "${1:-}" = --cpu ]; then
    export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1
    shift
  fi
else
  [ $# -ge 4 ] || usage
  end=$((SECONDS + $1 * 60)) config=$2 run=$3
  shift 3
  while [ $# -gt 0 ] && [ "$1" != -- ]; do photos+=("$1"); shift; done
fi
[ $# -eq 0 ] || [ "$1" = -- ] || usage
[ $# -eq 0 ] || shift
mkdir -p "$out"
export OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # a lent machine's Python may not have this project installed

step() { # what it is, its share of the time left in percent, the command
  echo "== $1"
  timeout -k 30 $(((end - SECONDS) * $2 / 100)) "${@:3}"
  local code=$?
  case $code in
    0) ;;
    124) echo "== $1: its time is over" ;; # it was asked to stop, and a run saves then
    *) echo "== $1: exit code $code" ;;
  esac
}

{
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true
  if [ -z "$flagship" ]; then
    step "GPU tests" 25 "$python" -m pytest -q -m gpu
    step "training speed" 25 "$python" benchmarks/training_speed.py "$config" "${photos[@]}" --json "$out/speed.json"
  fi
  step "training" 97 "$python" train.py "$config" "data.root=[$(IFS=,; echo "${photos[*]}")]" "run.dir=$run" "$@"
  newest=$(LC_ALL=C ls "$run"/kimg-*.ckpt 2>/dev/null | tail -1)
  if [ -n "$newest" ]; then
    cp "$run/metrics.jsonl" "$run/config.yaml" "$out/"
    rm -f "$out"/kimg-*.part-*
    split -b 15M -d "$newest" "$out/$(basename "$newest").part-"
  fi
  if [ -n "$flagship" ] && [ -n "$newest" ]; then
    "$python" export.py "$newest" --output "$out/extractor"
    "$python" -m retrieval evaluate "$out/extractor" "$dev" --labels utzap50k-8
  fi
} 2>&1 | tee "$out/gpu.log"

#!/usr/bin/env bash
# All that a GPU is needed for, without Ray and Optuna, in one call of at most 8 minutes, with one table at the end.
#
#   benchmarks/gpu.sh            on a GPU: the tests marked gpu, training steps, updates of alpha, frozen models
#   benchmarks/gpu.sh --cpu      the same programs with small sizes on a CPU: shows that they run, and measures nothing
#                                that holds for a GPU
#
# PYTHON names the interpreter (python), which needs the packages of lfm_ray but for Ray and Optuna, and pytest. A part
# that takes longer than its share of the time is ended, and is so named in the table; the others go on.
# "time" and "memory" are ratios, to what the case names; of the tests, "time" says how many passed and were skipped.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
PYTHON="${PYTHON:-python}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
rows="$folder/rows.csv"
failed=0

part() { # NAME SECONDS COMMAND ...: runs a command for so long at most
  local name="$1" seconds="$2" code=0
  shift 2
  echo "== $name: at most $seconds s"
  timeout --kill-after=5 "$seconds" "$PYTHON" "$@" || code=$?
  if [ "$code" -ne 0 ]; then
    failed=1
    local why="failed"
    [ "$code" -eq 124 ] && why="cut short"
    "$PYTHON" benchmarks/rows.py "$rows" "$name" "ended with $code" "$why"
  fi
}

tests() { # SECONDS: the tests marked gpu, whose last line says how many passed
  local code=0
  echo "== tests: at most $1 s"
  timeout --kill-after=5 "$1" "$PYTHON" -m pytest -n 0 -m gpu tests/runtime/test_gpu.py | tee "$folder/tests.txt" || code=$?
  local last
  last="$(grep -oE '[0-9]+ (passed|failed|skipped|error)' "$folder/tests.txt" | paste -sd ' ')"
  [ "$code" -eq 0 ] || failed=1
  "$PYTHON" benchmarks/rows.py "$rows" tests "marked gpu, exit status $code" "${last:-none ran}"
}

gather=(--gather "$rows")
if [ "${1:-}" = "--cpu" ]; then
  echo "a dry run on a CPU with small sizes: no figure here is one of a GPU"
  export CUDA_VISIBLE_DEVICES=""
  tests 60
  small=(--device cpu --steps 3 --batch-size 2 --variants bare --equality-batch-size 0 "${gather[@]}")
  part step 90 benchmarks/step.py "${small[@]}"
  part step 90 benchmarks/step.py --encoders vit_ast "${small[@]}"
  part hyper-gradient 120 benchmarks/hypergradient.py --device cpu --encoder small --batch-size 8 --repeats 3 \
    --steps 1 --solvers identity cg "${gather[@]}"
  part embed 60 benchmarks/embedder.py --device cpu --samples 8 --size 64 "${gather[@]}"
else
  if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "there is no GPU that PyTorch can use; for a dry run on this machine's CPU: benchmarks/gpu.sh --cpu" >&2
    exit 1
  fi
  "$PYTHON" -c 'import torch; print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)'
  tests 90
  large=(--device cuda --steps 20 --seconds 15 --equality-batch-size 0 "${gather[@]}")
  part step 100 benchmarks/step.py --batch-size 64 "${large[@]}"
  part step 70 benchmarks/step.py --encoders vit_ast --batch-size 64 --variants bare "${large[@]}"
  part hyper-gradient 130 benchmarks/hypergradient.py --device cuda --encoder resnet18 --image 224 --bins 257 \
    --frames 299 --batch-size 64 --steps 1 3 "${gather[@]}"
  part embed 70 benchmarks/embedder.py --device cuda "${gather[@]}"
fi
echo
"$PYTHON" benchmarks/rows.py "$rows"
exit "$failed"

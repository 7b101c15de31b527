#!/usr/bin/env bash
# What a machine with an NVIDIA GPU can tell, in at most 8 minutes and without a network:
#
#     benchmarks/gpu.sh FOLDER
#
# FOLDER gets training.json, latency.json, memory.txt (the card), tests.xml and log.txt. Each part has a limit
# of its own and may fail alone; the exit code is the number of parts that did. PYTHON names another interpreter
# than python3.
set -uo pipefail
[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}

part() { # part NAME SECONDS COMMAND...
  local name=$1 limit=$2 code=0
  shift 2
  echo "== $name (at most $limit s): $*"
  timeout --kill-after 10 "$limit" "$@" || code=$?
  [ $code = 0 ] || echo "== $name failed with $code"
}

{
  part card 10 nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv
  part tests 60 "$python" -m pytest -q -m gpu --junitxml "$out/tests.xml" tests plugins
  part training 210 "$python" benchmarks/training_device.py --device cuda --limit 45 --json "$out/training.json"
  part latency 190 "$python" benchmarks/latency.py --sizes 10k,100k,1m --batches 1,64 --threads 1 \
    --engines eager-cuda,compile-cuda,onnx-cuda,tensorrt-fp32,tensorrt-fp16 --minutes 1 --samples 300 \
    --json "$out/latency.json"
} 2>&1 | tee "$out/log.txt"
exit "$(grep -c '^== .* failed with' "$out/log.txt")"

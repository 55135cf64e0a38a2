#!/usr/bin/env bash
# What capture and steering cost on one GPU, and what sharing contexts gains, in under eight minutes and without network: random
# bfloat16 weights of the shapes of OLMoE-1B-7B and Qwen3-30B-A3B, with fewer layers.
#
#   bash benchmarks/gpu.sh [FOLDER]      # JSON files with device and versions; default: gpu_figures
#
# PYTHON names the interpreter, else that of the path runs; DEVICE=cpu SHAPES=tiny tries the script on a CPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python} device=${DEVICE:-cuda} out=${1:-gpu_figures}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
mkdir -p "$out"
for shape in ${SHAPES:-OLMoE-1B-7B Qwen3-30B-A3B}; do
  "$python" "$here/random_models.py" "$shape" "$models/$shape" --dtype bfloat16 --device "$device"
  given=(--pretrained "$models/$shape" --device "$device" --dtype bfloat16)
  "$python" "$here/overhead.py" "${given[@]}" --batch_size 16 --documents 32 --length 256 --gen_tokens 32 --rounds 4 \
    --json "$out/overhead_$shape.json"
  "$python" "$here/endtoend.py" "${given[@]}" --batch_size 16 --limit 16 --rounds 2 --sides auto \
    --work zero five-same --json "$out/endtoend_$shape.json"
  "$python" "$here/endtoend.py" "${given[@]}" --batch_size 16 --limit 8 --rounds 1 --sides auto \
    --work cells --json "$out/cells_$shape.json"
done

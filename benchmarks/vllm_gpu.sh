#!/usr/bin/env bash
# Parity and throughput of vllm-moe on one GPU, in under ten minutes and without network (see vllm_gpu.py).
# Needs an environment with lm-eval-moe[vllm]; PYTHON names its interpreter, else that of the path runs.
set -euo pipefail
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL="${VLLM_LOGGING_LEVEL:-ERROR}"
# Where there is no GPU (--tiny).
export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}" VLLM_CPU_OMP_THREADS_BIND="${VLLM_CPU_OMP_THREADS_BIND:-nobind}"
exec "${PYTHON:-python}" "$(dirname "$0")/vllm_gpu.py" "$@"

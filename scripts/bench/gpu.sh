#!/usr/bin/env bash
# gpu.sh [FILE]: everything that needs a GPU, in under ten minutes; FILE is docs/figures/gpu.json.
#
# Exactness of 24 architectures in two types (padded lengths 33 and 65 among them), the GPU's values
# beside the CPU's on a model of 1B's shape, and recording over bare generation, in memory and on
# disk. PYTHON names the interpreter; TMPDIR the disk that is written to.
set -euo pipefail
cd "$(dirname "$0")/../.."
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec timeout 580 "${PYTHON:-.venv/bin/python}" scripts/bench/gpu.py --rounds 3 \
  --output "${1:-docs/figures/gpu.json}"

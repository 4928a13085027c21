#!/usr/bin/env bash
# torch 2.13.0: one seed gives other dropout masks and other weights in channels_last; weights are drawn contiguous here
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn import functional as F

print("version: torch", torch.__version__)
print("expected: a seed decides which elements drop out and what weights begin with, whatever their order in memory")
shape, formats = (8, 4, 3, 3), (torch.contiguous_format, torch.channels_last)
masks, weights = [], []
for order in formats:
    torch.manual_seed(0)
    masks.append(F.dropout(torch.ones(shape).to(memory_format=order), 0.5))
    torch.manual_seed(0)
    weights.append(torch.nn.init.normal_(torch.empty(shape, memory_format=order)))
same = {"masks": torch.equal(*masks), "weights": torch.equal(*weights)}
print("seen: the same", same)
raise SystemExit(0 if not any(same.values()) else 1)
PYTHON

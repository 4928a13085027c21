#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode counts no operations of attention on the CPU, and the right ones on the meta device
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

print("version: torch", torch.__version__)
heads, tokens, width = 4, 64, 32
closed_form = 2 * 2 * heads * tokens * tokens * width  # two products of matrices, two operations a multiply-add
print("expected: the same count on every device,", closed_form)
seen = {}
for device in ("cpu", "meta"):
    query = torch.randn(1, heads, tokens, width, device=device)
    with FlopCounterMode(display=False) as counter:
        scaled_dot_product_attention(query, query, query)
    seen[device] = counter.get_total_flops()
layer = torch.nn.MultiheadAttention(128, 4, batch_first=True).eval()
with torch.no_grad(), FlopCounterMode(display=False) as counter:
    layer(*3 * [torch.randn(1, tokens, 128)], need_weights=False)
seen["MultiheadAttention, eval, cpu"] = counter.get_total_flops()
print("seen:", seen)
raise SystemExit(0 if (seen["cpu"], seen["meta"], seen["MultiheadAttention, eval, cpu"]) == (0, closed_form, 0) else 1)
PYTHON

#!/usr/bin/env bash
# torch 2.13.0: within one autocast block a weight changed in place is still used as it was; weights change outside the blocks here
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch

print("version: torch", torch.__version__)
print("expected: after a weight is set to zero in place, the layer gives zeros")
layer = torch.nn.Linear(8, 8, bias=False)
images = torch.ones(1, 8)
with torch.autocast("cpu", dtype=torch.bfloat16):
    layer(images)
    with torch.no_grad():
        layer.weight.zero_()
    within = layer(images).abs().sum().item()
with torch.autocast("cpu", dtype=torch.bfloat16):
    after = layer(images).abs().sum().item()
print("seen: sum of the outputs", within, "in the same block,", after, "in the next one")
raise SystemExit(0 if within > 0 and after == 0 else 1)
PYTHON

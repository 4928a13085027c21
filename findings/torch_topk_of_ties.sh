#!/usr/bin/env bash
# torch 2.13.0: where logits tie, topk, which promises no order of them, does not begin with the class that argmax names; predictions here are the first largest
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch

print("version: torch", torch.__version__)
print("expected: the first of topk is argmax, which is documented to be the first of equal values")
steps = torch.tensor([0.5, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0, 1.0, 0.0, 1.0])  # an int8 net has 256 different logits at most
seen = {"argmax": int(steps.argmax()), "max": int(steps.max(0).indices), "topk(1)": int(steps.topk(1).indices)}
seen["topk(3)"] = steps.topk(3).indices.tolist()
print("seen:", seen)
raise SystemExit(0 if seen["argmax"] == seen["max"] == 1 and seen["topk(1)"] != 1 and 1 not in seen["topk(3)"][:1] else 1)
PYTHON

#!/usr/bin/env bash
# torch 2.13.0: with class weights, one-hot targets give another loss than the class numbers they stand for
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import cross_entropy, one_hot

print("version: torch", torch.__version__)
print("expected: a target is the same as a class number and as a distribution that is all on this class, as before Mixup and after")
labels, weights = torch.tensor([0, 1, 1, 2]), torch.tensor([1.0, 2.0, 5.0])
logits = torch.zeros(4, 3)
soft = one_hot(labels).float()
plain = [cross_entropy(logits, target).item() for target in (labels, soft)]
weighted = [cross_entropy(logits, target, weights).item() for target in (labels, soft)]
print("seen: without weights", plain, "with weights", weighted, "ratio", weighted[1] / weighted[0])
mean_weight = weights[labels].mean().item()  # class numbers are divided by the sum of their weights, distributions by their count
raise SystemExit(0 if abs(plain[0] - plain[1]) < 1e-6 and abs(weighted[1] / weighted[0] - mean_weight) < 1e-5 else 1)
PYTHON

#!/usr/bin/env bash
# scikit-learn 1.9.1: log_loss depends on the dtype where a probability is 0; metrics/classification.py takes it from logits
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.metrics import log_loss

print("version: scikit-learn", sklearn.__version__)
print("expected: the same predictions have the same loss in float32 and in float64")
probabilities = np.eye(3)[[0, 1, 2, 0]]  # sure of itself, as a trained net's softmax often is in float32
labels = [0, 1, 2, 1]  # and wrong once
seen = {name: round(log_loss(labels, probabilities.astype(name)), 3) for name in ("float64", "float32")}
print("seen:", seen)
raise SystemExit(0 if seen["float64"] > 2 * seen["float32"] else 1)
PYTHON

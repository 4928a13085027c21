#!/usr/bin/env bash
# torchmetrics 1.9.0: BinaryAUROC puts a batch that reaches beyond 0 to 1 through a sigmoid in float32: distances all become 1, so that every AUROC is 0.5, and of an entropy some batches are changed and others are not
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC

rng = np.random.default_rng(0)
strange = np.arange(4000) >= 2000  # images of other classes come after those of the net's own, as from two loaders
features = rng.normal(size=(4000, 64)) * np.where(strange, 1.2, 1.0)[:, None]
logits = rng.normal(size=(4000, 10))
logits[np.arange(4000), rng.integers(0, 10, 4000)] += np.where(strange, 4, 7)
probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
scores = {
    "squared distance of 64 features": (features**2).sum(1),
    "entropy in nats": -(probabilities * np.log(probabilities)).sum(1),
}


def auroc(values, size):
    metric = BinaryAUROC()
    for start in range(0, len(values), size):
        batch = slice(start, start + size)
        metric.update(torch.tensor(values[batch]), torch.tensor(strange[batch]).long())
    return round(float(metric.compute()), 3)


print("version:", {name: version(name) for name in ("torchmetrics", "torch", "scikit-learn")})
print("expected: the order of scores alone, which a sigmoid keeps, in batches of any size")
seen = {}
for name, values in scores.items():
    exact = round(float(roc_auc_score(strange, values)), 3)
    seen[name] = exact, *(auroc(values.astype(dtype), 64) for dtype in (np.float32, np.float64)), auroc(values.astype(np.float32), 4000)
    print(f"seen: {name}, {values.min():.3f} to {values.max():.1f}: sklearn {exact}; in batches of 64 {seen[name][1]}", end=" ")
    print(f"(as float64 {seen[name][2]}), in one of 4000 {seen[name][3]}")
distance, entropy = seen.values()
as_described = distance[1] == distance[3] == 0.5 < distance[0] - 0.4 and entropy[0] == entropy[3] < entropy[1] - 0.01
raise SystemExit(0 if as_described else 1)
PYTHON

#!/usr/bin/env bash
# doubtlab 0.2.4 (cleanlab 2.9.0): CleanlabReason takes cleanlab's order of doubtful labels and drops it: min_doubt, documented as there for sorting, changes nothing, every doubt is 1, and the first 50 of 100 to look at are any 50; metrics/confident_learning.py sorts by margin
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet doubtlab==0.2.4 cleanlab==2.9.0 numpy==2.4.6 scikit-learn==1.9.1 || exit 77
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from cleanlab.filter import find_label_issues
from doubtlab.ensemble import DoubtEnsemble
from doubtlab.reason import CleanlabReason

CLASSES, IMAGES = 5, 1000
rng = np.random.default_rng(0)
truth = rng.integers(0, CLASSES, IMAGES)
logits = rng.normal(0, 1, (IMAGES, CLASSES)) + 4 * np.eye(CLASSES)[truth]
shares = np.exp(logits)
shares /= shares.sum(1, keepdims=True)
labels = truth.copy()
labels[:: IMAGES // 100] = (labels[:: IMAGES // 100] + 1) % CLASSES  # a hundred wrong labels


class Net:
    """What the reason asks of a model."""

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        return shares[images]


print("version:", {name: version(name) for name in ("doubtlab", "cleanlab", "numpy")})
ranked = find_label_issues(labels, shares, return_indices_ranked_by="normalized_margin")
print(f"expected: {len(ranked)} doubts from 1 down to min_doubt, in cleanlab's order")
seen = {}
for least in (0.5, 0.1):
    reason = CleanlabReason(Net(), min_doubt=least)
    doubts = reason(np.arange(IMAGES), labels)
    order = DoubtEnsemble(cleanlab=reason).get_indices(np.arange(IMAGES), labels)
    shared = len(set(order[: len(ranked) // 2].tolist()) & set(ranked[: len(ranked) // 2].tolist()))
    seen[least] = sorted(set(doubts.tolist())), order.tolist(), shared
    same = sorted(order.tolist()) == sorted(ranked.tolist())
    print(f"seen: min_doubt {least}: doubts {seen[least][0]}, the same images: {same};", end=" ")
    print(f"of the first half {shared} of {len(ranked) // 2}")
alike = seen[0.5] == seen[0.1] and seen[0.5][0] == [0, 1]
raise SystemExit(0 if same and alike and seen[0.5][2] < 0.8 * (len(ranked) // 2) else 1)
PYTHON

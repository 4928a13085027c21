#!/usr/bin/env bash
# permetrics 2.1.0: where the scores of all other classes are below 0, hinge_loss compares the right class with a score of 0 that no class has: a net that is right by a margin of 4 has a loss of 0.8 instead of 0, and of 0 with 10 added to all its scores; met by nobody here
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet permetrics==2.1.0 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1 || exit 77
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from permetrics import ClassificationMetric
from sklearn.metrics import hinge_loss

labels = np.array([0, 1, 2, 1, 0])
scores = np.full((5, 3), -4.0)
scores[np.arange(5), labels] = [0.1, 0.2, 0.3, 0.2, 0.2]  # the right class leads by 4.1 to 4.3
print("version:", {name: version(name) for name in ("permetrics", "numpy", "scikit-learn")})
print("expected: mean of max(0, 1 - lead over the best other class): 0, whatever is added to all scores")
seen = {}
for added in (0, 4, 10):
    moved = scores + added
    rest = np.where(np.eye(3, dtype=bool)[labels], -np.inf, moved).max(1)
    by_hand = np.maximum(0, 1 - (moved[np.arange(5), labels] - rest)).mean()
    seen[added] = ClassificationMetric(labels, moved).hinge_loss(), float(hinge_loss(labels, moved)), float(by_hand)
    print(f"scores + {added}: permetrics {seen[added][0]:.3f}, scikit-learn {seen[added][1]:.3f}, by hand {seen[added][2]:.3f}")
right = all(sklearn == by_hand == 0 for _, sklearn, by_hand in seen.values())
raise SystemExit(0 if right and abs(seen[0][0] - 0.8) < 1e-9 and seen[4][0] == seen[10][0] == 0 else 1)
PYTHON

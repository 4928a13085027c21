#!/usr/bin/env bash
# cleanlab 2.9.0: find_label_issues(filter_by="confident_learning") departs twice from the rule of that name as published; metrics/confident_learning.py follows the paper
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cleanlab==2.9.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import cleanlab
import numpy as np
from cleanlab.count import compute_confident_joint
from cleanlab.filter import find_label_issues

print("version: cleanlab", cleanlab.__version__)
print("expected: the joint counts an example under the most probable of the classes whose threshold it reaches, and what stands")
print("          off the diagonal is a label issue (Northcutt, Jiang, Chuang 2021, equations 1 and 2)")

# Thresholds, the mean share of a class over what is labelled so: 0.7, 0.35, 0.4. Example 0 reaches that of class 1 alone.
labels = np.array([0, 0, 1, 1, 2])
shares = np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.3, 0.4, 0.3], [0.4, 0.3, 0.3], [0.3, 0.3, 0.4]])
_, places = compute_confident_joint(labels, shares, calibrate=False, return_indices_of_off_diagonals=True)
issues = np.flatnonzero(find_label_issues(labels, shares, filter_by="confident_learning", n_jobs=1)).tolist()
first = [int(place) for place in places] == [0] and issues == []
print("seen: example 0, labelled 0, is off the diagonal:", [int(place) for place in places], "and no issue:", issues)

# Thresholds 0.9, 0.3, 0.25. Example 0, labelled 2, reaches those of classes 1 and 2.
labels = np.array([2, 0, 1, 2])
shares = np.array([[0.45, 0.30, 0.25], [0.90, 0.05, 0.05], [0.60, 0.30, 0.10], [0.75, 0.00, 0.25]])
joint = compute_confident_joint(labels, shares, calibrate=False)
second = (int(joint[2, 0]), int(joint[2, 1])) == (1, 0)
print("seen: example 0, labelled 2, is counted under class 0, whose threshold it does not reach, not under 1:", joint.tolist())
raise SystemExit(0 if first and second else 1)
PYTHON

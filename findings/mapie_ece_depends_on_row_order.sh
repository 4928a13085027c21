#!/usr/bin/env bash
# mapie 1.6.0: expected_calibration_error(split_strategy="array split") does not sort before it splits, so that in any order but that of
# confidence the error all but disappears; and "uniform" and "quantile" make one bin fewer than num_bins says
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mapie==1.6.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from mapie.metrics.calibration import expected_calibration_error

COUNT = 10_000
rng = np.random.default_rng(0)
confidence = rng.uniform(0.1, 1.0, COUNT)
chance = np.where(confidence > 0.55, confidence - 0.2, confidence + 0.2)  # off by 0.2 everywhere, and by nothing on average
right = (rng.random(COUNT) < chance).astype(int)


def own(bins):
    """The error over given bins, a number for each image."""
    gaps = [abs(right[bins == one].mean() - confidence[bins == one].mean()) * np.mean(bins == one) for one in np.unique(bins)]
    return round(float(sum(gaps)), 3)


def theirs(order, strategy, bins):
    return round(expected_calibration_error(right[order], confidence[order], num_bins=bins, split_strategy=strategy), 3)


by_file, by_confidence = np.arange(COUNT), np.argsort(confidence)
equal_counts = np.empty(COUNT, dtype=int)
equal_counts[by_confidence] = np.arange(COUNT) * 10 // COUNT
uniform = {bins: own(np.digitize(confidence, np.linspace(0, 1, bins + 1), right=True)) for bins in (1, 2)}
seen = {
    "array split, rows as in the file": theirs(by_file, "array split", 10),
    "array split, the same rows sorted by confidence": theirs(by_confidence, "array split", 10),
    "uniform, num_bins=2": theirs(by_file, "uniform", 2),
    "quantile, num_bins=2": theirs(by_file, "quantile", 2),
}
print("version: mapie", version("mapie"))
print(f"expected: {own(equal_counts)} of ten bins of equal counts in any order of the rows; {uniform[2]} of two bins, where one bin has {uniform[1]}")
for name, value in seen.items():
    print(f"seen: {name}: {value}")
file, ordered, two, halves = seen.values()
as_described = abs(ordered - own(equal_counts)) < 0.005 and file < 0.03 and two == uniform[1] < 0.03 < 0.15 < uniform[2] and halves < 0.03
raise SystemExit(0 if as_described else 1)
PYTHON

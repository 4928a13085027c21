#!/usr/bin/env bash
# uncertainty-calibration 0.1.4: the interval of a calibration error takes alpha, documented as a share and 0.1 by default, for percent, so that
# it is meant to hold 90 % of the bootstrap's results and holds 99.9 %: it reaches from the smallest of 100 to the largest
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uncertainty-calibration==0.1.4 numpy==2.4.6 scikit-learn==1.9.1 setuptools==80.9.0 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import calibration
import numpy as np

IMAGES, CLASSES, RUNS = 500, 10, 8
generator = np.random.default_rng(0)


settings = {"default": {}, "alpha=0.1": {"alpha": 0.1}, "alpha=10": {"alpha": 10}, "alpha=0.000001": {"alpha": 1e-6}}
width_of = {name: [] for name in settings}
for run in range(RUNS):
    logits = 3 * generator.normal(size=(IMAGES, CLASSES))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) > generator.random((IMAGES, 1))).argmax(1)
    for name, alpha in settings.items():
        np.random.seed(run)  # the same 100 samples for each alpha
        lower, _, upper = calibration.get_top_calibration_error_uncertainties(probabilities, labels, p=1, **alpha)
        width_of[name].append(upper - lower)
mean = {name: float(np.mean(values)) for name, values in width_of.items()}
print("version:", {name: version(name) for name in ("uncertainty-calibration", "numpy")})
print("expected: alpha=0.1, for 90 %, is clearly narrower than the smallest alpha, whose interval holds all samples")
print("seen, of the mean width:", {name: round(value, 4) for name, value in mean.items()})
whole = mean["alpha=0.000001"]
described = mean["default"] == mean["alpha=0.1"] and mean["alpha=0.1"] > 0.97 * whole and mean["alpha=10"] < 0.8 * whole
raise SystemExit(0 if described else 1)
PYTHON

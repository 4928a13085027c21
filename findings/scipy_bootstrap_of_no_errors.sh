#!/usr/bin/env bash
# scipy 1.17.1: the default bootstrap interval of an accuracy without errors is nan; intervals here are Wilson's
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import scipy
from scipy.stats import binomtest, bootstrap

print("version: scipy", scipy.__version__)
print("expected: 100 images of 100 right leave room for a lower accuracy: an interval from about 0.96 to 1, as Wilson's")
right = np.ones(100)
seen = {method: tuple(map(float, bootstrap((right,), np.mean, method=method, rng=0).confidence_interval))
        for method in ("BCa", "percentile", "basic")}
wilson = binomtest(100, 100).proportion_ci(method="wilson")
print("seen:", seen, "Wilson's:", (round(wilson.low, 4), float(wilson.high)))
wide = seen["percentile"] == seen["basic"] == (1.0, 1.0)
raise SystemExit(0 if np.isnan(seen["BCa"]).all() and wide and 0.96 < wilson.low < 0.97 else 1)
PYTHON

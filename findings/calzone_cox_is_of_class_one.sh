#!/usr/bin/env bash
# calzone-tool 0.1.0: whichever class is asked for, the Cox slope and intercept, which say how far its probabilities are off, are those of class 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet calzone-tool==0.1.0 numpy==2.4.6 scipy==1.17.1 statsmodels==0.15.0 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import statsmodels.api as sm
from calzone.metrics import CalibrationMetrics

IMAGES, CLASSES, OFF = 10000, 10, 3
generator = np.random.default_rng(0)
logits = 2 * generator.normal(size=(IMAGES, CLASSES))
true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
labels = (true.cumsum(1) > generator.random((IMAGES, 1))).argmax(1)
told = true.copy()
told[:, OFF] **= 2  # what the net says about class 3 alone is far too low; the rest is what is left
others = np.arange(CLASSES) != OFF
told[:, others] *= (1 - told[:, [OFF]]) / told[:, others].sum(1, keepdims=True)


def by_hand(number: int) -> list:
    """Slope and intercept of the labels' own logistic regression on what the net says of the class."""
    odds = np.log(told[:, number] / (1 - told[:, number]))
    intercept, slope = sm.Logit((labels == number).astype(int), sm.add_constant(odds)).fit(disp=0).params
    return [round(float(slope), 2), round(float(intercept), 2)]


def calzone(number: int) -> dict:
    return CalibrationMetrics(class_to_calculate=number).calculate_metrics(labels, told, ["ECE-H", "COX"])


print("version:", {name: version(name) for name in ("calzone-tool", "statsmodels", "numpy")})
seen, expected = {}, {}
for number in (1, OFF, 8):
    values = calzone(number)
    seen[number] = [round(float(values[f"COX {name}"]), 2) for name in ("coef", "intercept")]
    expected[number] = by_hand(number)
    print(f"class {number}: ECE {values['ECE-H']:.3f}; expected of slope and intercept: {expected[number]}, seen: {seen[number]}")
same = seen[1] == seen[OFF] == seen[8] == expected[1]
raise SystemExit(0 if same and expected[OFF][0] < 0.7 < 0.9 < expected[1][0] else 1)
PYTHON

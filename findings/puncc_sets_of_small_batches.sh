#!/usr/bin/env bash
# puncc 0.9.3: a set of APS or RAPS has no more classes than its batch has images, so that sets meant to cover 95 % cover far less where images are predicted a few at a time
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet puncc==0.9.3 numpy==1.26.4 scikit-learn==1.6.1 pandas==2.3.3 matplotlib==3.10.8 scipy==1.15.3 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from deel.puncc.api.prediction import BasePredictor
from deel.puncc.classification import APS, LAC, RAPS
from deel.puncc.metrics import classification_mean_coverage, classification_mean_size

generator = np.random.default_rng(0)


def probabilities(count, classes=100):
    """Of a net that is right in about half of the images."""
    labels = generator.integers(classes, size=count)
    logits = generator.normal(size=(count, classes))
    logits[np.arange(count), labels] += 2
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


class Net:
    def predict(self, inputs):
        return inputs


def measured(method, batch):
    parts = [method.predict(images[start : start + batch], alpha=0.05)[1] for start in range(0, len(images), batch)]
    sets = [one for part in parts for one in part]
    return round(classification_mean_coverage(labels, sets), 3), round(float(classification_mean_size(sets)), 1)


calibration, calibration_labels = probabilities(2000)
images, labels = probabilities(4096)
predictor = BasePredictor(Net(), is_trained=True)
print("version: puncc", version("puncc"))
print("expected: of 100 classes, sets that cover 95 % of the labels, in batches of whatever size")
seen = {}
for name, method in {
    "LAC": LAC(predictor, train=False),
    "APS": APS(predictor, train=False, rand=False),
    "RAPS": RAPS(predictor, train=False, rand=False, lambd=0.001, k_reg=5),
}.items():
    method.fit(X_calib=calibration, y_calib=calibration_labels)
    seen[name] = {batch: measured(method, batch) for batch in (4096, 128, 32, 8, 2)}
    print("seen: coverage and mean size of the sets by images in a batch:", name, seen[name])
steady = all(seen[name][128] == seen[name][4096] and seen[name][128][0] > 0.93 for name in seen)
steady = steady and len(set(seen["LAC"].values())) == 1
raise SystemExit(0 if steady and all(seen[name][8][0] < 0.8 and seen[name][8][1] <= 8 for name in ("APS", "RAPS")) else 1)
PYTHON

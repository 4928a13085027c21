#!/usr/bin/env bash
# torchmetrics 1.9.0: MulticlassAccuracy, which means over classes by default, counts a class without images as 0 once it is predicted, so that the accuracy of a batch of CIFAR-100 is far below what all batches together give
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.classification import MulticlassAccuracy

rng = np.random.default_rng(0)
labels = rng.permutation(np.repeat(np.arange(100), 100))  # as many of each class as CIFAR-100's test images
predicted = np.where(rng.random(len(labels)) < 0.7, labels, rng.integers(0, 100, len(labels)))


def tensors(chosen):
    return torch.tensor(predicted[chosen]), torch.tensor(labels[chosen])


def own(chosen):
    """The mean over those classes that have images here, by sklearn."""
    return float(balanced_accuracy_score(labels[chosen], predicted[chosen]))


metric = MulticlassAccuracy(num_classes=100)
batches = np.split(np.arange(len(labels)), range(100, len(labels), 100))
steps = [float(metric(*tensors(batch))) for batch in batches]  # what a step logs
half = np.flatnonzero(labels < 50)
seen = {
    "all images at the end": (float(metric.compute()), own(slice(None))),
    "mean of what batches of 100 say": (float(np.mean(steps)), float(np.mean([own(batch) for batch in batches]))),
    "images of 50 classes": (float(MulticlassAccuracy(num_classes=100)(*tensors(half))), own(half)),
}
print("version:", {name: version(name) for name in ("torchmetrics", "torch", "scikit-learn")})
print("expected: about 0.70 everywhere, as a class without images has no accuracy and takes no part in the mean")
for name, (theirs, others) in seen.items():
    print(f"seen: {name}: {theirs:.3f} (sklearn's balanced accuracy: {others:.3f})")
(end, end_own), (step, step_own), (part, part_own) = seen.values()
as_described = abs(end - end_own) < 1e-4 and step < step_own - 0.05 and part < 0.6 * part_own
raise SystemExit(0 if as_described else 1)
PYTHON

#!/usr/bin/env bash
# venn-abers 1.5.4: a class that no image of the calibration set has loses its column, so that all classes after it are called by the number before theirs: 97 % right become a third; met by nobody here
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet venn-abers==1.5.4 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1 pandas==3.1.1 || exit 77
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from venn_abers import VennAbersCalibrator

CLASSES = 4


def draw(images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, CLASSES, images)
    logits = rng.normal(0, 1, (images, CLASSES)) + 3 * np.eye(CLASSES)[labels]
    shares = np.exp(logits)
    return shares / shares.sum(1, keepdims=True), labels


rng = np.random.default_rng(0)
(val, val_labels), (test, test_labels) = draw(400, rng), draw(1000, rng)
print("version:", {name: version(name) for name in ("venn-abers", "numpy", "scikit-learn")})
print(f"expected: ({len(test)}, {CLASSES}) probabilities, as documented (n_samples, n_classes), right where the net's are")
print(f"accuracy of the net: {(test.argmax(1) == test_labels).mean():.3f}")
seen = {}
for kind in ("one_vs_one", "one_vs_all"):
    for absent in (None, 1):
        kept = val_labels != absent
        given = VennAbersCalibrator().predict_proba(p_cal=val[kept], y_cal=val_labels[kept], p_test=test, va_type=kind)
        right = given.argmax(1) == test_labels
        seen[kind, absent] = given.shape, right.mean(), right[test_labels != 1].mean()
        print(
            f"seen: {kind}, {'all classes' if absent is None else f'class {absent} not'} among the images to calibrate by: "
            f"{given.shape}, rows sum to {given.sum(1).mean():.3f}, accuracy {right.mean():.3f}, "
            f"of images of the other classes {seen[kind, absent][2]:.3f}"
        )
whole = all(seen[kind, None][0][1] == 4 and seen[kind, None][1] > 0.95 for kind in ("one_vs_one", "one_vs_all"))
shifted = all(seen[kind, 1][0][1] == 3 and seen[kind, 1][2] < 0.5 for kind in ("one_vs_one", "one_vs_all"))
raise SystemExit(0 if whole and shifted else 1)
PYTHON

#!/usr/bin/env bash
# confidenceinterval 1.0.5: the 95 % interval of a macro F1 holds the true one in less than half of 100-class test sets, as it is a quarter as wide as it should be, and is four to ten times too wide for 2 or 10 classes that are nearly all right; those of macro recall and precision are half as wide as they should be at 100 classes; intervals here are of accuracy, Wilson's (metrics/classification.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet confidenceinterval==1.0.5 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1 pandas==3.1.1 || exit 77
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import confidenceinterval as intervals
import numpy as np

SCORES = {"F1": intervals.f1_score, "recall": intervals.recall_score, "precision": intervals.precision_score}


def draw(images: int, classes: int, right: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and answers that are right as often as said and otherwise any other class."""
    labels = rng.permutation(np.arange(images) % classes)
    wrong = (labels + rng.integers(1, classes, images)) % classes
    return labels, np.where(rng.random(images) < right, labels, wrong)


def macro(labels: np.ndarray, answers: np.ndarray, classes: int) -> dict[str, float]:
    hits = np.bincount(labels[labels == answers], minlength=classes)
    of_label, of_answer = np.bincount(labels, minlength=classes), np.bincount(answers, minlength=classes)
    shares = {"F1": 2 * hits / (of_label + of_answer), "recall": hits / of_label, "precision": hits / of_answer}
    return {name: float(share.mean()) for name, share in shares.items()}


print("version:", {name: version(name) for name in ("confidenceinterval", "numpy", "scikit-learn")})
print("expected: half a 95 % interval is 1.96 times what the score varies by between test sets, and 95 % hold the truth")
ratio, covered = {}, {}
for images, classes, right in ((1000, 2, 0.995), (1000, 10, 0.995), (1000, 10, 0.9), (10000, 100, 0.7)):
    rng = np.random.default_rng(0)
    runs = [draw(images, classes, right, rng) for _ in range(200)]
    scores = [macro(*run, classes) for run in runs]
    for name, score in SCORES.items():
        values = np.array([one[name] for one in scores])
        count = 40 if name == "F1" or classes < 100 else 2  # the others take a matrix of 10,000 by 10,000
        given = [score(*(part.tolist() for part in run), average="macro") for run in runs[:count]]
        assert all(abs(point - value) < 1e-5 for (point, _), value in zip(given, values))  # the score itself is right
        half = np.mean([(high - low) / 2 for _, (low, high) in given])
        ratio[classes, right, name] = half / (1.96 * values.std())
        covered[classes, right, name] = np.mean([low <= values.mean() <= high for _, (low, high) in given])
        print(
            f"{classes:3} classes, {right:.1%} right: macro {name:9} varies by {values.std():.5f}, half of one {half:.5f},",
            f"{ratio[classes, right, name]:.2f} times expected; {covered[classes, right, name]:.0%} of {count} hold the mean",
        )
wide = ratio[2, 0.995, "F1"] > 6 and ratio[10, 0.995, "F1"] > 3
narrow = ratio[100, 0.7, "F1"] < 0.35 and covered[100, 0.7, "F1"] < 0.7
others = all(ratio[100, 0.7, name] < 0.7 for name in ("recall", "precision"))
raise SystemExit(0 if wide and narrow and others else 1)
PYTHON

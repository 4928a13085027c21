#!/usr/bin/env bash
# scikit-learn 1.9.1: CalibratedClassifierCV(method="temperature") takes labels that are integers for numbers of columns, so that labels 1 to 10, or classes 3 and 5 alone, get the temperature of a net that knows next to nothing
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

pictures, digits = load_digits(return_X_y=True)


def log_loss(kept: list[int], names: np.ndarray) -> float:
    """Calibrated on one half of these digits, measured on the other; `names` are what the digits 0 to 9 are called."""
    chosen = np.isin(digits, kept)
    x, y = pictures[chosen], names[digits[chosen]]
    half = len(y) // 2
    net = CalibratedClassifierCV(GaussianNB(var_smoothing=0.01), method="temperature", cv=2).fit(x[:half], y[:half])
    columns = np.searchsorted(net.classes_, y[half:])
    return round(float(-np.log(net.predict_proba(x[half:])[np.arange(len(columns)), columns]).mean()), 3)


everything = list(range(10))
seen = {
    "0 to 9": log_loss(everything, np.arange(10)),
    "1 to 10": log_loss(everything, np.arange(1, 11)),
    "'a' to 'j'": log_loss(everything, np.array(list("abcdefghij"))),
    "3 and 5": log_loss([3, 5], np.arange(10)),
    "'d' and 'f'": log_loss([3, 5], np.array(list("abcdefghij"))),
}
print("version:", {name: version(name) for name in ("scikit-learn", "numpy", "scipy")})
print("expected: one log loss for 0 to 9, 1 to 10 and 'a' to 'j', and one for 3 and 5 and 'd' and 'f'")
print("seen:", seen, f"where ln 10 is {np.log(10):.3f} and ln 2 is {np.log(2):.3f}")
named = seen["0 to 9"] == seen["'a' to 'j'"] < 1 and seen["'d' and 'f'"] < 0.5
raise SystemExit(0 if named and seen["1 to 10"] > 4 * seen["0 to 9"] and seen["3 and 5"] > 2 * seen["'d' and 'f'"] else 1)
PYTHON

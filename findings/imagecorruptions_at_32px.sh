#!/usr/bin/env bash
# imagecorruptions 1.1.2: takes 32x32 images, at ImageNet's strengths: gaussian noise two to three times as strong as in CIFAR-10-C
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet imagecorruptions==1.1.2 numpy==1.26.4 scipy==1.13.1 scikit-image==0.22.0 \
    opencv-python==4.10.0.84 numba==0.60.0 pillow==10.4.0 setuptools==75.8.0 || exit 77
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from imagecorruptions import corrupt

CIFAR_C = [0.04, 0.06, 0.08, 0.09, 0.10]  # standard deviations in make_cifar_c.py of hendrycks/robustness, of 0..1
gray = np.full((32, 32, 3), 128, np.uint8)
np.random.seed(0)
noisy = {severity: corrupt(gray, severity, "gaussian_noise") for severity in range(1, 6)}
seen = [round(float((noisy[severity] / 255).std()), 2) for severity in range(1, 6)]
print("version: imagecorruptions", version("imagecorruptions"))
print("expected: noise of", CIFAR_C, "on an image of 32x32, as in CIFAR-10-C")
print("seen:", seen)
raise SystemExit(0 if np.allclose(seen, [0.08, 0.12, 0.18, 0.25, 0.33], atol=0.021) else 1)
PYTHON

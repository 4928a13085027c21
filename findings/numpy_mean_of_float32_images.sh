#!/usr/bin/env bash
# numpy 2.4.6: the channel means of 50,000 float32 images in (N, H, W, 3) stop at 2^24 / count; data/datamodule.py adds in integers
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np

print("version: numpy", np.__version__)
print("expected: means of pixels that are uniform in 0..1 are 0.500 in each channel, as numpy adds in pairs")
images = np.random.default_rng(0).random((50_000, 32, 32, 3), np.float32)
means = images.mean(axis=(0, 1, 2))
exact = images.mean(axis=(0, 1, 2), dtype=np.float64)
stop = 2**24 / (50_000 * 32 * 32)  # a float32 sum of numbers below 1 grows no more from 2^24 on
print("seen:", means, "in float32,", exact.round(4), "in float64; 2^24 / count is", stop)
raise SystemExit(0 if np.allclose(means, stop, rtol=1e-6) and np.allclose(exact, 0.5, atol=1e-3) else 1)
PYTHON

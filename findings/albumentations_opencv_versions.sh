#!/usr/bin/env bash
# albumentations 2.0.8: OpenCV 4.12 and 5.0 make other pixels of one pipeline and one seed; both versions are recorded with a run
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for opencv in 4.12.0.88 5.0.0.93; do
    python3 -m venv "$folder/$opencv"
    "$folder/$opencv/bin/pip" install --quiet albumentations==2.0.8 albucore==0.0.24 numpy==2.2.6 "opencv-python-headless==$opencv" || exit 77
    "$folder/$opencv/bin/python" - "$folder/$opencv.npy" <<'PYTHON'
import sys

import albumentations as A
import cv2
import numpy as np

print("version: albumentations", A.__version__, "opencv", cv2.__version__, "numpy", np.__version__)
rng = np.random.default_rng(0)
small = rng.integers(0, 256, (200, 8, 8, 3), np.uint8)
images = [cv2.resize(image, (32, 32), interpolation=cv2.INTER_NEAREST) for image in small]
pipeline = A.Compose([A.Affine(rotate=(-15, 15), scale=(0.9, 1.1), translate_percent=(-0.1, 0.1), p=1)], seed=0)
np.save(sys.argv[1], np.stack([pipeline(image=image)["image"] for image in images]))
PYTHON
done
"$folder/5.0.0.93/bin/python" - "$folder"/*.npy <<'PYTHON'
import sys

import numpy as np

print("expected: the same library, pipeline and seed make the same pixels")
first, second = (np.load(path).astype(int) for path in sys.argv[1:])
away = np.abs(first - second)
print(f"seen: {(away > 0).mean():.1%} of values and {(away > 0).any(axis=(1, 2, 3)).mean():.1%} of images differ, by up to {away.max()} levels")
raise SystemExit(0 if away.max() > 1 else 1)
PYTHON

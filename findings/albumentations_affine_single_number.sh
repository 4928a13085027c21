#!/usr/bin/env bash
# albumentations 2.0.8: Affine(rotate=15) turns every image by just 15 degrees; transforms/per_image.py refuses single numbers
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet albumentations==2.0.8 albucore==0.0.24 numpy==2.4.6 opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" - <<'PYTHON'
import albumentations as A
import numpy as np

print("version: albumentations", A.__version__)
print("expected: rotate=15 is a range of 15 degrees to either side, as Rotate(limit=15) of the same library has it")
image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
seen = {}
for name, transform in {"Affine(rotate=15)": A.Affine(rotate=15, p=1), "Rotate(limit=15)": A.Rotate(limit=15, p=1)}.items():
    pipeline = A.Compose([transform], seed=0)
    seen[name] = len({pipeline(image=image)["image"].tobytes() for _ in range(100)})
print("seen: different results of 100:", seen)
raise SystemExit(0 if seen["Affine(rotate=15)"] == 1 and seen["Rotate(limit=15)"] > 90 else 1)
PYTHON

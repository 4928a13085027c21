#!/usr/bin/env bash
# albumentations 2.0.8: more contrast alone makes RandomBrightnessContrast's images brighter; ColorJitter's keep their mean
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet albumentations==2.0.8 albucore==0.0.24 opencv-python-headless==4.13.0.92 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import albumentations
import numpy as np

image = np.random.default_rng(0).integers(60, 141, (32, 32, 3)).astype(np.uint8)  # none reaches 255 afterwards
same = (1.0, 1.0)
transforms = {
    "RandomBrightnessContrast(0, 0.5)": albumentations.RandomBrightnessContrast((0, 0), (0.5, 0.5), p=1),
    "ColorJitter(contrast=1.5)": albumentations.ColorJitter(same, (1.5, 1.5), same, (0, 0), p=1),
}
print("version: albumentations", albumentations.__version__, "numpy", np.__version__)
print("expected: contrast half as large again, and a mean of", round(float(image.mean())))
seen = {}
for name, transform in transforms.items():
    changed = transform(image=image)["image"]
    seen[name] = round(float(changed.mean())), round(float(changed.std() / image.std()), 2)
print("seen, mean and contrast:", seen)
raise SystemExit(0 if list(seen.values()) == [(151, 1.5), (100, 1.5)] else 1)
PYTHON

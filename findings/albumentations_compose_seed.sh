#!/usr/bin/env bash
# albumentations 2.0.8: Compose(seed=...) gives all its transforms one stream of random numbers; transforms/per_image.py passes on one generator
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet albumentations==2.0.8 albucore==0.0.24 opencv-python-headless==5.0.0.93 numpy==2.4.6 || exit 77
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" - <<'PYTHON'
import albumentations
import numpy as np

print("version: albumentations", albumentations.__version__)
print("expected: of two transforms with p=0.5, one is applied without the other to about half of 200 images")
image = np.zeros((4, 4, 3), np.uint8)
image[0, 0] = 255  # where it is afterwards says which of the two flips were made
pipeline = albumentations.Compose([albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)], seed=0)
flips = [np.argwhere(pipeline(image=image)["image"][..., 0])[0].astype(bool).tolist() for _ in range(200)]
both, neither = flips.count([True, True]), flips.count([False, False])
print(f"seen: both {both}, neither {neither}, one alone {200 - both - neither}")
raise SystemExit(0 if both + neither == 200 and 0 < both < 200 else 1)
PYTHON

#!/usr/bin/env bash
# albumentations 2.0.8: a CoarseDropout range that ends in 1.0 is of pixels, not of shares, and hides next to nothing
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet albumentations==2.0.8 albucore==0.0.24 numpy==2.4.6 opencv-python-headless==5.0.0.93 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import albumentations as A
import numpy as np

print("version: albumentations", A.__version__)
print("expected: hole_height_range=(0.5, 1.0) hides half of the height to all of it")
image = np.full((32, 32, 3), 200, np.uint8)
seen = {}
for end in (0.99, 1.0):
    holes = A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(0.5, end), hole_width_range=(0.5, end), fill=0, p=1)
    pipeline = A.Compose([holes], seed=0)
    seen[end] = max(int((pipeline(image=image)["image"][..., 0] == 0).sum()) for _ in range(200))
print("seen: most pixels hidden of 1,024, by the end of the range:", seen)
raise SystemExit(0 if seen[0.99] > 500 and seen[1.0] <= 1 else 1)
PYTHON

#!/usr/bin/env bash
# torchvision 0.28.0, timm 1.0.31: pictures in class folders are read with the colors that transparency hides, so that two that look the same are not; data/pictures.py shows them on white
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 timm==1.0.31 numpy==2.4.6 pillow==12.3.0 || exit 77
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

try:
    import torchvision
except RuntimeError:  # beside a CPU build of torch the wheel's compiled operators do not load; declared, they are not missed
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
import torchvision
from timm.data import create_dataset

print("versions:", torch.__version__, torchvision.__version__, timm.__version__)
root, square = Path(sys.argv[1]) / "data", (slice(8, 24), slice(8, 24))
for name, hidden in (("first", (255, 0, 0)), ("second", (0, 0, 255))):  # a green square; all around it is transparent
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[square] = (0, 255, 0, 255)
    (root / name).mkdir(parents=True)
    Image.fromarray(pixels).save(root / name / "0.png")
shown = [Image.open(path) for path in sorted(root.glob("*/*.png"))]
white = [Image.alpha_composite(Image.new("RGBA", one.size, "white"), one) for one in shown]
print("expected: two pictures that look alike, as any viewer shows them, are read alike:", white[0] == white[1])
folders = torchvision.datasets.ImageFolder(root)
seen = {
    "torchvision ImageFolder": [folders[at][0].getpixel((0, 0)) for at in (0, 1)],
    "timm create_dataset": [create_dataset("", root)[at][0].getpixel((0, 0)) for at in (0, 1)],
}
for reader, corners in seen.items():
    print(f"seen: {reader}: transparent corners are {corners[0]} and {corners[1]}")
raise SystemExit(0 if all(corners == [(255, 0, 0), (0, 0, 255)] for corners in seen.values()) else 1)
PYTHON

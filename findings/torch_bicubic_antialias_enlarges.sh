#!/usr/bin/env bash
# torch 2.13.0: antialias changes bicubic enlarging, where nothing can alias; transforms/functional.py always takes PIL's
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 pillow==13.0.0 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

print("version: torch", torch.__version__)
print("expected: antialias matters where images shrink; enlarged from 32 to 224 pixels both are the same, as with bilinear")
picture = np.random.default_rng(0).integers(64, 192, (32, 32, 3), np.uint8)  # so that nothing is clipped
pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
pil = torch.from_numpy(np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC)).copy())
seen = {}
for mode in ("bilinear", "bicubic"):
    with_it, without = (F.interpolate(pixels, size=(224, 224), mode=mode, antialias=on) for on in (True, False))
    seen[mode] = round((with_it - without).clamp(0, 255).abs().max().item(), 2)
    inside = with_it.clamp(0, 255)[0].permute(1, 2, 0)
    seen[f"{mode} with antialias from PIL's bicubic"] = round((inside - pil).abs().max().item(), 2)
print("seen: largest difference in levels of 255:", seen)
close = seen["bicubic with antialias from PIL's bicubic"] < 3
raise SystemExit(0 if seen["bilinear"] < 0.01 and seen["bicubic"] > 5 and close else 1)
PYTHON

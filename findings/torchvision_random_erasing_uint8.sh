#!/usr/bin/env bash
# torchvision 0.28.0: RandomErasing(value="random") covers a part of a uint8 image with near-black instead of random values; transforms/batched.py erases normalized images
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch

try:
    import torchvision
except RuntimeError:  # beside a CPU build of torch the wheel's compiled operators do not load; declared, they are not missed
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import torchvision
from torchvision import transforms as v1
from torchvision.transforms import v2

print("version: torchvision", torchvision.__version__, "torch", torch.__version__)
print('expected: value="random", "erasing each pixel with random values": of a uint8 image, values all over 0 to 255')
torch.manual_seed(0)
image = torch.full((3, 32, 32), 128, dtype=torch.uint8)
seen = {}
for name, erase in {
    "v1": v1.RandomErasing(p=1.0, scale=(0.2, 0.2), value="random"),
    "v2": v2.RandomErasing(p=1.0, scale=(0.2, 0.2), value="random"),
}.items():
    erased = torch.cat([(done := erase(image))[done != 128] for _ in range(1000)])
    seen[name] = {
        "zero": round((erased == 0).float().mean().item(), 3),
        "within 5 of 0 or 255": ((erased <= 5) | (erased >= 250)).float().mean().item(),
    }
print("seen, shares of the values in the erased box:", seen)
raise SystemExit(0 if all(one["zero"] > 0.6 and one["within 5 of 0 or 255"] > 0.999 for one in seen.values()) else 1)
PYTHON

#!/usr/bin/env bash
# torchvision 0.28.0: TrivialAugmentWide shifts a 32x32 image by up to 32 pixels, which leaves nothing of it
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
from torchvision.transforms import v2

print("version: torchvision", torchvision.__version__)
print("expected: a policy made for small images leaves something of each of them")
torch.manual_seed(0)
image = torch.randint(30, 226, (3, 32, 32), dtype=torch.uint8)
shares = {}
for name, policy in {"TrivialAugmentWide": v2.TrivialAugmentWide(), "RandAugment": v2.RandAugment()}.items():
    images = torch.stack([policy(image) for _ in range(4000)])
    flat = images.flatten(1)
    blank = (flat == flat[:, :1]).all(dim=1).float().mean().item()
    black = (images == 0).all(dim=1).flatten(1).float().mean(dim=1)
    shares[name] = {"of one color": blank, "more than half black": (black > 0.5).float().mean().item()}
print("seen:", shares)
wide, other = shares["TrivialAugmentWide"], shares["RandAugment"]
raise SystemExit(0 if wide["more than half black"] > 0.03 and wide["of one color"] > 0 and other["more than half black"] == 0 else 1)
PYTHON

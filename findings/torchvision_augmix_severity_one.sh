#!/usr/bin/env bash
# torchvision 0.28.0: AugMix(severity=1) never shifts, shears, rotates or recolors an image: the severity is how many of ten strengths are drawn from, the first of them none; the setting's description here says so (config/schema/augment.py)
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
print("expected: five of nine operations move pixels, weakly at severity 1, so that most images have moved ones at every severity")
torch.manual_seed(0)
# Values that four bits hold, so that only operations that look at where pixels lie make two equal ones unequal.
image = torch.randint(0, 16, (3, 32, 32), dtype=torch.uint8) * 16


def moved(done):
    return any(done[c][image[c] == value].unique().numel() > 1 for c in range(3) for value in range(0, 256, 16))


seen = {}
for name, library in {"v1": v1, "v2": v2}.items():
    for severity in (1, 2, 3):
        policy = library.AugMix(severity=severity, all_ops=False)
        done = [policy(image) for _ in range(400)]
        seen[name, severity] = sum(map(moved, done)) / len(done)
print("seen: share of images in which pixels have moved, by severity:", seen)
right = all(share == 0 if severity == 1 else share > 0.7 for (_, severity), share in seen.items())
raise SystemExit(0 if right else 1)
PYTHON

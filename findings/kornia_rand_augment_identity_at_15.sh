#!/usr/bin/env bash
# kornia 0.9.0: RandAugment's m is no strength: at 15 of 30 color, contrast, brightness and sharpness leave images as they are, and at 1
# brightness turns them black and solarize inverts them: each of the five changes images more at m = 1 than at m = 15
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 kornia==0.9.0 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from kornia.augmentation.auto import RandAugment
from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

torch.set_num_threads(1)
STRENGTHS = (1, 8, 15, 22, 29)
coarse = torch.rand(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
images = torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 1)


def changed(policy: list, m: int) -> float:
    """By how much one operation changes a pixel, of 0 to 1, on average."""
    torch.manual_seed(0)
    return round((RandAugment(n=1, m=m, policy=[policy])(images) - images).abs().mean().item(), 3)


change = {policy[0][0]: [changed(policy, m) for m in STRENGTHS] for policy in default_policy}
print("version:", {name: version(name) for name in ("kornia", "torch")})
print("expected: an image is changed more by a larger m ('magnitude for all the augmentations'), hardly at all by m = 1")
print("seen, of the mean change of a pixel at m =", STRENGTHS)
for name, values in change.items():
    print(f"  {name}: {values}")
identity = [name for name, values in change.items() if values[2] == 0]
weaker = [name for name, values in change.items() if values[0] > values[2]]
print("nothing changes at 15:", identity)
print("more changes at 1 than at 15:", weaker)
brightness = next(policy for policy in default_policy if policy[0][0] == "brightness")
torch.manual_seed(0)
dark = RandAugment(n=1, m=1, policy=[brightness])(images)
print(f"brightness at m = 1: a mean of {dark.mean():.3f} where it was {images.mean():.3f}")
described = identity == ["color", "contrast", "brightness", "sharpness"] and weaker == ["solarize", *identity]
raise SystemExit(0 if described and dark.mean() < 0.05 else 1)
PYTHON

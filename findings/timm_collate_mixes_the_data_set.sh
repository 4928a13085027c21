#!/usr/bin/env bash
# timm 1.0.31: FastCollateMixup(mode="pair") with CutMix pastes into the data set itself where that hands out views of its images, as
# TensorDataset does: after an epoch nearly all of them are mixed for good, under their old labels; modes "batch" and "elem" copy
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 timm==1.0.31 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch

try:
    import torchvision
except RuntimeError:  # beside a CPU build of torch the wheel's compiled operators do not load; declared, they are not missed
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from timm.data import FastCollateMixup
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
IMAGES, EPOCHS = 512, 3


def changed(mode: str, **alpha: float) -> list:
    """After each epoch, the share of the data set's images that are not what they were, and of its pixels."""
    torch.manual_seed(0)
    np.random.seed(0)
    data = TensorDataset(torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8), torch.arange(IMAGES) % 10)
    before, shares = data.tensors[0].clone(), []
    collate = FastCollateMixup(**{"mixup_alpha": 0.0, "cutmix_alpha": 0.0} | alpha, mode=mode, num_classes=10)
    loader = DataLoader(data, batch_size=64, shuffle=True, collate_fn=collate)
    for _ in range(EPOCHS):
        for _ in loader:
            pass
        differs = data.tensors[0] != before
        shares.append((round(differs.flatten(1).any(1).float().mean().item(), 2), round(differs.float().mean().item(), 2)))
    return shares


print("version:", {name: version(name) for name in ("timm", "torch")})
print("expected: a collate function makes batches of the data set's images and leaves them alone, (0.0, 0.0) after each epoch")
seen = {}
for mode in ("batch", "elem", "pair"):
    for kind in ("mixup_alpha", "cutmix_alpha"):
        seen[mode, kind] = changed(mode, **{kind: 1.0})
        print(f"seen: mode={mode!r}, {kind}=1.0: shares of images and pixels that have changed: {seen[mode, kind]}")
pasted = seen.pop(("pair", "cutmix_alpha"))
unchanged = all(shares == [(0.0, 0.0)] * EPOCHS for shares in seen.values())
raise SystemExit(0 if unchanged and pasted[0][0] > 0.9 and pasted[0][1] > 0.3 and pasted[2][1] > pasted[0][1] else 1)
PYTHON

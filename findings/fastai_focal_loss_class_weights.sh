#!/usr/bin/env bash
# fastai 2.8.12: FocalLoss takes a class's weight into the probability that it focuses by, so that a weight of 10, meant to be the paper's alpha,
# makes the loss of an image of probability 0.9 424 times as large, and one of 0.1 makes it 910 times smaller
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 numpy==2.4.6 pandas==3.1.1 matplotlib==3.11.2 scikit-learn==1.9.1 fastcore==2.2.41 fasttransform==0.0.5 fastprogress==1.0.5 requests==2.34.2 pyyaml==6.0.3 fastdownload==0.0.8 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps fastai==2.8.12 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch

try:
    import torchvision
except RuntimeError:  # beside a CPU build of torch the wheel's compiled operators do not load; declared, they are not missed
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from fastai.losses import FocalLoss, FocalLossFlat

torch.set_num_threads(1)
LABEL = torch.tensor([3])


def logits(probability: float) -> torch.Tensor:
    """Ten classes, of which the label has that probability."""
    answer = torch.full((1, 10), (1 - probability) / 9)
    answer[0, LABEL] = probability
    return answer.log()


def factor(loss: type, probability: float, weight: float, gamma: float) -> float:
    """What the weight of the label's class multiplies its loss by."""
    weights = torch.ones(10)
    weights[LABEL] = weight
    return (loss(weight=weights, gamma=gamma)(logits(probability), LABEL) / loss(gamma=gamma)(logits(probability), LABEL)).item()


print("version:", {name: version(name) for name in ("fastai", "torch")})
print("expected: a class of weight w has w times the loss, whatever the probability of its label, as alpha has it in the paper")
seen = {}
for weight in (0.1, 2.0, 10.0):
    for probability in (0.5, 0.9):
        factors = [factor(loss, probability, weight, 2.0) for loss in (FocalLoss, FocalLossFlat)]
        assert abs(factors[0] / factors[1] - 1) < 1e-5
        seen[weight, probability] = factors[0]
        print(f"seen: weight {weight}, probability {probability}: {factors[0]:.4g} times the loss")
plain = factor(FocalLoss, 0.9, 10.0, 0.0)
print(f"seen: weight 10.0, probability 0.9, gamma 0: {plain:.4g} times")
raise SystemExit(0 if abs(plain - 10) < 1e-3 and 400 < seen[10.0, 0.9] < 450 and seen[0.1, 0.9] < 0.0012 else 1)
PYTHON

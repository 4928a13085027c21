#!/usr/bin/env bash
# timm 1.0.31: ModelEma, ModelEmaV2 and ModelEmaV3 average a weight that stands at two places of a net twice per step, with the decay squared; training/averaging.py goes over parameters
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 timm==1.0.31 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch

try:
    import torchvision
except RuntimeError:  # beside a CPU build of torch the wheel's compiled operators do not load; declared, they are not missed
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DECAY, STEPS = 0.99, 100


def net():
    """Three blocks of which the first two are one and the same: 2 x 81 parameters."""
    shared = nn.Conv2d(3, 3, 3, bias=False)
    return nn.Sequential(shared, shared, nn.Conv2d(3, 3, 3, bias=False))


@torch.no_grad()
def fill(model, value):
    for parameter in model.parameters():
        parameter.fill_(value)


def moved(make, update):
    """What an average has come to, of the shared and of the other weight, when all weights went from 0 to 1 STEPS steps ago."""
    model = net()
    fill(model, 0.0)
    average = make(model)
    fill(model, 1.0)
    for _ in range(STEPS):
        update(average, model)
    inner = average.ema if isinstance(average, ModelEma) else average.module
    assert inner[0] is inner[1]
    return tuple(round(inner[place].weight.mean().item(), 4) for place in (0, 2))


def of_torch(model):
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    average.update_parameters(model)  # the first weights are taken as they are
    return average


seen = {
    "ModelEma": moved(lambda model: ModelEma(model, decay=DECAY), ModelEma.update),
    "ModelEmaV2": moved(lambda model: ModelEmaV2(model, decay=DECAY), ModelEmaV2.update),
    "ModelEmaV3": moved(lambda model: ModelEmaV3(model, decay=DECAY), ModelEmaV3.update),
    "ModelEmaV3, foreach=False": moved(lambda model: ModelEmaV3(model, decay=DECAY, foreach=False), ModelEmaV3.update),
    "torch's AveragedModel": moved(of_torch, AveragedModel.update_parameters),
}
right, squared = round(1 - DECAY**STEPS, 4), round(1 - DECAY ** (2 * STEPS), 4)
print("version: timm", timm.__version__, "torch", torch.__version__)
print(f"expected: after {STEPS} steps of decay {DECAY} every weight has gone {right} of the way, shared or not")
print(f"seen (shared, not shared): {seen}; {squared} is the way of decay {DECAY**2:.4f}")
others = seen.pop("torch's AveragedModel")
raise SystemExit(0 if set(seen.values()) == {(squared, right)} and others == (right, right) else 1)
PYTHON

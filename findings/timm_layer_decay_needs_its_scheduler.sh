#!/usr/bin/env bash
# timm 1.0.31: layer_decay changes no learning rate unless timm's own scheduler is used; rates of groups are set in every step here (optim/optimizers.py)
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
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

model = timm.create_model("resnet18", num_classes=10)


def step_of_stem_and_head(scheduler):
    """How far one step of SGD along a gradient of ones moves a weight of the first layer, and one of the classifier."""
    optimizer = create_optimizer_v2(model, "momentum", lr=0.1, weight_decay=0.0, momentum=0.0, layer_decay=0.5)
    scheduler(optimizer)
    before = [parameter.detach().clone() for parameter in (model.conv1.weight, model.fc.weight)]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = (model.conv1.weight, model.fc.weight)
    return tuple(round((old - new).mean().item(), 5) for old, new in zip(before, after))


seen = {
    "no scheduler": step_of_stem_and_head(lambda optimizer: None),
    "torch's CosineAnnealingLR": step_of_stem_and_head(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)),
    "timm's CosineLRScheduler": step_of_stem_and_head(lambda optimizer: CosineLRScheduler(optimizer, 10)),
}
print("version: timm", timm.__version__, "torch", torch.__version__)
print("expected: with layer_decay=0.5 the first layer moves by a small part of what the classifier does, whatever sets the rate")
print("seen: a step of the first layer and of the classifier, by scheduler:", seen)
timms = seen.pop("timm's CosineLRScheduler")
raise SystemExit(0 if set(seen.values()) == {(0.1, 0.1)} and timms[0] < 0.001 and timms[1] == 0.1 else 1)
PYTHON

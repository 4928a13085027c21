#!/usr/bin/env bash
# timm 1.0.31: freeze and unfreeze put other BatchNorms in the place of a net's: their weights are in no optimizer that was there before, so that
# they stay as they were while all else trains, and they are in training mode where the net is evaluated
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 timm==1.0.31 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch

try:
    import torchvision
except RuntimeError:  # beside a CPU build of torch the wheel's compiled operators do not load; declared, they are not missed
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
from timm.utils import freeze, unfreeze
from torch import nn

torch.set_num_threads(1)


def batchnorms(net: nn.Module) -> list:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def moved(thawed: bool) -> tuple:
    """Of BatchNorm's and of the other weights, the share that five steps of all of the net move."""
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=10, zero_init_last=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    if thawed:
        freeze(net)
        unfreeze(net)
    assert all(weight.requires_grad for weight in net.parameters())
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    net.train()
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    ids = {id(weight) for module in batchnorms(net) for weight in module.parameters()}
    shares = {True: [], False: []}
    for name, weight in net.named_parameters():
        shares[id(weight) in ids].append(not torch.equal(weight, before[name]))
    return tuple(round(sum(values) / len(values), 2) for values in (shares[True], shares[False]))


def change_of_an_image(thawed: bool) -> float:
    """How much the logits of an image depend on the other images, in eval mode."""
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=10, zero_init_last=False).eval()
    if thawed:
        freeze(net)
        unfreeze(net)
    images = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        return (net(images)[:1] - net(images[:1])).abs().max().item()


print("version:", {name: version(name) for name in ("timm", "torch")})
print("expected: a net that was frozen and unfrozen again trains, and evaluates, like one that never was")
never, thawed = moved(False), moved(True)
print("seen: of BatchNorm's and other weights, the share that five steps move: never frozen", never, "frozen and unfrozen", thawed)
apart, together = change_of_an_image(False), change_of_an_image(True)
print(f"seen: in eval mode, by how much an image's logits depend on the others: never frozen {apart:.0e}, frozen and unfrozen {together:.0e}")
raise SystemExit(0 if never == (1.0, 1.0) and thawed == (0.0, 1.0) and apart < 1e-4 < 1e-2 < together else 1)
PYTHON

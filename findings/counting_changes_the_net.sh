#!/usr/bin/env bash
# torchinfo 1.8.0, torchsummary 1.5.1, fvcore 0.1.5, thop 0.1.1: counting a net's parameters or operations changes the net
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchinfo==1.8.0 torchsummary==1.5.1 fvcore==0.1.5.post20221221 \
    thop==0.1.1.post2209072238 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib
import io
from importlib.metadata import version

import thop
import torch
import torchinfo
import torchsummary
from fvcore.nn import FlopCountAnalysis
from torch import nn

image = torch.rand(2, 3, 32, 32)


def quiet_torchsummary(net):
    with contextlib.redirect_stdout(io.StringIO()):
        torchsummary.summary(net, (3, 32, 32), device="cpu")


counters = {
    "torchinfo": lambda net: torchinfo.summary(net, (2, 3, 32, 32), verbose=0),
    "torchsummary": quiet_torchsummary,
    "fvcore": lambda net: FlopCountAnalysis(net, image).unsupported_ops_warnings(False).total(),
    "thop": lambda net: thop.profile(net, (image,), verbose=False),
}


def changes(count):
    """What is another in a net that trains with one BatchNorm in training mode and one frozen."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    count(net)
    after = net.state_dict()
    found = ["entries added to the state dict"] if set(after) - set(before) else []
    found += ["running statistics"] if any(not torch.equal(before[name], after[name]) for name in before) else []
    return found + (["the frozen layer trains"] if net[2].training else [])


print("version:", {name: version(name) for name in counters}, "torch", torch.__version__)
print("expected: no changes")
seen = {name: changes(count) for name, count in counters.items()}
print("seen:", seen)
described = {
    "torchinfo": ["the frozen layer trains"],
    "torchsummary": ["running statistics"],
    "fvcore": ["running statistics"],
    "thop": ["entries added to the state dict", "the frozen layer trains"],
}
raise SystemExit(0 if seen == described else 1)
PYTHON

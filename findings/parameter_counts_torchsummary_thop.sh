#!/usr/bin/env bash
# torchsummary 1.5.1, thop 0.1.1: both leave parameters out, and torchsummary counts a layer that is used in two places twice
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchsummary==1.5.1 thop==0.1.1.post2209072238 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import io
from importlib.metadata import version

import thop
import torch
import torchsummary
from torch import nn


class Scaled(nn.Module):
    """A convolution with a scale of each channel, as in layer scale: a parameter that is no layer's weight or bias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))

    def forward(self, x):
        return self.scale * self.conv(x)


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, x):
        return self.norm(self.conv(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        return self.attention(x, x, x)[0]


class Recurrent(nn.Module):
    """One convolution, applied twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.conv = nn.Conv2d(16, 16, 3)

    def forward(self, x):
        return self.conv(self.conv(self.stem(x)))


def by_torchsummary(net):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        torchsummary.summary(net, (3, 32, 32), device="cpu")
    line = next(line for line in printed.getvalue().splitlines() if line.startswith("Total params"))
    return int(line.split(":")[1].replace(",", ""))


def by_thop(net):
    return int(thop.profile(net, (torch.rand(1, 3, 32, 32),), verbose=False)[1])


print("version: torchsummary", version("torchsummary"), "thop", version("thop"), "torch", torch.__version__)
nets = (Scaled, Grouped, Attention, Recurrent)
print("expected:", {net.__name__: sum(p.numel() for p in net().parameters()) for net in nets})
seen = {net.__name__: (by_torchsummary(net()), by_thop(net())) for net in nets}
print("seen, torchsummary and thop:", seen)
described = {"Scaled": (448, 448), "Grouped": (480, 448), "Attention": (784, 784), "Recurrent": (448 + 2 * 2320, 448 + 2320)}
raise SystemExit(0 if seen == described else 1)
PYTHON

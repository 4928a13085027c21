#!/usr/bin/env bash
# torchinfo 1.8.0, thop 0.1.1: a convolution under weight_norm has no multiply-adds
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchinfo==1.8.0 thop==0.1.1.post2209072238 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import thop
import torch
import torchinfo
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


def net():
    return nn.Sequential(weight_norm(nn.Conv2d(3, 16, 3, padding=1, bias=False)))


counted = {
    "torchinfo": lambda: torchinfo.summary(net(), (1, 3, 32, 32), verbose=0).total_mult_adds,
    "thop": lambda: int(thop.profile(net(), (torch.rand(1, 3, 32, 32),), verbose=False)[0]),
}
print("version:", {name: version(name) for name in (*counted, "torch")})
print("expected:", 32 * 32 * 16 * 3 * 3 * 3, "for each, as without weight_norm")
seen = {name: count() for name, count in counted.items()}
print("seen:", seen)
raise SystemExit(0 if set(seen.values()) == {0} else 1)
PYTHON

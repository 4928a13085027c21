#!/usr/bin/env bash
# ptflops 0.7.5: a convolution whose class is derived from Conv2d, or that is called as a function, has no multiply-adds, since the default backend is not "aten", as documented; models/counting.py counts what torch multiplies, on the meta device
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ptflops==0.7.5 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from ptflops import get_model_complexity_info
from torch import nn


class Derived(nn.Conv2d):
    """As padding that depends on the size, or standardized weights, are often added."""


class Called(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape[1], shape[0], shape[2], shape[2]))

    def forward(self, images):
        return nn.functional.conv2d(images, self.weight, padding=1)


def macs(make, **options):
    net = nn.Sequential(make(3, 16, 3), nn.ReLU(), make(16, 16, 3))
    return get_model_complexity_info(net, (3, 32, 32), as_strings=False, print_per_layer_stat=False, **options)[0]


print("version: ptflops", version("ptflops"), "torch", torch.__version__)
products = 32 * 32 * 9 * (3 * 16 + 16 * 16)
print(f"expected: {products:,} multiply-adds of two convolutions, in whatever way they are written, as of the backend said to be the default")
ways = {
    "Conv2d": lambda *shape: nn.Conv2d(*shape, padding=1, bias=False),
    "derived": lambda *shape: Derived(*shape, padding=1, bias=False),
    "called": Called,
}
seen = {name: {"by default": macs(make), "aten": macs(make, backend="aten")} for name, make in ways.items()}
print("seen:", seen)
relu = 2 * 32 * 32 * 16  # each value counts twice, as a module and as the function that the module calls
right = seen["Conv2d"]["by default"] == products + relu and all(one["aten"] == products for one in seen.values())
raise SystemExit(0 if right and all(seen[name]["by default"] == relu for name in ("derived", "called")) else 1)
PYTHON

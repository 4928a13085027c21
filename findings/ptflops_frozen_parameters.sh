#!/usr/bin/env bash
# ptflops 0.7.5: parameters that are frozen are not counted, though their multiply-adds are, so that a pretrained net with a new classifier is as small as the classifier; param_count counts with everything unfrozen (models/counting.py)
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

backbone = nn.Sequential(
    nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
)
net = nn.Sequential(backbone, nn.Linear(64, 10))
parameters = sum(one.numel() for one in net.parameters())
print("version: ptflops", version("ptflops"), "torch", torch.__version__)
print(f"expected: {parameters:,} parameters, since each of them is needed to predict, trained or not")
seen = {}
for backend in ("pytorch", "aten"):
    for frozen in (False, True):
        backbone.requires_grad_(not frozen)
        seen[backend, "frozen" if frozen else "trained"] = get_model_complexity_info(
            net, (3, 32, 32), as_strings=False, print_per_layer_stat=False, backend=backend
        )
print("seen, multiply-adds and parameters:", seen)
right = all(seen[backend, "trained"][1] == parameters and seen[backend, "trained"][0] == seen[backend, "frozen"][0] for backend in ("pytorch", "aten"))
raise SystemExit(0 if right and all(seen[backend, "frozen"][1] == 650 for backend in ("pytorch", "aten")) else 1)
PYTHON

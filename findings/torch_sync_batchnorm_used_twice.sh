#!/usr/bin/env bash
# torch 2.13.0: convert_sync_batchnorm leaves a BatchNorm that one module holds under two names unsynchronized at the second; training/distributed.py replaces it at all its places
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn

print("version: torch", torch.__version__)
layer, norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
net = nn.Sequential(layer, norm, nn.ReLU(), layer, norm, nn.ReLU())  # the same weights at both depths
converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
print("expected: 'Helper function to convert all BatchNorm*D layers in the model to SyncBatchNorm layers', here at both of its places")
kinds = [type(converted[place]).__name__ for place in (1, 4)]
print("seen:", kinds)
buffers = ("running_mean", "running_var")
shared = all(getattr(converted[1], name) is getattr(converted[4], name) for name in buffers) and converted[1].weight is converted[4].weight
print("seen: both still hold one set of weights and statistics:", shared, "- which each process then moves by its own images, between the synchronized steps")
raise SystemExit(0 if kinds == ["SyncBatchNorm", "BatchNorm2d"] and shared else 1)
PYTHON

#!/usr/bin/env bash
# ema-pytorch 0.8.3: EMA.forward_eval, meant for evaluation, never leaves training mode: dropout drops, BatchNorm takes the batch's statistics,
# and the averaged statistics move with every batch that is evaluated
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 ema-pytorch==0.8.3 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from ema_pytorch import EMA
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 1000), nn.BatchNorm1d(1000), nn.Dropout(0.5))
average = EMA(net)
average.update()  # the first weights are taken as they are
images = torch.randn(64, 4)
before = average.ema_model[1].running_mean.clone()
first, second = average.forward_eval(images), average.forward_eval(images)
drops = (first == 0).float().mean().item()
moved = (average.ema_model[1].running_mean - before).abs().max().item()
right = average.ema_model.eval()(images)  # in evaluation mode by hand
print("version:", {name: version(name) for name in ("ema-pytorch", "torch")})
print("expected, by its name and the comment in its source: the same answers twice, no zeros, and statistics that stay as they are")
print(f"seen: the same answers twice: {torch.equal(first, second)}; zeros: {drops:.0%}; running mean moved by up to {moved:.2f};")
print(f"seen: after average.ema_model.eval() by hand, zeros: {(right == 0).float().mean():.0%}")
as_described = not torch.equal(first, second) and 0.45 < drops < 0.55 and moved > 0.01 and bool((right != 0).all())
raise SystemExit(0 if as_described else 1)
PYTHON

#!/usr/bin/env bash
# ema-pytorch 0.8.3: inv_gamma=1, power=1 is a simple average, as documented, with update_every=1 alone; by default, 10, the decay still counts
# steps, not updates, and after 10,000 steps nearly half of the average is the weights of step 100
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

STEPS, START = 10_000, 100  # averaging begins after update_after_step=100, the default


def average(weight_at, **options):
    """What the average of a single weight is after STEPS steps, the weight at each step being given."""
    net = nn.Linear(1, 1, bias=False)
    mean = EMA(net, inv_gamma=1.0, power=1.0, **options)
    for step in range(STEPS + 1):
        nn.init.constant_(net.weight, weight_at(step))
        mean.update()
    return round(mean.ema_model.weight.item(), 4)


rising = {every: average(float, update_every=every) for every in (1, 10)}
first = {every: average(lambda step: float(step <= START), update_every=every) for every in (1, 10)}
default = average(float)
print("version:", {name: version(name) for name in ("ema-pytorch", "torch")})
print(f"expected of a simple average: of a weight that is its step's number {(START + STEPS) / 2:.0f}, be it taken at every or every tenth step;")
print("expected: of one that is 1 until step 100 and 0 after it, which is the share of the first weights: 0.0001, and 0.001 of every tenth")
print(f"seen, by update_every: the number: {rising}; the share: {first}; the number by default: {default}")
as_described = abs(rising[1] - 5050) < 5 and rising[10] == default < 1100 and first[1] < 0.001 and first[10] > 0.4
raise SystemExit(0 if as_described else 1)
PYTHON

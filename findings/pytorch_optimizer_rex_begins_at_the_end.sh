#!/usr/bin/env bash
# pytorch-optimizer 4.1.0: under REXScheduler the first step, or the first epoch where it is stepped by epochs, has min_lr, 0 by default, instead
# of max_lr, which no step has: an epoch of ten trains nothing; the rate of every step here is a function of it (optim/schedulers.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pytorch-optimizer==4.1.0 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from pytorch_optimizer import REXScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

EPOCHS, MAX_LR = 10, 0.1


def rex(epoch: int) -> float:
    """The share of the largest rate by the paper, "REX: Revisiting Budgeted Training with an Improved Schedule"."""
    done = epoch / EPOCHS
    return (1 - done) / (1 - done / 2)


def train(make) -> tuple:
    """Rates of the epochs, and how far a weight under a gradient of 1 has moved at the end of the first."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=MAX_LR)
    scheduler = make(optimizer)
    rates, moved = [], []
    for _ in range(EPOCHS):
        rates.append(round(optimizer.param_groups[0]["lr"], 4))
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        moved.append(round(abs(weight.item()), 4))
    return rates, moved[0]


right, _ = train(lambda optimizer: LambdaLR(optimizer, rex))
seen, moved = train(lambda optimizer: REXScheduler(optimizer, total_steps=EPOCHS, max_lr=MAX_LR))
cosine, of_cosine = train(lambda optimizer: CosineAnnealingLR(optimizer, EPOCHS))
print("version:", {name: version(name) for name in ("pytorch-optimizer", "torch")})
print("expected:", right)
print("seen:    ", seen)
print(f"expected: the first epoch trains: under torch's CosineAnnealingLR a weight moves by {of_cosine}; seen: {moved}")
raise SystemExit(0 if seen == [0.0, *right[1:]] and moved == 0 and cosine[0] == MAX_LR else 1)
PYTHON

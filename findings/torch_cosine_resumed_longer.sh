#!/usr/bin/env bash
# torch 2.13.0: a scheduler that is resumed takes its length from the checkpoint, and a cosine then climbs back; the rate here depends on step and config alone (optim/schedulers.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

print("version: torch", torch.__version__)
print("expected: a run of 10 epochs that is continued with CosineAnnealingLR(optimizer, T_max=20) falls to 0 at epoch 20")


def begin(epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    return optimizer, CosineAnnealingLR(optimizer, T_max=epochs)


def rates(optimizer, scheduler, epochs):
    result = []
    for _ in range(epochs):
        result.append(round(optimizer.param_groups[0]["lr"], 4))
        optimizer.step()
        scheduler.step()
    return result


optimizer, scheduler = begin(10)
first = rates(optimizer, scheduler, 10)
longer, schedule = begin(20)
longer.load_state_dict(optimizer.state_dict())
schedule.load_state_dict(scheduler.state_dict())
then = rates(longer, schedule, 10)
print("seen: the first ten rates", first)
print("seen: the ten after them", then, "T_max", schedule.T_max)
raise SystemExit(0 if schedule.T_max == 10 and then == sorted(then) and then[0] == 0 and then[-1] > 0.09 else 1)
PYTHON

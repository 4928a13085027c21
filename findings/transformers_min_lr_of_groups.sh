#!/usr/bin/env bash
# transformers 5.24.0: where parameter groups have learning rates of their own, cosine_with_min_lr and polynomial do not end at min_lr or lr_end but at a share of each, which may be above where it began; optim/schedulers.py goes by optim.lr
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import warnings
from importlib.metadata import version

import torch
from transformers import get_scheduler

STEPS = 100
warnings.simplefilter("ignore")  # of a schedule that is stepped without an optimizer's step


def last_rates(name: str, **settings: float) -> list[float]:
    """The learning rates of body and head after a schedule from 0.1 and 0.4."""
    body, head = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [body], "lr": 0.1}, {"params": [head], "lr": 0.4}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = get_scheduler(name, optimizer, 0, STEPS, scheduler_specific_kwargs=settings)
    for _ in range(STEPS):
        schedule.step()
    return [round(group["lr"], 6) for group in optimizer.param_groups]


print("version:", {name: version(name) for name in ("transformers", "torch")})
print("expected: from 0.1 and 0.4 to 0.0005, 0.002 and 0.0005, in both groups")
seen = {
    "cosine_with_min_lr to 0.0005": last_rates("cosine_with_min_lr", min_lr=0.0005),
    "cosine_with_min_lr to 0.002": last_rates("cosine_with_min_lr", min_lr=0.002),
    "polynomial to 0.0005": last_rates("polynomial", lr_end=0.0005),
}
print("seen:", seen)
described = {
    "cosine_with_min_lr to 0.0005": [0.05, 0.2],
    "cosine_with_min_lr to 0.002": [0.2, 0.8],
    "polynomial to 0.0005": [0.05, 0.2],
}
raise SystemExit(0 if seen == described else 1)
PYTHON

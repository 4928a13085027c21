#!/usr/bin/env bash
# torch 2.13.0: OneCycleLR cannot rise within a single step, as in ten steps of which a tenth rise; the schedule here can
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.optim.lr_scheduler import OneCycleLR

print("version: torch", torch.__version__)
print("expected: a schedule for any total_steps and pct_start between 0 and 1, as the documentation asks for")
seen = {}
for total_steps, pct_start in ((10, 0.1), (20, 0.05), (10, 0.2), (20, 0.1)):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    try:
        scheduler = OneCycleLR(optimizer, max_lr=0.3, total_steps=total_steps, pct_start=pct_start)
        seen[total_steps, pct_start] = f"first rate {scheduler.get_last_lr()[0]:.3f}"
    except ZeroDivisionError as error:
        seen[total_steps, pct_start] = f"ZeroDivisionError: {error}"
for (total_steps, pct_start), what in seen.items():
    print(f"seen: total_steps {total_steps}, pct_start {pct_start}: {what}")
raised = [what.startswith("ZeroDivisionError") for what in seen.values()]
raise SystemExit(0 if raised == [True, True, False, False] else 1)
PYTHON

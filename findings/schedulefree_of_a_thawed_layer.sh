#!/usr/bin/env bash
# schedulefree 1.4.1: weights that are frozen at first and train from step 1,900 on enter the average as if they had been there all along: 100 steps later they train near their optimum and are evaluated far from it; there is no such optimizer here, and ema_decay lets go of old weights (training/averaging.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet schedulefree==1.4.1 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from schedulefree import AdamWScheduleFree

torch.set_num_threads(1)
FROZEN, TRAINED = 1900, 100


def evaluated(frozen: int, apart: bool) -> tuple[float, float]:
    """A backbone's weight that is to go from 0 to 1, after it trained for TRAINED steps: in training, and in evaluation.

    The head's goes there from the first step. frozen: steps before the backbone trains; apart: is it handed over only then?
    """
    head, backbone = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = AdamWScheduleFree([head] if apart else [head, backbone], lr=0.05)
    optimizer.train()
    for step in range(frozen + TRAINED):
        if apart and step == frozen:
            optimizer.add_param_group({"params": [backbone], "train_mode": True})
        backbone.requires_grad_(step >= frozen)
        optimizer.zero_grad()
        sum((weight - 1).square().sum() / 2 for weight in (head, backbone)).backward()
        optimizer.step()
    trained = round(backbone.item(), 3)
    optimizer.eval()
    return trained, round(backbone.item(), 3)


print("version:", {name: version(name) for name in ("schedulefree", "torch")})
print(f"expected: evaluated after {TRAINED} steps of training of its own, a weight is where it would be had it not waited")
seen = {
    "trained from the start": evaluated(0, apart=False),
    f"frozen for {FROZEN} steps": evaluated(FROZEN, apart=False),
    f"handed over after {FROZEN} steps": evaluated(FROZEN, apart=True),
}
print("seen (in training, in evaluation; the optimum is 1):", seen)
start, frozen, handed = seen.values()
raise SystemExit(0 if start == handed and max(abs(start[1] - 1), abs(frozen[0] - 1)) < 0.1 and frozen[1] < 0.5 else 1)
PYTHON

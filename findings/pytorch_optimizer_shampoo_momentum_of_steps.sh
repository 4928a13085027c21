#!/usr/bin/env bash
# pytorch-optimizer 4.1.0: Shampoo's momentum keeps the preconditioned step and mixes it with the next raw gradient, so that what momentum=0.9
# means depends on the scale of the loss: after one gradient of 0.01 the next, of -0.01, is not felt; met by nobody here
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pytorch-optimizer==4.1.0 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import math
from importlib.metadata import version

import torch
from pytorch_optimizer import Shampoo
from torch import nn

MOMENTUM, EPS = 0.9, 1e-12


def steps(gradients: list, momentum: float) -> list:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Shampoo([weight], lr=1.0, momentum=momentum, matrix_eps=EPS)
    found = []
    for gradient in gradients:
        before = weight.item()
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        found.append(before - weight.item())
    return found


def of_averages(gradients: list) -> list:
    """The same of a moving average of the gradients: for one number, the preconditioner is the root of the sum of squares."""
    average, squares, found = gradients[0], EPS, []
    for gradient in gradients:
        average = MOMENTUM * average + (1 - MOMENTUM) * gradient
        squares += average**2
        found.append(average / math.sqrt(squares))
    return found


print("version:", {name: version(name) for name in ("pytorch-optimizer", "torch")})
print("expected: gradients of another scale give the same steps, with momentum as without it")
seen = {}
for scale in (100.0, 1.0, 0.01):
    turned = [scale, -scale]
    plain, right = [round(step, 3) for step in steps(turned, 0.0)], [round(step, 3) for step in of_averages(turned)]
    seen[scale] = [round(step, 3) for step in steps(turned, MOMENTUM)]
    print(f"gradients {turned}: without momentum {plain}; expected with it {right}; seen {seen[scale]}")
    assert plain == [1.0, -0.707] and right == [1.0, 0.625]
raise SystemExit(0 if seen == {100.0: [1.0, -0.091], 1.0: [1.0, 0.625], 0.01: [1.0, 1.0]} else 1)
PYTHON

#!/usr/bin/env bash
# pytorch-optimizer 4.1.0: get_chebyshev_schedule uses the first of its rates, the largest, in three epochs and the last two of them in none, so
# that epochs which together shrink an error to 0.0014 of it multiply it by 4.7; met by nobody here: there is no such schedule
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pytorch-optimizer==4.1.0 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from pytorch_optimizer import get_chebyshev_schedule
from torch import nn

SMALLEST, LARGEST, EPOCHS = 0.05, 1.0, 16  # bounds of the curvature, which the package has as its defaults
curvature = torch.linspace(SMALLEST, LARGEST, 200, dtype=torch.float64)


def rates() -> list:
    """The learning rates that a training of EPOCHS epochs sees."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_chebyshev_schedule(optimizer, EPOCHS)
    seen = []
    for _ in range(EPOCHS):
        seen.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return seen


def left(steps: list) -> float:
    """What gradient descent leaves of an error of 1, in the worst direction of a quadratic loss with these curvatures."""
    error = torch.ones_like(curvature)
    for rate in steps:
        error = error - rate * curvature * error
    return error.abs().max().item()


middle, half = (LARGEST + SMALLEST) / 2, (LARGEST - SMALLEST) / 2
nodes = sorted(1 / (middle - half * np.cos((np.arange(EPOCHS) + 0.5) * np.pi / EPOCHS)))
bound = 1 / np.cosh(EPOCHS * np.arccosh(middle / half))  # 1 over the Chebyshev polynomial
seen = rates()
times = [sum(bool(np.isclose(rate, node)) for rate in seen) for node in nodes]
print("version:", {name: version(name) for name in ("pytorch-optimizer", "torch")})
print(f"expected: each of the {EPOCHS} rates, {nodes[0]:.2f} to {nodes[-1]:.2f}, in one epoch; an error shrinks to {bound:.2g}")
print(f"seen: epochs of each rate, from the smallest to the largest: {times}; an error becomes {left(seen):.2g}")
assert left(nodes) < 1.01 * bound and sum(times) == EPOCHS
raise SystemExit(0 if times[-1] == 3 and times.count(0) == 2 and max(times[:-1]) == 1 and left(seen) > 1 else 1)
PYTHON

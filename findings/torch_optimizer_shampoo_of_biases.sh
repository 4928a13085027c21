#!/usr/bin/env bash
# torch-optimizer 0.3.0: Shampoo takes the inverse of a preconditioner where the paper takes its 2k-th root too (k dimensions), so that weights
# of BatchNorm and biases move the further the smaller their gradients are: 50 times as far for 0.01 as for 1; met by nobody here
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps torch-optimizer==0.3.0 pytorch-ranger==0.1.1 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import math
from importlib.metadata import version

import torch
from torch import nn
from torch_optimizer import Shampoo

EPSILON = 1e-4  # the default


def first_step(gradient: torch.Tensor) -> torch.Tensor:
    weight = nn.Parameter(torch.zeros_like(gradient))
    weight.grad = gradient.clone()
    Shampoo([weight], lr=1.0, epsilon=EPSILON).step()
    return -weight.detach()


def of_the_paper(gradient: torch.Tensor) -> torch.Tensor:
    """Algorithm 2 for a tensor of one dimension, k = 1: (epsilon I + g g^T)^(-1/2) g, which lies along g."""
    return gradient / math.sqrt(EPSILON + gradient.square().sum().item())


print("version:", {name: version(name) for name in ("torch-optimizer", "torch")})
print("expected: a step of a bias that depends little on the scale of its gradient, as that of AdaGrad does, and grows with it")
seen = {}
for size in (1.0, 0.1, 0.01):
    gradient = torch.tensor([0.6, -0.8]) * size
    step, right = first_step(gradient), of_the_paper(gradient)
    inverse = gradient / (EPSILON + gradient.square().sum())
    assert torch.allclose(step, inverse, rtol=1e-2)
    seen[size] = round(step.norm().item(), 2)
    print(f"gradient of norm {size}: expected a step of {right.norm().item():.3f}; seen {seen[size]}")
raise SystemExit(0 if seen == {1.0: 1.0, 0.1: 9.9, 0.01: 50.0} else 1)
PYTHON

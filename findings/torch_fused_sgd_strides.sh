#!/usr/bin/env bash
# torch 2.13.0: the fused SGD on a CPU applies gradients of another memory order to the wrong weights
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch

print("version: torch", torch.__version__)
print("expected: fused=True gives the step of fused=False, whatever the strides of weight and gradient")


def step(fused: bool) -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
    weight.grad = torch.randn(8, 4, 3, 3)  # contiguous
    torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=fused, foreach=False).step()
    return weight.detach()


difference = float((step(True) - step(False)).abs().max())
print("seen: largest difference of a weight after one step", difference)
raise SystemExit(0 if difference > 0.01 else 1)
PYTHON

#!/usr/bin/env bash
# pytorch-optimizer 4.1.0: every step of WSAM ends with the momentum of BatchNorm at 0, so that running statistics stand still for whatever trains the net after it; the second pass of SAM leaves statistics alone by a context that puts them back (models/modes.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pytorch-optimizer==4.1.0 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from pytorch_optimizer import SAM, WSAM
from torch import nn

torch.set_num_threads(1)


def after(name: str) -> tuple[float, float]:
    """BatchNorm's momentum after five steps of an optimizer, and the share of the way that 50 steps of SGD then take its mean.

    The images are brighter in these 50 steps, by 10.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(32, 3, 8, 8), torch.randint(5, (32,))
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 64, 5))

    def closure() -> torch.Tensor:
        net.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        return loss

    optimizer = {
        "SGD": lambda: torch.optim.SGD(net.parameters(), lr=0.01),
        "SAM": lambda: SAM(net.parameters(), torch.optim.SGD, lr=0.01),
        "WSAM": lambda: WSAM(net, net.parameters(), torch.optim.SGD, lr=0.01),
    }[name]()
    for _ in range(5):
        closure()
        optimizer.step(closure)
    norm = net[0]
    momentum, start = norm.momentum, norm.running_mean.clone()
    images = images + 10
    then = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(50):
        closure()
        then.step()
    way = (norm.running_mean - start) / (images.mean((0, 2, 3)) - start)
    return momentum, round(way.mean().item(), 2)


print("version:", {name: version(name) for name in ("pytorch-optimizer", "torch")})
print("expected: an optimizer leaves a net's layers as it found them: momentum 0.1, and a mean that gets all of the way")
seen = {name: after(name) for name in ("SGD", "SAM", "WSAM")}
print("seen (momentum, share of the way after 50 steps of plain SGD):", seen)
described = {"SGD": (0.1, 0.99), "SAM": (0.1, 0.99), "WSAM": (0, 0.0)}
raise SystemExit(0 if seen == described else 1)
PYTHON

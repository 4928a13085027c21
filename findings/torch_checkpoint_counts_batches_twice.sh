#!/usr/bin/env bash
# torch 2.13.0: a checkpointed BatchNorm takes each batch into its running statistics twice; activations are not recomputed here
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

print("version: torch", torch.__version__)
print("expected: checkpointing trades time for memory and changes no number")


def trained(how):
    """Gradient of the first step, running mean and count of a net after ten training steps on images whose mean is 1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Hardtanh())
    nn.init.constant_(net[0].weight, 1 / 3)
    gradients = []
    for _ in range(10):
        images = torch.randn(64, 3, 8, 8) + 1
        net.zero_grad()
        answers = net(images) if how is None else checkpoint(net, images.requires_grad_(), use_reentrant=how)
        answers.square().sum().backward()
        gradients.append(net[0].weight.grad.clone())
    return torch.stack(gradients), round(net[1].running_mean.mean().item(), 2), net[1].num_batches_tracked.item()


plain = trained(None)
print("seen: without checkpoint: running mean", plain[1], "count", plain[2])
same = []
for how in (False, True):
    seen = trained(how)
    equal = torch.allclose(seen[0], plain[0], rtol=1e-4, atol=1e-4)
    print(f"seen: use_reentrant={how}: running mean {seen[1]}, count {seen[2]}, gradients {'equal' if equal else 'other'}")
    same.append(equal and seen[1] == round(1 - 0.9**20, 2) and seen[2] == 20)
raise SystemExit(0 if all(same) and plain[1:] == (round(1 - 0.9**10, 2), 10) else 1)
PYTHON

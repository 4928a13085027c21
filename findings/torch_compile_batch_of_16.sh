#!/usr/bin/env bash
# torch 2.13.0: a compiled convolution is compiled a third time when the batch reaches 16; training/trainer.py compiles for fixed shapes
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch

print("version: torch", torch.__version__)
print("expected: one graph for the first size of a batch, a second for every other size, for a convolution as for a linear layer")


def sizes_that_compile(layer: torch.nn.Module, *shape: int) -> list[int]:
    torch._dynamo.reset()
    compiled: list[int] = []
    count = 0

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]):
        nonlocal count
        count += 1
        return graph.forward

    net = torch.compile(layer, backend=backend)
    for size in (4, 6, 8, 12, 16, 20, 40):
        before = count
        net(torch.zeros(size, *shape))
        compiled += [size] * (count > before)
    return compiled


linear = sizes_that_compile(torch.nn.Linear(8, 8), 8)
conv = sizes_that_compile(torch.nn.Conv2d(8, 8, 3), 8, 8, 8)
print("seen: batches that were compiled for: Linear", linear, "Conv2d", conv)
raise SystemExit(0 if linear == [4, 6] and conv == [4, 6, 16] else 1)
PYTHON

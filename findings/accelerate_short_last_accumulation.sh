#!/usr/bin/env bash
# accelerate 1.15.0: the last step of an epoch, of fewer micro-batches, is divided by the full number of them; a step here divides by its images (training/trainer.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import accelerate
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
model = torch.nn.Linear(1, 1, bias=False)
torch.nn.init.zeros_(model.weight)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
loader = DataLoader(TensorDataset(torch.ones(72, 1)), batch_size=8)  # 9 batches: two steps of 4, and one of a single batch
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
moves, last = [], 0.0
for (images,) in loader:
    with accelerator.accumulate(model):
        accelerator.backward(-model(images).mean())  # a gradient of -1 for every image
        optimizer.step()
        optimizer.zero_grad()
    if accelerator.sync_gradients:
        moves.append(round(model.weight.item() - last, 4))
        last = model.weight.item()
print("version: accelerate", accelerate.__version__, "torch", torch.__version__)
print("expected: every step moves the weight by 1, as each image has the same gradient")
print("seen: the three steps of an epoch:", moves)
raise SystemExit(0 if moves == [1.0, 1.0, 0.25] else 1)
PYTHON

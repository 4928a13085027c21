#!/usr/bin/env bash
# torch 2.13.0: AveragedModel(use_buffers=True) leaves BatchNorm's counter behind; training/averaging.py copies integer buffers
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

print("version: torch", torch.__version__)
print("expected: with use_buffers=True the average's num_batches_tracked is the model's own count of batches")
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
averages = {
    "plain mean": AveragedModel(model, use_buffers=True),
    "EMA 0.999": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True),
}
for _ in range(200):
    model(torch.randn(2, 3, 8, 8))
    for average in averages.values():
        average.update_parameters(model)
seen = {name: int(average.module[1].num_batches_tracked) for name, average in averages.items()}
print("seen after 200 batches:", seen, "and in the model", int(model[1].num_batches_tracked))
raise SystemExit(0 if seen == {"plain mean": 1, "EMA 0.999": 1} else 1)
PYTHON

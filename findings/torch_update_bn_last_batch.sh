#!/usr/bin/env bash
# torch 2.13.0: update_bn weighs a last batch of one image like a full one; statistics here are of batches of one size
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

print("version: torch", torch.__version__)
print("expected: the running mean is that of the loader's images, whatever number of them makes up the last batch")
images = torch.ones(257, 3, 4, 4)
images[-1] = 5
norm = torch.nn.BatchNorm2d(3)
update_bn(DataLoader(images, batch_size=64), norm)
seen, images_mean, batches_mean = norm.running_mean[0].item(), images.mean().item(), (4 * 1 + 5) / 5
print(f"seen: {seen:.3f}; mean of the images {images_mean:.3f}, of the five batches' means {batches_mean:.3f}")
raise SystemExit(0 if abs(seen - batches_mean) < 1e-5 and abs(seen - images_mean) > 0.5 else 1)
PYTHON

#!/usr/bin/env bash
# torchmetrics 1.9.0: a confidence of exactly 1 is in a bin of its own beyond the last; here the last bin holds it
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.classification import MulticlassCalibrationError

print("version: torchmetrics", torchmetrics.__version__)
print("expected: of fifteen bins the last, from 14/15 to 1, holds confidences of 0.97, 0.9999 and 1 alike")
error = MulticlassCalibrationError(num_classes=2, n_bins=15)
labels = torch.tensor([1, 0])  # the surer answer is wrong, the other right: in one bin, 0.985 against 0.5
seen = [round(error(torch.tensor([[top, 1 - top], [0.97, 0.03]]), labels).item(), 3) for top in (0.9999, 1.0)]
print("seen: calibration error of confidences 0.9999 and 0.97:", seen[0], "; of 1 and 0.97:", seen[1])
raise SystemExit(0 if seen == [0.485, 0.515] else 1)
PYTHON

#!/usr/bin/env bash
# torch-uncertainty 0.13.0: ConformalClsTHR, APS and RAPS, documented as covering at least 1 - alpha, take the plain quantile of the scores, not
# that of n + 1, so that with 20 images for alpha=0.05 they cover 91 %, with 50 for 0.02 96 %
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps torch-uncertainty==0.13.0 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import math
import sys
import types
from importlib.metadata import distribution, version
from pathlib import Path

root = Path(str(distribution("torch-uncertainty").locate_file("torch_uncertainty")))
for name in ("torch_uncertainty", "torch_uncertainty.post_processing", "torch_uncertainty.post_processing.conformal"):
    sys.modules[name] = types.ModuleType(name)  # their own files import lightning and scikit-learn, unused here
    sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
sys.modules["torch_uncertainty.post_processing"].TemperatureScaler = None  # unused with enable_ts=False
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch_uncertainty.post_processing.conformal.aps import ConformalClsAPS
from torch_uncertainty.post_processing.conformal.raps import ConformalClsRAPS
from torch_uncertainty.post_processing.conformal.thr import ConformalClsTHR

torch.set_num_threads(1)
CALIBRATIONS, CLASSES, TESTED = 500, 100, 500
generator = torch.Generator().manual_seed(0)


def images(count: int) -> tuple:
    """Logits, and labels drawn as their softmax has it; the net hands the logits on."""
    logits = 3 * torch.randn(count, CLASSES, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def covered(kind: type, count: int, alpha: float) -> float:
    """The share of labels in their sets, over many calibrations with `count` images each."""
    torch.manual_seed(0)
    total = 0
    for _ in range(CALIBRATIONS):
        predictor = kind(alpha=alpha, model=torch.nn.Identity(), enable_ts=False)
        predictor.fit(DataLoader(TensorDataset(*images(count)), batch_size=count))
        logits, labels = images(TESTED)
        total += (predictor.conformal(logits)[torch.arange(TESTED), labels] > 0).sum().item()
    return round(total / CALIBRATIONS / TESTED, 3)


def by_hand(count: int, alpha: float) -> float:
    """The same for THR with the score of rank (count + 1)(1 - alpha), rounded up."""
    total = 0
    for _ in range(CALIBRATIONS):
        logits, labels = images(count)
        scores = (1 - logits.softmax(1)[torch.arange(count), labels]).sort().values
        bound = scores[math.ceil(round((count + 1) * (1 - alpha), 6)) - 1]
        logits, labels = images(TESTED)
        total += (1 - logits.softmax(1)[torch.arange(TESTED), labels] <= bound).sum().item()
    return round(total / CALIBRATIONS / TESTED, 3)


print("version:", {name: version(name) for name in ("torch-uncertainty", "torch")})
described = True
for count, alpha in ((20, 0.05), (50, 0.02), (100, 0.01)):
    seen = {kind.__name__: covered(kind, count, alpha) for kind in (ConformalClsTHR, ConformalClsAPS, ConformalClsRAPS)}
    right = by_hand(count, alpha)
    print(f"calibrated with {count} images, expected: at least {1 - alpha} (THR by hand: {right}); seen: {seen}")
    described = described and right > 1 - alpha - 0.005 and max(seen.values()) < 1 - alpha - 0.7 * alpha
raise SystemExit(0 if described else 1)
PYTHON

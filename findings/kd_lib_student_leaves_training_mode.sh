#!/usr/bin/env bash
# kd-lib 0.0.32: after the first epoch of train_student the student stays in evaluation mode, into which its validation has put it: dropout
# drops nothing more, and BatchNorm's statistics are those of the first epoch; batches here are trained in training mode (training/trainer.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps kd-lib==0.0.32 || exit 77
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import importlib
import io
import sys
import types
from importlib.metadata import distribution, version
from pathlib import Path

root = Path(str(distribution("kd-lib").locate_file("KD_Lib")))
for name in ("matplotlib", "matplotlib.pyplot", "torch.utils.tensorboard"):
    sys.modules[name] = types.ModuleType(name)  # for plots and logs, which are switched off
sys.modules["torch.utils.tensorboard"].SummaryWriter = None
for name in ("KD_Lib", "KD_Lib.KD", "KD_Lib.KD.vision"):
    sys.modules[name] = types.ModuleType(name)  # their own files import parts for texts, which ask for old packages
    sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
VanillaKD = importlib.import_module("KD_Lib.KD.vision.vanilla").VanillaKD
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, BATCHES = 4, 10
torch.manual_seed(0)
torch.set_num_threads(1)
images, labels = torch.randn(BATCHES * 16, 3, 8, 8), torch.randint(4, (BATCHES * 16,))
loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 4))


teacher, student = net(), net()
dropped = []  # of every forward pass with gradients: whether dropout set anything to 0 that was not


def watch(module, inputs, output) -> None:
    if torch.is_grad_enabled():
        dropped.append(bool(((output == 0) & (inputs[0] != 0)).any()))


student[4].register_forward_hook(watch)
optimizers = [torch.optim.SGD(each.parameters(), lr=0.05) for each in (teacher, student)]
distiller = VanillaKD(teacher, student, loader, loader, *optimizers)
with contextlib.redirect_stdout(io.StringIO()):
    distiller.train_student(epochs=EPOCHS, plot_losses=False, save_model=False, save_model_pth="models/student.pt")
by_epoch = [sum(dropped[epoch * BATCHES : (epoch + 1) * BATCHES]) for epoch in range(EPOCHS)]
batches = student[1].num_batches_tracked.item()
print("version:", {name: version(name) for name in ("kd-lib", "torch")})
print(f"expected: dropout in {[BATCHES] * EPOCHS} batches of the epochs; BatchNorm's statistics of {EPOCHS * BATCHES}")
print(f"seen: dropout in {by_epoch} batches; statistics of {batches} batches; in training mode at the end: {student.training}")
assert len(dropped) == EPOCHS * BATCHES
raise SystemExit(0 if by_epoch == [BATCHES] + [0] * (EPOCHS - 1) and batches == BATCHES else 1)
PYTHON

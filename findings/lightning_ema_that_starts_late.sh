#!/usr/bin/env bash
# lightning 2.6.6: an EMA that is to start at a later step validates, and at the end gives back, the untrained weights until then; one that is to start at a later epoch starts at once
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 lightning==2.6.6 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
EPOCHS, STEPS = 4, 10  # steps in an epoch


class Net(lightning.LightningModule):
    """One weight, which every step raises by 1, so that its value says how many steps it was trained for."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.validated = []

    def training_step(self, batch, index):
        return -self.weight.sum()

    def validation_step(self, batch, index):
        self.validated.append(round(self.weight.item(), 1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def run(**start):
    """The weight at the validation after each epoch, and the one that the training leaves."""
    net = Net()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[EMAWeightAveraging(decay=0.9, **start)],
    )
    trainer.fit(net, DataLoader(torch.zeros(STEPS, 1)), DataLoader(torch.zeros(1, 1)))
    return [*net.validated, round(net.weight.item(), 1)]


at_once = run()
late, never, epoch = run(update_starting_at_step=25), run(update_starting_at_step=1000), run(update_starting_at_epoch=3)
print("version: lightning", lightning.__version__, "torch", torch.__version__)
print(f"validated after each of {EPOCHS} epochs of {STEPS} steps, and left at the end, with decay 0.9 from the first step: {at_once}")
print("expected: until the average starts, the weights as trained: 10, 20, ...; a later epoch as start differs from none")
print(f"seen: update_starting_at_step=25: {late}; =1000: {never}; update_starting_at_epoch=3: {epoch}")
untrained = late[:2] == [0, 0] and late[-1] > 20 and never == [0] * (EPOCHS + 1)
raise SystemExit(0 if untrained and epoch[: EPOCHS - 1] == at_once[: EPOCHS - 1] else 1)
PYTHON

#!/usr/bin/env bash
# accelerate 1.15.0: an epoch resumed by load_state and skip_first_batches has another order, so that images come twice or never; orders here depend on seed and epoch alone (training/batches.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import tempfile

import accelerate
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader, TensorDataset

IMAGES, BATCH, DONE = 64, 8, 4


def begin(seedable):
    """Accelerator and loader of a training script that starts, for the first time or to be resumed."""
    set_seed(0)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=seedable))
    loader = DataLoader(TensorDataset(torch.arange(IMAGES)), batch_size=BATCH, shuffle=True)
    return accelerator, accelerator.prepare(loader)


def interrupted_epoch(seedable):
    """The images of an epoch that was saved after half of its batches and resumed in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        accelerator, loader = begin(seedable)
        seen = []
        for done, (images,) in enumerate(loader, 1):
            seen += images.tolist()
            if done == DONE:
                accelerator.save_state(folder)
                break
        accelerator, loader = begin(seedable)
        accelerator.load_state(folder)
        return seen + [image for (images,) in skip_first_batches(loader, DONE) for image in images.tolist()]


counts = {seedable: len(set(interrupted_epoch(seedable))) for seedable in (False, True)}
print("version: accelerate", accelerate.__version__, "torch", torch.__version__)
print(f"expected: with one seed, and all random states restored, the two halves are the epoch's {IMAGES} images, each once")
print(f"seen: different images of {IMAGES}: {counts[False]}; with use_seedable_sampler, which is off unless asked for: {counts[True]}")
default = DataLoaderConfiguration().use_seedable_sampler
raise SystemExit(0 if not default and counts[True] == IMAGES and counts[False] < IMAGES - 5 else 1)
PYTHON

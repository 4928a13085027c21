"""What val decides: which epoch's weights count, and when patience is over."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import nn
from torch.nn import functional as F

from cifar_small.config.resolved import ResolvedConfig
from cifar_small.config.schema.run import Selection
from cifar_small.data.datamodule import DataModule
from cifar_small.inference.forward import compute_logits
from cifar_small.training.distributed import World
from cifar_small.training.state import State
from cifar_small.transforms.preprocess import Preprocess


def validate(
    net: nn.Module, data: DataModule, preprocess: Preprocess, precision: str, batch_size: int, world: World
) -> tuple[float, float]:
    """Loss and accuracy on val, without views, of a net whose BatchNorm statistics are rank 0's."""
    count = len(data.val)
    world.broadcast(*net.buffers())  # each rank has BatchNorm statistics of its own; rank 0's count
    part = compute_logits(net, data.val_images[world.share(count)], preprocess, "none", precision, batch_size)
    logits = world.gather(part, count)
    labels = torch.from_numpy(data.val.labels).to(data.device)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def select(state: State, val_accuracy: float, rule: Selection) -> bool:
    """Count the epoch just completed; do its weights take the place of those selected before?

    rule: best takes the first epoch of the highest accuracy on val, last takes every epoch.
    """
    better = val_accuracy > state.best_accuracy
    if better:
        state.best_accuracy, state.best_epoch = val_accuracy, state.epoch
    match rule:
        case "best":
            return better
        case "last":
            return True
        case unknown:
            assert_never(unknown)


def stale_epochs(state: State, resolved: ResolvedConfig) -> int:
    """Epochs of the last phase without a better accuracy on val. A phase still to come is part of the recipe: none counts.

    Where it averages over epochs (SWA), those that take weights into the average: between them the same average is evaluated.
    """
    last = resolved.phases[-1]
    since = range(max(state.best_epoch, last.start), state.epoch)
    return len(since) if last.settings.swa is None else sum(last.averages(epoch) for epoch in since)


def out_of_patience(state: State, resolved: ResolvedConfig) -> bool:
    """Has the last phase had as many epochs that count as `patience` without a better accuracy on val? Never without it."""
    patience = resolved.config.patience
    return patience is not None and stale_epochs(state, resolved) >= patience

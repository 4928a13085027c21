"""Images to logits: the one forward path of inference, with views."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cifar_small.environment import (
    autocast,
)
from cifar_small.models import activate_dropout
from cifar_small.transforms.preprocess import Preprocess
from cifar_small.transforms.views import VIEWS, Weighted


@torch.no_grad()
def compute_logits(
    model: nn.Module,
    images: Tensor,
    preprocess: Preprocess,
    views: str | Weighted,
    precision: str,
    batch_size: int,
    progress: bool = False,
    dropout: bool = False,
) -> Tensor:
    """Logits (N, K) float32 of uint8 images (N, 3, 32, 32): the weighted mean over views, in eval mode.

    views: a choice of `VIEWS`, or views with weights, which move the stored pixels, before they are enlarged. dropout: let the
    dropout layers drop, by torch's global generator.
    """
    was_training = model.training
    model.eval()
    if dropout:
        activate_dropout(model)
    weighted, logits = _weighted(views), []
    with tqdm(total=len(images), unit="img", disable=None if progress else True, desc=f"views: {_name(views)}") as bar:
        for batch in torch.split(images, batch_size):
            pixels = preprocess.normalize(batch)
            with autocast(images.device, precision):
                # channels-last whatever the run's layout: of the two the faster one for convolutions everywhere
                seen = ((preprocess.enlarge(view(pixels)), weight) for view, weight in weighted)
                parts = [model(one.contiguous(memory_format=torch.channels_last)).float() * weight for one, weight in seen]
            logits.append(torch.stack(parts).sum(0))
            bar.update(len(batch))
    model.train(was_training)
    return torch.cat(logits)


def _weighted(views: str | Weighted) -> Weighted:
    return VIEWS[views] if isinstance(views, str) else views


def _name(views: str | Weighted) -> str:
    return views if isinstance(views, str) else ", ".join(str(view) for view, _ in views)

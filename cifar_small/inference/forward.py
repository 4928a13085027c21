"""Images to logits: the one forward path of inference, with views."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cifar_small.config.schema import split_views
from cifar_small.environment import autocast, no_bar
from cifar_small.models import activate_dropout
from cifar_small.transforms.preprocess import Preprocess
from cifar_small.transforms.views import IMAGE, VIEWS, Weighted


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
    """Logits (N, K) float32 of uint8 images (N, 3, S, S), S as stored: the weighted mean over views, in eval mode.

    views: a choice of `VIEWS`, or views with weights, which move the stored pixels, before they are enlarged. With a share, as
    in `flip_shift@0.25`, all images are seen as they are, and only this share of them, the `least_certain`, is given the other
    views too, so that an image's logits depend on the company it is predicted in. dropout: let the dropout layers drop, by
    torch's global generator.
    """
    was_training = model.training
    model.eval()
    if dropout:
        activate_dropout(model)
    name, share = split_views(views) if isinstance(views, str) else ("", 1.0)
    weighted = VIEWS[name] if isinstance(views, str) else views
    forward = partial(_forward, model, preprocess=preprocess, precision=precision, batch_size=batch_size)
    total = len(images) + (0 if share == 1 else _count(len(images), share))
    with tqdm(total=total, unit="img", disable=no_bar(progress), desc=f"views: {views_label(views)}") as bar:
        if share == 1:
            logits = forward(images, weighted, bar=bar)
        else:
            logits = forward(images, [(IMAGE, 1.0)], bar=bar)
            chosen = least_certain(logits, share)
            seen = logits[chosen] * dict(weighted).get(IMAGE, 0.0)
            logits[chosen] = seen + forward(images[chosen], [pair for pair in weighted if pair[0] != IMAGE], bar=bar)
    model.train(was_training)
    return logits


def least_certain(logits: Tensor, share: float) -> Tensor:
    """The images of the lowest top probability, of equals the first: int64 (share N, rounded, at least 1) on their device."""
    certainty = torch.softmax(logits, dim=1).amax(1)
    return torch.argsort(certainty, stable=True)[: _count(len(logits), share)]


def _count(images: int, share: float) -> int:
    return max(1, round(share * images))


def _forward(
    model: nn.Module,
    images: Tensor,
    weighted: Weighted,
    *,
    preprocess: Preprocess,
    precision: str,
    batch_size: int,
    bar: Any,
) -> Tensor:
    """The sum over views of weight x logits, batch by batch."""
    logits = []
    for batch in torch.split(images, batch_size):
        pixels = preprocess.normalize(batch)
        with autocast(images.device, precision):
            # channels-last whatever the run's layout: of the two the faster one for convolutions everywhere
            seen = ((preprocess.enlarge(view(pixels)), weight) for view, weight in weighted)
            parts = [model(one.contiguous(memory_format=torch.channels_last)).float() * weight for one, weight in seen]
        logits.append(torch.stack(parts).sum(0))
        bar.update(len(batch))
    return torch.cat(logits)


def views_label(views: str | Weighted) -> str:
    """A set of views in words: its name, or the views of one that has none."""
    return views if isinstance(views, str) else ", ".join(str(view) for view, _ in views)

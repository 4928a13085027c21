"""Augmentation of whole batches by a function of the user's own."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from cifar_small.config.own_code import load_own
from cifar_small.config.schema import OwnAugment
from cifar_small.errors import ConfigError

TRIED = 8  # images


def augment_by_own(settings: OwnAugment, images: Tensor, generator: torch.Generator) -> Tensor:
    """The images as the user's function returns them: uint8 (B, 3, H, W), as given. Raises ConfigError for anything else."""
    function = load_own(settings.engine, settings.sha256)
    try:
        done = function(images.clone(), generator, **deepcopy(settings.arguments))
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ConfigError(
            f"{settings.engine} cannot augment uint8 images {tuple(images.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(done, Tensor) or done.dtype != torch.uint8 or done.shape != images.shape:
        got = f"{done.dtype} {tuple(done.shape)}" if isinstance(done, Tensor) else type(done).__name__
        raise ConfigError(f"{settings.engine} returns {got}; expected torch.uint8 {tuple(images.shape)}, as it was given")
    return done.to(images.device)


def check_own_augment(settings: OwnAugment, side: int) -> None:
    """Try the function on random images. Raises ConfigError where it changes nothing, or not the same for equal generators."""
    images = torch.randint(0, 256, (TRIED, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, again = (augment_by_own(settings, images, torch.Generator().manual_seed(1)) for _ in range(2))
    if not torch.equal(first, again):
        raise ConfigError(
            f"{settings.engine} gives other pixels for the same generator: all its random numbers must come from it, or "
            "a resumed run would not be exact"
        )
    if all(torch.equal(augment_by_own(settings, images, torch.Generator().manual_seed(seed)), images) for seed in range(20)):
        raise ConfigError(f"{settings.engine} changes nothing in 20 batches of {TRIED} random images; drop it, or mend it")

"""Mixing of a batch into soft targets: mixup and CutMix.

Both return (images, targets) with targets (B, K) that sum to 1 per row; nothing downstream knows which mixing it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cifar_small.schema import Recipe


@dataclass(frozen=True)
class Mix:
    """The random numbers of one mixed batch."""

    kind: str  # "none", "mixup" or "cutmix"
    weight: float  # share of the image's own label
    partner: Tensor  # int64 (B,): a permutation, the image each one is mixed with
    box: tuple[int, int, int, int]  # top, bottom, left, right of the pasted box (cutmix)


def draw_mix(recipe: Recipe, batch: int, rng: np.random.Generator) -> Mix:
    """Draw whether and how a batch of B images of 32x32 pixels is mixed.

    mixup: Zhang et al. 2017, arXiv 1710.09412; CutMix: Yun et al. 2019, arXiv 1905.04899 (the label weight is the share of
    pixels actually kept after the box is clipped at the border).
    """
    alphas = {"mixup": recipe.mixup_alpha, "cutmix": recipe.cutmix_alpha}
    kinds = [kind for kind, alpha in alphas.items() if alpha]
    identity = torch.arange(batch)
    if not kinds or rng.random() >= recipe.mix_prob:
        return Mix("none", 1.0, identity, (0, 0, 0, 0))
    kind = kinds[int(rng.integers(len(kinds)))]
    weight = float(rng.beta(alphas[kind], alphas[kind]))
    partner = torch.from_numpy(rng.permutation(batch))
    if kind == "mixup":
        return Mix(kind, weight, partner, (0, 0, 0, 0))
    side = round(32 * (1 - weight) ** 0.5)
    row, column = (int(x) for x in rng.integers(32, size=2))
    top, left = max(0, row - side // 2), max(0, column - side // 2)
    bottom, right = min(32, row - side // 2 + side), min(32, column - side // 2 + side)
    return Mix(kind, 1 - (bottom - top) * (right - left) / 1024, partner, (top, bottom, left, right))


def apply_mix(mix: Mix, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mix images (B, 3, 32, 32) and targets (B, K) as drawn."""
    if mix.kind == "none":
        return images, targets
    partner = mix.partner.to(images.device, non_blocking=True)
    mixed_targets = mix.weight * targets + (1 - mix.weight) * targets[partner]
    if mix.kind == "mixup":
        return mix.weight * images + (1 - mix.weight) * images[partner], mixed_targets
    top, bottom, left, right = mix.box
    mixed = images.clone(memory_format=torch.preserve_format)
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return mixed, mixed_targets

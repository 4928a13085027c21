"""Mixing of a batch into soft targets: mixup, CutMix and RICAP.

All return (images, targets) with targets (B, K) that sum to 1 per row; nothing downstream knows which mixing it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cifar_small.config.schema import MIX_KINDS, Recipe


@dataclass(frozen=True)
class Patch:
    """One of the four parts of RICAP's images."""

    partner: Tensor  # int64 (B,): a permutation, the image each one takes this part from
    box: tuple[int, int, int, int]  # top, bottom, left, right: where the part goes
    corner: tuple[int, int]  # top, left of the part in the image it is taken from


@dataclass(frozen=True)
class Mix:
    """The random numbers of one mixed batch."""

    kind: str  # "none", "mixup", "cutmix" or "ricap"
    weight: float  # share of the image's own label
    partner: Tensor  # int64 (B,): a permutation, the image each one is mixed with
    box: tuple[int, int, int, int]  # top, bottom, left, right of the pasted box (cutmix)
    patches: tuple[Patch, ...] = ()  # the four parts of the images, of which the first is their own (ricap)


def draw_mix(recipe: Recipe, batch: int, rng: np.random.Generator, side: int = 32) -> Mix:
    """Draw whether and how a batch of B images of `side` pixels a side is mixed.

    mixup: Zhang et al. 2017, arXiv 1710.09412; CutMix: Yun et al. 2019, arXiv 1905.04899 (the label weight is the share of
    pixels actually kept after the box is clipped at the border). RICAP: Takahashi et al. 2018, arXiv 1811.09030.
    """
    kind = _draw_kind(recipe, rng)
    if kind == "none":
        return Mix(kind, 1.0, torch.arange(batch), (0, 0, 0, 0))
    if kind == "ricap":
        return _draw_ricap(recipe.ricap_beta, batch, rng, side)
    alpha = getattr(recipe, MIX_KINDS[kind])
    weight = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(batch))
    if kind == "mixup":
        return Mix(kind, weight, partner, (0, 0, 0, 0))
    assert kind == "cutmix", kind
    length = round(side * (1 - weight) ** 0.5)
    row, column = (int(x) for x in rng.integers(side, size=2))
    top, left = max(0, row - length // 2), max(0, column - length // 2)
    bottom, right = min(side, row - length // 2 + length), min(side, column - length // 2 + length)
    return Mix(kind, 1 - (bottom - top) * (right - left) / side**2, partner, (top, bottom, left, right))


def _draw_kind(recipe: Recipe, rng: np.random.Generator) -> str:
    kinds = [kind for kind, name in MIX_KINDS.items() if getattr(recipe, name)]
    if not kinds:
        return "none"
    chance = rng.random()
    if recipe.mix_probs is None:
        return "none" if chance >= recipe.mix_prob else kinds[int(rng.integers(len(kinds)))]
    for kind in kinds:
        chance -= getattr(recipe.mix_probs, kind)
        if chance < 0:
            return kind
    return "none"


def _draw_ricap(beta: float, batch: int, rng: np.random.Generator, side: int) -> Mix:
    """Four images meet at a point whose coordinates are Beta(beta, beta); each gives a random crop of its part's size."""
    row, column = (round(side * float(rng.beta(beta, beta))) for _ in range(2))
    patches: list[Patch] = []
    for top, bottom in ((0, row), (row, side)):
        for left, right in ((0, column), (column, side)):
            corner = (int(rng.integers(side + 1 - (bottom - top))), int(rng.integers(side + 1 - (right - left))))
            # Which of the four is the image's own makes no difference to a batch in random order.
            partner = torch.from_numpy(rng.permutation(batch)) if patches else torch.arange(batch)
            patches.append(Patch(partner, (top, bottom, left, right), corner))
    return Mix("ricap", row * column / side**2, patches[0].partner, (0, 0, 0, 0), tuple(patches))


def apply_mix(mix: Mix, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mix images (B, 3, H, H) and targets (B, K) as drawn."""
    if mix.kind == "none":
        return images, targets
    if mix.kind == "ricap":
        return _apply_ricap(mix, images, targets)
    partner = mix.partner.to(images.device, non_blocking=True)
    mixed_targets = mix.weight * targets + (1 - mix.weight) * targets[partner]
    if mix.kind == "mixup":
        return mix.weight * images + (1 - mix.weight) * images[partner], mixed_targets
    assert mix.kind == "cutmix", mix.kind
    top, bottom, left, right = mix.box
    mixed = images.clone(memory_format=torch.preserve_format)
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return mixed, mixed_targets


def _apply_ricap(mix: Mix, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    mixed, mixed_targets = torch.empty_like(images), torch.zeros_like(targets)
    for patch in mix.patches:
        (top, bottom, left, right), (row, column) = patch.box, patch.corner
        partner = patch.partner.to(images.device, non_blocking=True)
        source = images[partner, :, row : row + bottom - top, column : column + right - left]
        mixed[:, :, top:bottom, left:right] = source
        mixed_targets = mixed_targets + (bottom - top) * (right - left) / images.shape[-1] ** 2 * targets[partner]
    return mixed, mixed_targets

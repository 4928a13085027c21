"""Batched augmentation on the device: randomness is drawn in one place and applied in another.

`draw` makes every random number of an epoch at once on the CPU from an explicit generator: a few bytes an image, the same on
every device, independent of batch size and of where a run was interrupted. `crop_and_flip` and `cover` are pure functions of
images and draws.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_small.schema import Augment


@dataclass(frozen=True)
class Draws:
    """The random numbers of N augmented images; every tensor has length N."""

    offset: Tensor  # int64 (N, 2): row and column of the crop in the padded image, 0..2*crop
    flip: Tensor  # bool (N,): mirrored left-right
    vertical_flip: Tensor  # bool (N,)
    cutout: Tensor  # int64 (N, 2): centre of the cutout square, 0..31
    erase: Tensor  # int64 (N, 4): top, left, height, width of the erased box; height 0: none

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def to(self, device: torch.device) -> Draws:
        """The same draws on a device."""
        return Draws(**{field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)})


def draw(settings: Augment, images: Tensor, generator: torch.Generator, parity: Tensor, epoch: int) -> Draws:
    """Draw the augmentation of one epoch.

    images: int64 (N,), the dataset index at each position of the epoch; parity: bool over the dataset, drawn once a run, in
    which direction each image starts alternating (Jordan 2024, arXiv 2404.00498); epoch: 0-based.
    """
    count = len(images)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (count, *shape), generator=generator)

    def chance(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    offset = integers(2 * settings.crop + 1, 2)
    flip = chance(0.5)
    if settings.flip == "alternating":
        flip = parity[images] ^ bool(epoch % 2)
    elif settings.flip == "none":
        flip = torch.zeros(count, dtype=torch.bool)
    vertical_flip = chance(settings.vertical_flip)
    cutout = integers(32, 2)
    return Draws(offset, flip, vertical_flip, cutout, _draw_boxes(settings, chance(settings.erasing), generator))


def _draw_boxes(settings: Augment, erased: Tensor, generator: torch.Generator) -> Tensor:
    """Boxes of random area and aspect ratio 0.3..3.3 inside the image (Zhong et al. 2017, arXiv 1708.04896)."""
    count = len(erased)
    low, high = settings.erasing_scale
    area = 32 * 32 * (low + (high - low) * torch.rand(count, generator=generator))
    log_ratio = torch.log(torch.tensor(3.3)) * (2 * torch.rand(count, generator=generator) - 1)
    ratio = torch.exp(log_ratio)
    height = (area * ratio).sqrt().round().clamp(1, 32).long()
    width = (area / ratio).sqrt().round().clamp(1, 32).long()
    top = (torch.rand(count, generator=generator) * (33 - height)).long()
    left = (torch.rand(count, generator=generator) * (33 - width)).long()
    boxes = torch.stack((top, left, height, width), dim=1)
    return torch.where(erased[:, None], boxes, torch.zeros_like(boxes))


def pad_images(images: Tensor, settings: Augment, fill: Tensor) -> Tensor:
    """Pad a dataset once so that a crop is a window of it: uint8 (N, 3, 32, 32) -> (N, 3, 32+2p, 32+2p).

    fill: uint8 (3,), the channel means, which become about 0 after normalisation as zero padding intends.
    """
    pad = settings.crop
    if not pad:
        return images
    if settings.pad == "reflect":
        padded = [F.pad(part.float(), (pad,) * 4, mode="reflect").byte() for part in torch.split(images, 5000)]
        return torch.cat(padded)
    size = 32 + 2 * pad
    padded_images = fill.view(1, 3, 1, 1).expand(len(images), 3, size, size).clone()
    padded_images[:, :, pad : pad + 32, pad : pad + 32] = images
    return padded_images


def crop_and_flip(padded: Tensor, images: Tensor, draws: Draws) -> Tensor:
    """Gather augmented windows from the padded dataset: uint8 (B, 3, 32, 32) for dataset indices `images` (B,)."""
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1)  # a view (N, 3, rows, columns, 32, 32)
    crops = windows.permute(0, 2, 3, 1, 4, 5)[images, draws.offset[:, 0], draws.offset[:, 1]]
    crops = torch.where(draws.flip.view(-1, 1, 1, 1), crops.flip(3), crops)
    return torch.where(draws.vertical_flip.view(-1, 1, 1, 1), crops.flip(2), crops)


def cover(pixels: Tensor, settings: Augment, draws: Draws) -> Tensor:
    """Set cutout squares and erased boxes of normalised images (B, 3, 32, 32) to 0, the training mean.

    Cutout squares are centred anywhere and clipped at the border (DeVries & Taylor 2017, arXiv 1708.04552).
    """
    if not settings.cutout and not settings.erasing:
        return pixels
    axis = torch.arange(32, device=pixels.device)
    hidden = torch.zeros(len(pixels), 32, 32, dtype=torch.bool, device=pixels.device)
    if settings.cutout:
        start = draws.cutout - settings.cutout // 2
        hidden |= _box(axis, start[:, 0], start[:, 1], settings.cutout, settings.cutout)
    if settings.erasing:
        top, left, height, width = draws.erase.unbind(1)
        hidden |= _box(axis, top, left, height.view(-1, 1), width.view(-1, 1))
    return pixels.masked_fill(hidden[:, None], 0.0)


def resize(pixels: Tensor, side: int) -> Tensor:
    """Images (B, 3, 32, 32) as (B, 3, side, side): antialiased bilinear, for phases that train at a lower resolution."""
    if side == pixels.shape[-1]:
        return pixels
    return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def _box(axis: Tensor, top: Tensor, left: Tensor, height: Tensor | int, width: Tensor | int) -> Tensor:
    rows = (axis >= top[:, None]) & (axis < top[:, None] + height)
    columns = (axis >= left[:, None]) & (axis < left[:, None] + width)
    return rows[:, :, None] & columns[:, None, :]

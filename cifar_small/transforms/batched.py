"""Batched augmentation on the device: randomness is drawn in one place and applied in another.

`draw` makes every random number of an epoch at once on the CPU from an explicit generator: a few bytes an image, the same on
every device, independent of batch size and of where a run was interrupted. `crop_and_flip`, `distort` and `cover`, used in
this order, are pure functions of images and draws.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar, assert_never

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_small.config.schema import Augment, BasicAugment
from cifar_small.transforms.functional import (
    LEVELS,
    OPERATIONS,
    affine_matrices,
    apply_operations,
    blur,
    blur_radius,
    brightness,
    contrast,
    hue,
    resize,
    saturation,
    warp,
)


@dataclass(frozen=True)
class Draws:
    """The random numbers of N augmented images; every tensor has length N; the second axis of what is off is empty."""

    offset: Tensor  # int64 (N, 2): row and column of the crop in the padded image, 0..2*crop
    flip: Tensor  # bool (N,): mirrored left-right
    vertical_flip: Tensor  # bool (N,)
    cutout: Tensor  # int64 (N, 2): center of the cutout square, 0..side-1
    erase: Tensor  # int64 (N, 4): top, left, height, width of the erased box; height 0: none
    affine: Tensor  # float32 (N, 6): the parameters of `affine_matrices`
    operations: Tensor  # int64 (N, n): the policy's operations, indices into OPERATIONS; on the CPU, see `apply_operations`
    strengths: Tensor  # float32 (N, n): of these operations
    color: Tensor  # float32 (N, 4): factors of brightness, contrast and saturation, shift of the hue
    sigma: Tensor  # float32 (N, 1): of the blur, in pixels; 0: none

    def __getitem__(self, rows: slice | Tensor) -> Draws:
        return Draws(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def to(self, device: torch.device) -> Draws:
        """The same draws on a device."""
        moved = {field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)}
        return Draws(**{**moved, "operations": self.operations})


Settings = TypeVar("Settings", bound=BasicAugment)


def scaled(settings: Settings, side: int) -> Settings:
    """The same augmentation for images of another size: lengths are of the 32x32 image, and grow with it."""
    if side == 32:
        return settings
    lengths: dict[str, object] = {key: round(getattr(settings, key) * side / 32) for key in ("crop", "cutout")}
    if isinstance(settings, Augment):
        low, high = settings.blur_sigma
        lengths["blur_sigma"] = (low * side / 32, high * side / 32)
    return settings.model_copy(update=lengths)


def draw(
    settings: BasicAugment, images: Tensor, generator: torch.Generator, parity: Tensor, epoch: int, side: int = 32
) -> Draws:
    """Draw the augmentation of one epoch.

    images: int64 (N,), the dataset index at each position of the epoch; parity: bool over the dataset, drawn once a run, in
    which direction each image starts alternating (Jordan 2024, arXiv 2404.00498); epoch: 0-based; side: of the images, for
    which the settings are already `scaled`.
    """
    count = len(images)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (count, *shape), generator=generator)

    def chance(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    offset = integers(2 * settings.crop + 1, 2)
    flip = chance(0.5)
    match settings.flip:
        case "random":
            pass
        case "alternating":
            flip = parity[images] ^ bool(epoch % 2)
        case "none":
            flip = torch.zeros(count, dtype=torch.bool)
        case unknown:
            assert_never(unknown)
    vertical_flip = chance(settings.vertical_flip)
    cutout = integers(side, 2)
    boxes = _draw_boxes(settings, chance(settings.erasing), generator, side)
    # From here on numbers are drawn only for what is on, so that configs from before these settings draw the same as then.
    return Draws(offset, flip, vertical_flip, cutout, boxes, **_draw_distortions(settings, count, generator, side))


def _draw_distortions(settings: BasicAugment, count: int, generator: torch.Generator, side: int) -> dict[str, Tensor]:
    nothing = torch.empty(count, 0)
    found = {"affine": nothing, "operations": nothing.long(), "strengths": nothing, "color": nothing, "sigma": nothing}
    if not isinstance(settings, Augment):
        return found

    def uniform(*columns: tuple[float, float]) -> Tensor:
        low, high = torch.tensor(columns).unbind(1)
        return low + (high - low) * torch.rand(count, len(columns), generator=generator)

    def about(center: float, *widths: float) -> list[tuple[float, float]]:
        return [(center - width, center + width) for width in widths]

    if moves(settings):
        angle, shift, shear = about(0, settings.rotation), about(0, side * settings.translate), about(0, settings.shear)
        found["affine"] = uniform(*angle, *shift * 2, settings.scale, *shear * 2)
    if settings.policy:
        wide = {"trivialaugment": True, "randaugment": False}[settings.policy]
        turns = 1 if wide else settings.num_ops
        found["operations"] = torch.randint(len(OPERATIONS), (count, turns), generator=generator)
        level = torch.randint(LEVELS + 1, (count, turns), generator=generator) if wide else torch.tensor(settings.magnitude)
        sign = 2 * torch.randint(2, (count, turns), generator=generator) - 1
        largest = torch.tensor([entry[1 if wide else 2] for entry in OPERATIONS.values()])[found["operations"]]
        lengths = torch.tensor([name.startswith("translate") for name in OPERATIONS])[found["operations"]]
        largest = torch.where(lengths, largest * (side / 32), largest)
        signed = torch.tensor([entry[3] for entry in OPERATIONS.values()])[found["operations"]]
        found["strengths"] = largest * level / LEVELS * torch.where(signed, sign, 1)
    if settings.brightness or settings.contrast or settings.saturation or settings.hue:
        factors = about(1, settings.brightness, settings.contrast, settings.saturation)
        found["color"] = uniform(*factors, *about(0, settings.hue))
    if settings.blur:
        blurred = torch.rand(count, 1, generator=generator) < settings.blur
        found["sigma"] = torch.where(blurred, uniform(settings.blur_sigma), 0.0)
    return found


def moves(settings: Augment) -> bool:
    """Whether an affine map is on."""
    return bool(settings.rotation or settings.translate or settings.shear or settings.scale != (1.0, 1.0))


def _draw_boxes(settings: BasicAugment, erased: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """Boxes of random area and aspect ratio 0.3..3.3 inside the image (Zhong et al. 2017, arXiv 1708.04896)."""
    count = len(erased)
    low, high = settings.erasing_scale
    area = side * side * (low + (high - low) * torch.rand(count, generator=generator))
    log_ratio = torch.log(torch.tensor(3.3)) * (2 * torch.rand(count, generator=generator) - 1)
    ratio = torch.exp(log_ratio)
    height = (area * ratio).sqrt().round().clamp(1, side).long()
    width = (area / ratio).sqrt().round().clamp(1, side).long()
    top = (torch.rand(count, generator=generator) * (side + 1 - height)).long()
    left = (torch.rand(count, generator=generator) * (side + 1 - width)).long()
    boxes = torch.stack((top, left, height, width), dim=1)
    return torch.where(erased[:, None], boxes, torch.zeros_like(boxes))


def pad_images(images: Tensor, settings: BasicAugment, fill: Tensor) -> Tensor:
    """Pad a dataset once so that a crop is a window of it: uint8 (N, 3, H, H) -> (N, 3, H+2p, H+2p).

    fill: uint8 (3,), the channel means, which become about 0 after normalization as zero padding intends.
    """
    pad = settings.crop
    if not pad:
        return images
    match settings.pad:
        case "reflect":
            padded = [F.pad(part.float(), (pad,) * 4, mode="reflect").byte() for part in torch.split(images, 5000)]
            return torch.cat(padded)
        case "zero":
            side = images.shape[-1]
            size = side + 2 * pad
            padded_images = fill.view(1, 3, 1, 1).expand(len(images), 3, size, size).clone()
            padded_images[:, :, pad : pad + side, pad : pad + side] = images
            return padded_images
        case unknown:
            assert_never(unknown)


def crop_and_flip(padded: Tensor, images: Tensor, draws: Draws, side: int = 32) -> Tensor:
    """Gather augmented windows from the padded dataset: uint8 (B, 3, side, side) for dataset indices `images` (B,)."""
    windows = padded.unfold(2, side, 1).unfold(3, side, 1)  # a view (N, 3, rows, columns, side, side)
    crops = windows.permute(0, 2, 3, 1, 4, 5)[images, draws.offset[:, 0], draws.offset[:, 1]]
    crops = torch.where(draws.flip.view(-1, 1, 1, 1), crops.flip(3), crops)
    return torch.where(draws.vertical_flip.view(-1, 1, 1, 1), crops.flip(2), crops)


def distort(pixels: Tensor, settings: Augment, draws: Draws, fill: Tensor) -> Tensor:
    """Affine map, policy, colors and blur: uint8 (B, 3, H, W) -> float32 in 0..255, or the same images with all that off.

    fill: uint8 (3,), the color beyond the edge where `border` is zero.
    """
    level = fill.float()
    if draws.affine.shape[1]:
        pixels = warp(pixels.float(), affine_matrices(draws.affine), settings.border, level)
    if draws.operations.shape[1]:
        pixels = apply_operations(pixels.float(), draws.operations, draws.strengths, settings.border, level)
    if draws.color.shape[1]:
        pixels = pixels.float()
        for amount, change, strength in zip(
            (settings.brightness, settings.contrast, settings.saturation, settings.hue),
            (brightness, contrast, saturation, hue),
            draws.color.unbind(1),
            strict=True,
        ):
            pixels = change(pixels, strength) if amount else pixels
    if draws.sigma.shape[1]:
        pixels = blur(pixels.float(), draws.sigma[:, 0], blur_radius(settings.blur_sigma[1]))
    return pixels


def cover(pixels: Tensor, settings: BasicAugment, draws: Draws) -> Tensor:
    """Set cutout squares and erased boxes of normalized images (B, 3, H, H) to 0, the training mean.

    Cutout squares are centered anywhere and clipped at the border (DeVries & Taylor 2017, arXiv 1708.04552).
    """
    if not settings.cutout and not settings.erasing:
        return pixels
    side = pixels.shape[-1]
    axis = torch.arange(side, device=pixels.device)
    hidden = torch.zeros(len(pixels), side, side, dtype=torch.bool, device=pixels.device)
    if settings.cutout:
        start = draws.cutout - settings.cutout // 2
        hidden |= _box(axis, start[:, 0], start[:, 1], settings.cutout, settings.cutout)
    if settings.erasing:
        top, left, height, width = draws.erase.unbind(1)
        hidden |= _box(axis, top, left, height.view(-1, 1), width.view(-1, 1))
    return pixels.masked_fill(hidden[:, None], 0.0)


def enlarge(images: Tensor, side: int, interpolation: str) -> Tensor:
    """uint8 images (B, 3, H, H) as uint8 (B, 3, side, side), to be augmented at that size."""
    if side == images.shape[-1]:
        return images
    return resize(images.float(), side, interpolation).round().clamp(0, 255).byte()


def _box(axis: Tensor, top: Tensor, left: Tensor, height: Tensor | int, width: Tensor | int) -> Tensor:
    rows = (axis >= top[:, None]) & (axis < top[:, None] + height)
    columns = (axis >= left[:, None]) & (axis < left[:, None] + width)
    return rows[:, :, None] & columns[:, None, :]

"""Batched image operations, each image with a strength of its own, on float pixels 0..255 of shape (B, 3, H, W).

A pixel is computed from its own image and strength alone and in one order of operations, so it does not depend on the other
images of the batch: sums that an implementation might reorder are either of whole numbers or written out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_small.config.schema.augment import Border


def resize(pixels: Tensor, side: int, interpolation: str = "bilinear") -> Tensor:
    """Images (B, 3, H, H) as (B, 3, side, side), antialiased where they shrink; bicubic is that of PIL, not torch's other."""
    if side == pixels.shape[-1]:
        return pixels
    return F.interpolate(pixels, size=(side, side), mode=interpolation, antialias=True, align_corners=False)


def affine_matrices(parameters: Tensor) -> Tensor:
    """Maps from output to input positions, in pixels from the image's center: float32 (B, 2, 3).

    parameters: (B, 6): degrees clockwise, pixels to the right and down, scale of the content, shear along x and along y in
    degrees. The conventions are those of torchvision's `affine`.
    """
    degrees, right, down, scale, shear_x, shear_y = parameters.double().unbind(1)  # rounded once, at the end
    angle, x, y = (torch.deg2rad(value) for value in (degrees, shear_x, shear_y))
    a = torch.cos(angle - y) / torch.cos(y)
    b = -(a * torch.tan(x) + torch.sin(angle))
    c = torch.sin(angle - y) / torch.cos(y)
    d = torch.cos(angle) - c * torch.tan(x)
    columns = torch.stack((d / scale, -b / scale), 1)
    rows = torch.stack((-c / scale, a / scale), 1)
    matrix = torch.stack((columns, rows), 1)
    moved = matrix[:, :, 0] * right[:, None] + matrix[:, :, 1] * down[:, None]
    return torch.cat((matrix, -moved[:, :, None]), 2).float()


def warp(pixels: Tensor, matrices: Tensor, border: Border, fill: Tensor) -> Tensor:
    """Sample each image bilinearly through its matrix (B, 2, 3); beyond the edge lies `fill` (3,), or the mirrored image."""
    height, width = pixels.shape[2:]
    x = torch.arange(width, device=pixels.device) - (width - 1) / 2
    y = (torch.arange(height, device=pixels.device) - (height - 1) / 2)[:, None]
    m = matrices[:, :, :, None, None]
    columns = m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]
    rows = m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]
    grid = torch.stack((columns * (2 / width), rows * (2 / height)), 3)
    match border:
        case "reflect":
            return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        case "zero":
            level = fill.view(1, 3, 1, 1)
            return F.grid_sample(pixels - level, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + level
        case unknown:
            assert_never(unknown)


def _blend(pixels: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor 1: the pixels; 0: the other image; beyond: extrapolated. factor (B,)."""
    share = factor.view(-1, 1, 1, 1)
    return (share * pixels + (1 - share) * other).clamp(0, 255)


def _gray(pixels: Tensor) -> Tensor:
    red, green, blue = pixels[:, :1], pixels[:, 1:2], pixels[:, 2:]
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Scale towards black (0) or beyond; factor (B,), 1: no change."""
    return (factor.view(-1, 1, 1, 1) * pixels).clamp(0, 255)


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean gray; factor (B,), 1: no change. Gray is rounded first, so that its sum is exact."""
    return _blend(pixels, _gray(pixels).round().sum((2, 3), keepdim=True) / (pixels.shape[2] * pixels.shape[3]), factor)


def saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the gray image; factor (B,), 1: no change."""
    return _blend(pixels, _gray(pixels), factor)


def hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn the color circle (HSV) by a share of it; shift (B,), 0: no change."""
    red, green, blue = pixels.unbind(1)
    high, low = pixels.amax(1), pixels.amin(1)
    spread = high - low
    safe = torch.where(spread > 0, spread, 1.0)
    sector = torch.where(
        high == red, (green - blue) / safe, torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    sector = sector + 6 * shift.view(-1, 1, 1)
    place = torch.stack([torch.remainder(start + sector, 6) for start in (5, 3, 1)], 1)
    return high[:, None] - spread[:, None] * torch.minimum(place, 4 - place).clamp(0, 1)


def sharpness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with a smoothed image whose outermost pixels stay; factor (B,), 1: no change."""
    height, width = pixels.shape[2:]
    total = 4 * pixels[:, :, 1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            total = total + pixels[:, :, row : row + height - 2, column : column + width - 2]
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = total / 13
    return _blend(pixels, smooth, factor)


def blur(pixels: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur of `2 * radius + 1` taps a side, edge mirrored; sigma (B,) in pixels, 0: no change."""
    taps = torch.arange(-radius, radius + 1, device=pixels.device, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / sigma.double().clamp(min=1e-3)[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).float()
    for axis in (2, 3):
        padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded, size = F.pad(pixels, padding, mode="reflect"), pixels.shape[axis]
        pixels = torch.zeros_like(pixels)
        for tap in range(2 * radius + 1):
            pixels = pixels + weights[:, tap].view(-1, 1, 1, 1) * padded.narrow(axis, tap, size)
    return pixels


def posterize(pixels: Tensor, dropped: Tensor) -> Tensor:
    """Clear the lowest bits of each pixel, rounded first; dropped (B,): how many, 0..8."""
    bits = dropped.round().int().view(-1, 1, 1, 1)
    return ((pixels.round().int() >> bits) << bits).float()


def solarize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Invert pixels of 255 - strength and above; strength (B,), 0..255."""
    return torch.where(pixels >= 255 - strength.view(-1, 1, 1, 1), 255 - pixels, pixels)


def autocontrast(pixels: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a constant channel stays."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    flat = high == low
    spread = torch.where(flat, 1.0, high - low)
    return torch.where(flat, pixels, (pixels - low) * 255 / spread)


def equalize(pixels: Tensor) -> Tensor:
    """Equalize each channel's histogram of rounded pixels, with the look-up table of PIL's ImageOps.equalize."""
    shape = pixels.shape
    levels = pixels.round().long().flatten(2)
    counts = torch.zeros(*shape[:2], 256, dtype=torch.long, device=pixels.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    below = counts.cumsum(2)
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (below[:, :, -1:] - brightest).div(255, rounding_mode="floor")
    table = (below - counts + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp(0, 255)
    return torch.where(step > 0, table.gather(2, levels), levels).view(shape).float()


def _moved(column: int) -> Callable[[Tensor, Tensor, Border, Tensor], Tensor]:
    """The operation that sets one column of `affine_matrices`' parameters."""

    def operation(pixels: Tensor, strength: Tensor, border: Border, fill: Tensor) -> Tensor:
        parameters = torch.zeros(len(pixels), 6, dtype=torch.float64, device=pixels.device)
        parameters[:, 3] = 1
        parameters[:, column] = strength.double()
        return warp(pixels, affine_matrices(parameters), border, fill)

    return operation


def _sheared(column: int) -> Callable[[Tensor, Tensor, Border, Tensor], Tensor]:
    move = _moved(column)
    return lambda pixels, strength, border, fill: move(
        pixels, torch.rad2deg(torch.atan(strength.double())), border, fill
    )  # strength is the shear's tangent


# The list of RandAugment (Cubuk et al. 2019, arXiv 1909.13719) and TrivialAugment (Müller & Hutter 2021, arXiv 2103.10158):
# name: operation, its largest strength in TrivialAugment's wide list, in RandAugment, and whether its sign is random. Strengths
# are linear in the level; a shear or rotation is about the center, and all are bilinear.
OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor, Border, Tensor], Tensor], float, float, bool]] = {
    "identity": (lambda pixels, strength, border, fill: pixels, 0, 0, False),
    "shear_x": (_sheared(4), 0.99, 0.3, True),
    "shear_y": (_sheared(5), 0.99, 0.3, True),
    "translate_x": (_moved(1), 32, 32 * 150 / 331, True),
    "translate_y": (_moved(2), 32, 32 * 150 / 331, True),
    "rotate": (_moved(0), 135, 30, True),
    "brightness": (lambda pixels, strength, border, fill: brightness(pixels, 1 + strength), 0.99, 0.9, True),
    "saturation": (lambda pixels, strength, border, fill: saturation(pixels, 1 + strength), 0.99, 0.9, True),
    "contrast": (lambda pixels, strength, border, fill: contrast(pixels, 1 + strength), 0.99, 0.9, True),
    "sharpness": (lambda pixels, strength, border, fill: sharpness(pixels, 1 + strength), 0.99, 0.9, True),
    "posterize": (lambda pixels, strength, border, fill: posterize(pixels, strength), 6, 4, False),
    "solarize": (lambda pixels, strength, border, fill: solarize(pixels, strength), 255, 255, False),
    "autocontrast": (lambda pixels, strength, border, fill: autocontrast(pixels), 0, 0, False),
    "equalize": (lambda pixels, strength, border, fill: equalize(pixels), 0, 0, False),
}
LEVELS = 30  # level 0: no change (but for autocontrast, equalize, and the 255 of solarize), level 30: the largest strength


def apply_operations(pixels: Tensor, operations: Tensor, strengths: Tensor, border: Border, fill: Tensor) -> Tensor:
    """Apply to each image its own operations in turn, images with the same one together.

    operations: int64 (B, n), indices into OPERATIONS, on the CPU, where the images are grouped without asking the device;
    strengths: float (B, n); border and fill as for `warp`.
    """
    for turn in range(operations.shape[1]):
        changed = pixels.clone()
        for number, (operation, *_) in enumerate(OPERATIONS.values()):
            rows = (operations[:, turn] == number).nonzero().flatten()
            if number and len(rows):
                there = rows.to(pixels.device, non_blocking=True)
                changed[there] = operation(pixels[there], strengths[there, turn], border, fill)
        pixels = changed
    return pixels


def blur_radius(sigma: float) -> int:
    """Taps to either side that hold a Gaussian of this sigma (pixels) to three sigmas."""
    return math.ceil(3 * sigma)

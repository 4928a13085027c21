"""Views: the transformed copies of an image that a prediction averages over (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class View:
    """The image, or a copy of it: shifted, then mirrored, turned upside down, blurred.

    The content moves down by `rows` and right by `columns` pixels, of images larger than 32x32 by as many more; the border is
    reflected, or zero (`constant`), which on normalized images is their mean color. Equal views compare equal, so one pass
    serves every choice that holds them.
    """

    rows: int = 0
    columns: int = 0
    pad: Literal["reflect", "constant"] = "reflect"
    mirrored: bool = False
    upside_down: bool = False
    blurred: bool = False

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map normalized images (B, C, H, W) to the same shape."""
        if self.rows or self.columns:
            height, width = pixels.shape[2:]
            rows, columns = self.rows * _unit(pixels), self.columns * _unit(pixels)
            margin = max(abs(rows), abs(columns))
            top, left = margin - rows, margin - columns
            padded = F.pad(pixels, (margin,) * 4, mode=self.pad)
            pixels = padded[:, :, top : top + height, left : left + width]
        if self.mirrored:
            pixels = pixels.flip(3)
        if self.upside_down:
            pixels = pixels.flip(2)
        return _blur(pixels) if self.blurred else pixels

    def __str__(self) -> str:
        shifted = f"moved {self.rows:+d},{self.columns:+d}" + (" over zeros" if self.pad == "constant" else "")
        parts = (
            (shifted, self.rows or self.columns),
            ("mirrored", self.mirrored),
            ("upside down", self.upside_down),
            ("blurred", self.blurred),
        )
        return " ".join(name for name, on in parts if on) or "the image"


def _unit(pixels: Tensor) -> int:
    """Pixels that stand for one of a 32x32 image."""
    return max(1, round(pixels.shape[-1] / 32))


def _blur(pixels: Tensor) -> Tensor:
    """Gaussian blur within each channel, reflected border: of 32x32 images with sigma 1 pixel and 5 taps a side."""
    channels, radius = pixels.shape[1], 2 * _unit(pixels)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1.0, device=pixels.device) / _unit(pixels)) ** 2)
    taps = (taps / taps.sum()).to(pixels.dtype)
    padded = F.pad(pixels, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


IMAGE, MIRROR = View(), View(mirrored=True)
# Ten crops as training draws them, up to 4 pixels to each side and mirrored by a fair coin, but the same ten for every image.
# Drawn once (numpy's default_rng(0)) and written down, so that no version of a random generator changes them.
CROPS = (
    *(View(rows, columns) for rows, columns in ((2, 3), (1, -3), (-2, -2), (-4, -3), (-2, 1))),
    *(View(rows, columns, mirrored=True) for rows, columns in ((3, -2), (0, -3), (-4, -1), (-3, 1), (-4, 1))),
)

Weighted = Sequence[tuple[View, float]]  # views and the weights of their logits, which sum to 1

VIEWS: dict[str, Weighted] = {
    "none": [(IMAGE, 1.0)],
    "flip": [(IMAGE, 0.5), (MIRROR, 0.5)],
    # For images that must not be mirrored: the center counts half, four shifts by one pixel the other half.
    "shift": [(IMAGE, 0.5), *((View(rows, columns), 0.125) for rows, columns in ((1, 0), (-1, 0), (0, 1), (0, -1)))],
    # Jordan 2024, arXiv 2404.00498: the center counts half, two diagonal shifts by one pixel the other half, all mirrored too.
    "flip_shift": [
        (View(by, by, mirrored=mirrored), weight)
        for by, weight in ((0, 0.25), (1, 0.125), (-1, 0.125))
        for mirrored in (False, True)
    ],
    # The five views of a published 5M-parameter entry, whose "padded center crop" was the identity: here it is really shifted.
    "flips_shift_blur": [
        (view, 0.2) for view in (IMAGE, MIRROR, View(upside_down=True), View(2, 2, "constant"), View(blurred=True))
    ],
    "random_crops": [(view, 0.1) for view in CROPS],
}

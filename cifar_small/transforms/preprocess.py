"""The input of a net: pixels as they are stored, normalized, and resized to the size the net is evaluated at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from cifar_small.data.images import SIDE
from cifar_small.transforms.functional import resize


@dataclass(frozen=True)
class Preprocess:
    """From pixels to the input of one net."""

    mean: tuple[float, ...]  # 0..1, per channel
    std: tuple[float, ...]
    side: int = SIDE
    interpolation: str = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 or float 0..255 (B, 3, H, H) -> float32 (B, 3, side, side)."""
        return self.enlarge(self.normalize(images))

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 or float 0..255 -> float32 of the same shape."""
        return normalize(images, self.mean, self.std)

    def enlarge(self, pixels: Tensor) -> Tensor:
        """Normalized images of any size -> (B, 3, side, side)."""
        return resize(pixels, self.side, self.interpolation)


class FromPixels(nn.Module):
    """A net with its preprocessing in front, built from basic operations, for files that other programs run.

    Resizing is two products with a constant matrix: every runtime computes these alike, while kinds of bicubic differ.
    """

    scale: Tensor
    offset: Tensor
    rows: Tensor | None

    def __init__(self, net: nn.Module, preprocess: Preprocess, stored: int = SIDE) -> None:
        super().__init__()
        self.net = net
        scale, offset = scale_and_offset(preprocess.mean, preprocess.std, torch.device("cpu"))
        self.register_buffer("scale", scale.clone())
        self.register_buffer("offset", offset.clone())
        # The interpolation of each unit vector, as columns: (side, stored).
        matrix = preprocess.enlarge(torch.eye(stored).view(stored, 1, 1, stored).expand(-1, -1, stored, -1))[:, 0, 0].T
        self.register_buffer("rows", None if preprocess.side == stored else matrix.contiguous())

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, 3, stored, stored), RGB, to logits (N, K)."""
        pixels = images.float() * self.scale - self.offset
        if self.rows is not None:
            pixels = self.rows @ pixels @ self.rows.T
        return self.net(pixels)  # type: ignore[no-any-return]


@cache
def scale_and_offset(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Constants of `normalize`, (1, 3, 1, 1) each, made once: a fresh tensor on a GPU in every step would wait for the host."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, -1, 1, 1)
    offset = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, -1, 1, 1)
    return scale, offset


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 or float 0..255 (B, 3, H, W) -> float32, less the mean and over the deviation of each channel."""
    scale, offset = scale_and_offset(mean, std, images.device)
    return images.float() * scale - offset

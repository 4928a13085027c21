"""Depthwise convolutions whose backward pass is fast on a CPU.

There torch 2.13.0 has no fast kernels for two of their gradients: in bf16 that of the input for a stride of 2, and in bf16 and
fp32 that of the weights for kernels above 3x3. Each takes ten to a hundred times as long as the forward pass, and together they
take most of the training time of a net such as EfficientNet. The gradients below are the same sums in another order.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TILE = 3  # the largest kernel whose weights' gradient is fast


class DepthwiseConvolution(torch.autograd.Function):
    """`F.conv2d` of padded images (N, C, H, W) with one filter (C, 1, k, k) a channel."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int) -> Tensor:
        """The convolution, without padding."""
        ctx.save_for_backward(images, weight)
        ctx.stride = stride
        return F.conv2d(images, weight, stride=stride, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of the images and of the filters."""
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images = (
            _gradient_of_images(images, weight, gradient, ctx.stride).to(images.dtype) if ctx.needs_input_grad[0] else None
        )
        of_weight = _gradient_of_weight(images, weight, gradient, ctx.stride) if ctx.needs_input_grad[1] else None
        return of_images, of_weight, None


def _backward(images: Tensor, weight: Tensor, gradient: Tensor, stride: int, which: int) -> Tensor:
    """torch's own gradient of the images (which 0) or of the weight (1)."""
    wanted = [which == 0, which == 1, False]
    two = [stride, stride]
    found = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, two, [0, 0], [1, 1], False, [0, 0], len(weight), wanted
    )
    return found[which]  # type: ignore[no-any-return]


def _gradient_of_images(images: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> Tensor:
    """In fp32 for a stride above 1, which has no fast kernel in bf16."""
    if stride > 1:
        images, weight, gradient = images.float(), weight.float(), gradient.float()
    return _backward(images, weight, gradient, stride, 0)


def _gradient_of_weight(images: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> Tensor:
    """Of a large kernel tile by tile: a tile is the kernel of a smaller convolution of shifted images."""
    size = weight.shape[-1]
    if size <= TILE:
        return _backward(images, weight, gradient, stride, 1)
    found = torch.empty_like(weight)
    starts = [*range(0, size - TILE, TILE), size - TILE]
    height, width = (stride * (side - 1) + TILE for side in gradient.shape[2:])
    for top, left in product(starts, starts):
        shifted = images[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        tile = weight[:, :, top : top + TILE, left : left + TILE].contiguous()
        found[:, :, top : top + TILE, left : left + TILE] = _backward(shifted, tile, gradient, stride, 1)
    return found


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution of a library, with the same weight and the same output.

    same: pad by the size seen, more on the right and below, as TensorFlow does, instead of by `padding`.
    """

    def __init__(self, conv: nn.Conv2d, same: bool) -> None:
        channels, (kernel, _), (stride, _) = conv.in_channels, conv.kernel_size, conv.stride
        padding = 0 if same else int(conv.padding[0])
        super().__init__(channels, channels, kernel, stride, padding, groups=channels, bias=False, device="meta")
        self.weight, self.same = conv.weight, same

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) to the convolution's output."""
        side, stride, kernel = images.shape[2:], self.stride[0], self.kernel_size[0]
        if self.same:
            whole = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in side[::-1]]
            padding = [part for size in whole for part in (size // 2, size - size // 2)]
        else:
            padding = 4 * [int(self.padding[0])]
        precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
        trains = torch.is_grad_enabled() and (images.requires_grad or self.weight.requires_grad)
        if trains and images.device.type == "cpu" and precision in (torch.bfloat16, torch.float32):
            padded = F.pad(images.to(precision), padding).contiguous(memory_format=torch.channels_last)
            return DepthwiseConvolution.apply(padded, self.weight.to(precision), stride)  # type: ignore[no-any-return, no-untyped-call]
        return super().forward(F.pad(images, padding) if self.same and any(padding) else images)


def replace_depthwise(net: nn.Module) -> None:
    """Replace the depthwise convolutions of a net that are slow to train, in place; names, weights and outputs stay."""
    for name, conv in list(net.named_modules()):
        if not isinstance(conv, nn.Conv2d) or not conv.groups == conv.in_channels == conv.out_channels > 1:
            continue
        same = type(conv).__name__ == "Conv2dSame"  # of timm
        square = len({*conv.kernel_size}) == len({*conv.stride}) == 1 and (same or len({*conv.padding}) == 1)
        plain = conv.bias is None and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        if square and plain and (conv.kernel_size[0] > TILE or conv.stride[0] > 1) and (same or type(conv) is nn.Conv2d):
            net.set_submodule(name, DepthwiseConv2d(conv, same))

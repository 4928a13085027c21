"""Convolutions whose backward pass is fast on a CPU: torch's forward pass and its gradients, summed in another order.

Measured with torch 2.13.0 (docs/speed.md, docs/transfer.md), two kinds have no fast kernel there:

depthwise   in bf16 the gradient of the input for a stride above 1, and in bf16 and fp32 that of the weights for kernels
            above 3x3, take ten to a hundred times as long as the forward pass, and most of the training time of an EfficientNet
small maps  where bf16 is multiplied in tiles (AMX), the gradient of the weights sums over rows of 32 pixels: rows of 10 and
            fewer leave most of a tile empty, and it takes three to six times as long as the forward pass

Those backward passes cannot be differentiated themselves.

A third kind is not slow but unsafe: on a processor with AVX2 alone, torch's backward pass of some convolutions ended the
process. Those skip their pixels before they compute. So did the one of GroupNorm, for some layouts, which it is not given here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cifar_small.environment import multiplies_in_tiles

BLOCK = 8  # channels that AVX2 takes at once in fp32
FAST_KERNEL = 3  # the largest depthwise kernel whose weights' gradient is fast
NARROW = 10  # pixels in a row of the widest output that gains from lying side by side; at 12 some shapes lose
FEW = 32  # channels below which copying takes longer than the sums
ROW = 128  # pixels in a row of images laid side by side: a few tiles, so that a rest is a small share

aten_backward = torch.ops.aten.convolution_backward


class FastConvolutions(TorchFunctionMode):
    """Within it, each call of a convolution that trains gets the backward pass that is fast for its shape.

    So layers need not be replaced, and nets of a library or of the user's own gain as ours do. Both functions below keep the
    tensors that torch's keeps, so that `torch.utils.checkpoint` may compute them again outside. With `fast` off, the backward
    passes are torch's, but for those that are unsafe.
    """

    def __init__(self, fast: bool = True) -> None:
        super().__init__()
        self.fast = fast

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Any torch function as it is; a convolution by `convolve`, a GroupNorm by `group_norm`."""
        if func is torch.conv2d:
            return convolve(*args, fast=self.fast, **(kwargs or {}))
        if func in (torch.group_norm, F.group_norm):
            return group_norm(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def group_norm(func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The same, with a backward pass that is safe on a CPU: torch 2.13's ended the process for some layouts."""
    safe = input.requires_grad or input.device.type != "cpu"
    return func(input if safe else input.contiguous(), *args, **kwargs)


def convolve(
    input: Tensor,  # as torch calls them
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    fast: bool = True,
) -> Tensor:
    """`torch.conv2d`: the same output, and a faster backward pass where there is one and `fast` asks for it."""
    square = _square(weight.shape[2:], stride, padding, dilation)
    trains = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
    precision = _precision(input, weight)
    if square is not None and precision is not None and trains and input.device.type == "cpu" and input.ndim == 4:
        kernel, step, pad = square
        if kernel == 1 < step and pad == 0 and groups == 1 and input.shape[1] < BLOCK:
            return torch.conv2d(input[:, :, ::step, ::step], weight, bias)
        depthwise = fast and groups == weight.shape[0] == input.shape[1] > 1
        if depthwise and bias is None and (kernel > FAST_KERNEL or step > 1):
            return DepthwiseConvolution.apply(input.to(precision), weight.to(precision), step, pad)  # type: ignore[no-any-return, no-untyped-call]
        narrow = (input.shape[3] + 2 * pad - kernel) // step < NARROW and 2 * pad < kernel and (kernel > 1 or step == 1)
        gains = groups == 1 and narrow and min(weight.shape[:2]) >= FEW and _pitch(input.shape[3], step, pad) <= ROW // 2
        if fast and gains and precision == torch.bfloat16 and multiplies_in_tiles():
            cast = None if bias is None else bias.to(precision)
            return SmallMapConvolution.apply(input.to(precision), weight.to(precision), cast, step, pad)  # type: ignore[no-any-return, no-untyped-call]
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _precision(images: Tensor, weight: Tensor) -> torch.dtype | None:
    """The type that torch computes a convolution in on a CPU, or None where it is neither fp32 nor bf16, or refused."""
    known = (torch.bfloat16, torch.float32)
    if images.dtype not in known or weight.dtype not in known:
        return None
    if torch.is_autocast_enabled("cpu"):
        lowered = torch.get_autocast_dtype("cpu")
        return lowered if lowered in known else None
    return images.dtype if images.dtype == weight.dtype else None


def _square(kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> tuple[int, int, int] | None:
    """Kernel, stride and padding where each is one number for both directions and nothing is dilated, else None."""
    sizes = []
    for given in (kernel, stride, padding, dilation):
        numbers = {given} if isinstance(given, int) else {*given} if isinstance(given, tuple | list) else set()
        if len(numbers) != 1:
            return None
        sizes.append(int(numbers.pop()))
    return None if sizes[3] != 1 else (sizes[0], sizes[1], sizes[2])


def _pitch(width: int, stride: int, padding: int) -> int:
    """Pixels from one image to the next where they lie side by side: zeros between them for the padding, in whole strides."""
    return -(-(width + padding) // stride) * stride


class SmallMapConvolution(torch.autograd.Function):
    """`F.conv2d` of images (N, C, H, W), whose weights' gradient is that of many images laid side by side."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        """torch's convolution."""
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding, ctx.bias_sizes = stride, padding, None if bias is None else [len(bias)]
        return F.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """Gradients of images and bias as torch has them, and of the weights."""
        images, weight = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], False, ctx.needs_input_grad[2]]
        two, pads = [ctx.stride] * 2, [ctx.padding] * 2
        of_images = of_bias = of_weight = None
        if any(wanted):
            of_images, _, of_bias = aten_backward(
                gradient, images, weight, ctx.bias_sizes, two, pads, [1, 1], False, [0, 0], 1, wanted
            )
        if ctx.needs_input_grad[1]:
            of_weight = small_map_weight_gradient(images, weight, gradient, ctx.stride, ctx.padding)
        return of_images, of_weight, of_bias, None, None


def small_map_weight_gradient(images: Tensor, weight: Tensor, gradient: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient of filters (O, C, k, k) from images (N, C, H, W) and the gradient (N, O, h, w) of their convolution.

    Images lie side by side with enough zeros between them that no filter sees two; where the gradient has no pixel, it is zero.
    """
    channels, size = images.shape[1], weight.shape[-1]
    if size == 1:  # without padding, as it is less than half a kernel
        seen = images[:, :, ::stride, ::stride]
        pixels, slopes = (tensor.permute(0, 2, 3, 1).flatten(0, 2) for tensor in (seen, gradient))
        return (slopes.mT @ pixels).view(-1, channels, 1, 1)
    pitch = _pitch(images.shape[3], stride, padding)
    count = max(1, min(len(images), ROW // pitch))
    rows, slopes = side_by_side(images, pitch, count), side_by_side(gradient, pitch // stride, count)
    slopes = slopes[..., : (rows.shape[3] + 2 * padding - size) // stride + 1]
    return _gradient(rows, weight, slopes, [stride, stride], [padding, padding], 1, 1)


def side_by_side(images: Tensor, pitch: int, count: int) -> Tensor:
    """Lay images (N, C, H, W) side by side, each followed by zeros to `pitch` pixels: (ceil(N / count), C, H, count * pitch).

    What is missing of the last row is zeros.
    """
    n, channels, height, width = images.shape
    full, rest = divmod(n, count)
    rows = images.new_empty(full + (rest > 0), height, count, pitch, channels)
    rows[..., width:, :] = 0
    pixels = images.permute(0, 2, 3, 1)
    rows[:full, ..., :width, :] = pixels[: full * count].reshape(full, count, height, width, channels).transpose(1, 2)
    if rest:
        rows[full, :, :rest, :width] = pixels[full * count :].transpose(0, 1)
        rows[full, :, rest:] = 0
    return rows.flatten(2, 3).permute(0, 3, 1, 2)


class DepthwiseConvolution(torch.autograd.Function):
    """`F.conv2d` of images (N, C, H, W) with one filter (C, 1, k, k) a channel."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """torch's convolution."""
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(_padded(images, padding), weight, stride=stride, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of the images and of the filters."""
        images, weight = ctx.saved_tensors
        padded, steps = _padded(images, ctx.padding), [ctx.stride] * 2
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            # A stride above 1 has no fast kernel in bf16.
            x, w, slopes = (each.float() if ctx.stride > 1 else each for each in (padded, weight, gradient))
            whole = _gradient(x, w, slopes, steps, [0, 0], len(weight), 0).to(images.dtype)
            height, width = images.shape[2:]
            of_images = whole[:, :, ctx.padding : ctx.padding + height, ctx.padding : ctx.padding + width]
        if ctx.needs_input_grad[1]:
            of_weight = depthwise_weight_gradient(padded, weight, gradient, ctx.stride)
        return of_images, of_weight, None, None


def _padded(images: Tensor, padding: int) -> Tensor:
    return F.pad(images, 4 * [padding]).contiguous(memory_format=torch.channels_last)


def depthwise_weight_gradient(images: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> Tensor:
    """The gradient of depthwise filters; of large ones tile by tile, each the kernel of a convolution of shifted images."""
    size, steps = weight.shape[-1], [stride, stride]
    if size <= FAST_KERNEL:
        return _gradient(images, weight, gradient, steps, [0, 0], len(weight), 1)
    found = torch.empty_like(weight)
    starts = [*range(0, size - FAST_KERNEL, FAST_KERNEL), size - FAST_KERNEL]
    height, width = (stride * (side - 1) + FAST_KERNEL for side in gradient.shape[2:])
    for top, left in product(starts, starts):
        shifted = images[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        tile = weight[:, :, top : top + FAST_KERNEL, left : left + FAST_KERNEL].contiguous()
        part = found[:, :, top : top + FAST_KERNEL, left : left + FAST_KERNEL]
        part.copy_(_gradient(shifted, tile, gradient, steps, [0, 0], len(weight), 1))
    return found


def _gradient(
    images: Tensor, weight: Tensor, gradient: Tensor, stride: list[int], padding: list[int], groups: int, which: int
) -> Tensor:
    """torch's own gradient of the images (which 0) or of the weight (1)."""
    wanted = [which == 0, which == 1, False]
    found = aten_backward(gradient, images, weight, None, stride, padding, [1, 1], False, [0, 0], groups, wanted)
    return found[which]  # type: ignore[no-any-return]

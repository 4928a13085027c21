"""Convolutions with a backward pass of our own: torch's outputs, exact gradients, and which calls get them."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cifar_small._torchvision import import_torchvision
from cifar_small.config.schema import LibraryModel
from cifar_small.models import build_model, convolutions
from cifar_small.models.convolutions import FastConvolutions, side_by_side

import_torchvision()
layers = pytest.importorskip("timm.layers")


def gradients(
    conv: nn.Module, images: Tensor, weights: Tensor, *, fast: bool, bf16: bool = False
) -> list[Tensor]:  # of output, images, weight and, where there is one, bias
    images = images.clone().requires_grad_()
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), FastConvolutions() if fast else nullcontext():
        output = conv(images)
    (output.float() * weights[:, :, : output.shape[2], : output.shape[3]]).sum().backward()
    return [output.detach(), images.grad, *(p.grad.clone() for p in conv.parameters())]  # type: ignore[list-item, union-attr]


def depthwise(kernel: int, stride: int, same: bool, channels: int = 4) -> nn.Conv2d:
    torch.manual_seed(kernel)
    kind = layers.Conv2dSame if same else nn.Conv2d
    return kind(channels, channels, kernel, stride, 0 if same else kernel // 2, groups=channels, bias=False)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule for processors with AMX holds, whatever this one has."""
    monkeypatch.setattr(convolutions, "multiplies_in_tiles", lambda: True)


@contextmanager
def counted() -> Iterator[list[str]]:
    """The names of the functions with gradients of our own that are called."""
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for function in (convolutions.SmallMapConvolution, convolutions.DepthwiseConvolution):

            def apply(*arguments: object, _function: type[torch.autograd.Function] = function) -> object:
                calls.append(_function.__name__)
                return super(torch.autograd.Function, _function).apply(*arguments)  # type: ignore[misc]

            patch.setattr(function, "apply", apply)
        yield calls


@pytest.fixture
def taken() -> Iterator[list[str]]:
    """The same for a whole test."""
    with counted() as calls:
        yield calls


SHAPES = given(
    kernel=st.sampled_from([3, 5, 7, 9]), stride=st.integers(1, 2), same=st.booleans(), side=st.sampled_from([4, 7, 8, 15])
)


@settings(max_examples=30, deadline=None)
@SHAPES
def test_depthwise_gradients_agree_with_the_librarys(kernel: int, stride: int, same: bool, side: int) -> None:
    conv, images, weights = depthwise(kernel, stride, same), torch.randn(3, 4, side, side), torch.randn(3, 4, side, side)
    expected = gradients(conv, images, weights, fast=False)
    with counted() as calls:
        found = gradients(conv, images, weights, fast=True)
    assert calls == (DEPTHWISE if kernel > 3 or stride > 1 else [])
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@SHAPES
def test_depthwise_gradients_in_bf16_are_near_to_the_exact_ones(kernel: int, stride: int, same: bool, side: int) -> None:
    conv, images, weights = depthwise(kernel, stride, same), torch.randn(3, 4, side, side), torch.randn(3, 4, side, side)
    exact, found = (gradients(conv, images, weights, fast=fast, bf16=fast) for fast in (False, True))
    for true, other in zip(exact, found, strict=True):
        assert (other - true).norm() < 0.01 * true.norm()


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    side=st.integers(5, 9),
    height=st.integers(5, 20),
    count=st.integers(1, 40),
    channels_last=st.booleans(),
    data=st.data(),
)
def test_gradients_of_small_maps_agree_with_torchs(
    kernel: int, stride: int, side: int, height: int, count: int, channels_last: bool, data: st.DataObject
) -> None:
    padding = data.draw(st.integers(0, (kernel - 1) // 2))
    torch.manual_seed(count)
    # In fp32 the sums are exact enough that an error of layout could not hide in rounding.
    images, weight = torch.randn(count, 3, height, side), torch.randn(5, 3, kernel, kernel)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    exact = weight.double().requires_grad_()
    output = torch.conv2d(images.double(), exact, None, stride, padding)
    slopes = torch.randn(output.shape)
    output.backward(slopes.double())
    found = convolutions.small_map_weight_gradient(images, weight, slopes, stride, padding)
    assert exact.grad is not None
    torch.testing.assert_close(found.double(), exact.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_on_small_maps_in_bf16_is_torchs(kernel: int, bias: bool, taken: list[str]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 40, kernel, padding=kernel // 2 if kernel % 2 else 0, bias=bias)
    images, weights = torch.randn(7, 32, 8, 8), torch.randn(7, 40, 8, 8)
    exact = gradients(conv, images, weights, fast=False)
    expected, found = (gradients(conv, images, weights, fast=fast, bf16=True) for fast in (False, True))
    assert taken == ["SmallMapConvolution"]
    assert torch.equal(expected[0], found[0])  # the forward pass is torch's, to the bit
    assert torch.equal(expected[1], found[1])
    assert len(found) == 3 + bias
    for true, other in zip(exact, found, strict=True):
        assert (other - true).norm() < 0.01 * true.norm()


@pytest.mark.parametrize(("channels", "stride", "bias"), [(3, 2, True), (4, 2, False), (4, 3, True), (16, 2, False)])
def test_pixels_are_skipped_before_a_convolution_of_few_channels(
    channels: int, stride: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AVX2 alone torch 2.13.0 ended the process in the backward pass of some convolutions."""
    strides, real = [], torch.conv2d

    def conv2d(*args: object, **kwargs: object) -> Tensor:
        bound = dict(zip(("input", "weight", "bias", "stride"), args, strict=False)) | kwargs
        strides.append(bound.get("stride", 1))
        return real(*args, **kwargs)  # type: ignore[arg-type, no-any-return, call-overload]

    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 8, 1, stride, bias=bias)
    images = torch.randn(5, channels, 9, 9).to(memory_format=torch.channels_last)
    weights = torch.randn(5, 8, 9, 9)
    exact = gradients(copy.deepcopy(layer).double(), images.double(), weights.double(), fast=False)
    monkeypatch.setattr(torch, "conv2d", conv2d)
    for fast in (True, False):
        output = convolutions.convolve(images, layer.weight, layer.bias, (stride, stride), fast=fast)
    assert strides == 2 * [1 if channels < 8 else (stride, stride)]
    monkeypatch.undo()
    for ours, theirs in zip(gradients(layer, images, weights, fast=True), exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.double(), exact[0].double(), atol=1e-5, rtol=1e-5)


def test_images_lie_side_by_side_with_zeros_between() -> None:
    images = torch.arange(1.0, 6.0).reshape(5, 1, 1, 1).expand(5, 1, 2, 2)
    rows = side_by_side(images, pitch=3, count=2)
    assert rows.shape == (3, 1, 2, 6)
    expected = [[1, 1, 0, 2, 2, 0], [3, 3, 0, 4, 4, 0], [5, 5, 0, 0, 0, 0]]
    assert rows[:, 0, 0].tolist() == rows[:, 0, 1].tolist() == expected


def test_what_does_not_train_has_no_gradient(taken: list[str]) -> None:
    conv = depthwise(5, 2, True).requires_grad_(False)
    with FastConvolutions():
        assert not conv(torch.randn(2, 4, 8, 8)).requires_grad
        assert taken == []
        images = torch.randn(2, 4, 8, 8, requires_grad=True)
        conv(images).sum().backward()
    assert taken == ["DepthwiseConvolution"]
    assert images.grad is not None
    assert conv.weight.grad is None


def test_a_group_norm_is_torchs_and_gets_what_its_backward_pass_is_safe_on(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    norm, seen = nn.GroupNorm(2, 4), []
    images = torch.randn(8, 4, 6, 6).to(memory_format=torch.channels_last)
    original = torch.group_norm
    monkeypatch.setattr(torch, "group_norm", lambda input, *rest: seen.append(input.is_contiguous()) or original(input, *rest))
    with FastConvolutions():
        norm(images).square().sum().backward()
    assert seen == [True]
    reference = copy.deepcopy(norm)
    reference.zero_grad()
    reference(images.contiguous()).square().sum().backward()
    for mine, theirs in zip(norm.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_keywords_and_numbers_of_any_kind_are_torchs() -> None:
    images, weight = torch.randn(2, 32, 8, 8, requires_grad=True), torch.randn(32, 32, 3, 3, requires_grad=True)
    expected = torch.conv2d(images, weight, padding=1)
    with FastConvolutions():
        assert torch.equal(
            torch.nn.functional.conv2d(input=images, weight=weight, padding=(1, 1), stride=np.int64(1)), expected
        )  # type: ignore[arg-type]


def test_types_are_torchs(taken: list[str]) -> None:
    images, weight = torch.randn(2, 32, 8, 8), torch.randn(32, 32, 3, 3, requires_grad=True)
    with pytest.raises(RuntimeError) as theirs:  # its words depend on the processor
        torch.conv2d(images.bfloat16(), weight)
    with FastConvolutions():
        with pytest.raises(RuntimeError, match=re.escape(str(theirs.value))):
            torch.conv2d(images.bfloat16(), weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.conv2d(images.double(), weight.double()).dtype == torch.float64
        assert taken == []
        torch.conv2d(images.bfloat16(), weight.bfloat16())
    assert taken == SMALL


@pytest.mark.parametrize("channels", [8, 32])
def test_recomputed_activations_give_the_same_gradients(channels: int, taken: list[str]) -> None:
    conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels if channels == 8 else 1, bias=False)
    images, found = torch.randn(2, channels, 9, 9), []
    for recompute in (False, True):
        conv.zero_grad()
        with FastConvolutions(), torch.autocast("cpu", torch.bfloat16):
            output = checkpoint(conv, images, use_reentrant=False) if recompute else conv(images)
            output.float().square().sum().backward()
        assert conv.weight.grad is not None
        found.append(conv.weight.grad.clone())
    assert torch.equal(*found)
    assert len(taken) == 2  # computed again outside of the mode, which the engine leaves


DEPTHWISE, SMALL = ["DepthwiseConvolution"], ["SmallMapConvolution"]


@pytest.mark.parametrize(
    ("conv", "side", "expected"),
    [
        (nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), 9, []),  # fast
        (nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False), 9, DEPTHWISE),
        (nn.Conv2d(8, 8, 3, 2, padding=1, groups=8, bias=False), 9, DEPTHWISE),
        (nn.Conv2d(8, 8, 5, padding=2, groups=4, bias=False), 9, []),
        (nn.Conv2d(8, 8, 5, padding=4, groups=8, bias=False, dilation=2), 9, []),
        (nn.Conv2d(8, 8, 5, padding=2, groups=8), 9, []),
        (nn.Conv2d(8, 16, 5, padding=2, groups=8, bias=False), 9, []),
        (nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8, bias=False), 9, []),
        (nn.Conv2d(32, 32, 3, padding="same"), 8, []),
        (nn.Conv2d(32, 32, 3, padding=1), 8, SMALL),
        (nn.Conv2d(32, 32, 3, padding=1), 10, SMALL),
        (nn.Conv2d(32, 32, 3, padding=1), 11, []),  # above 10 not all shapes gain
        (nn.Conv2d(31, 32, 3, padding=1), 8, []),  # few channels do not either
        (nn.Conv2d(32, 32, 3, 2, padding=1), 16, SMALL),
        (nn.Conv2d(32, 32, 1, 2), 16, []),
        (nn.Conv2d(32, 32, 8, 8), 72, []),  # two do not fit a row
        (nn.Conv2d(32, 32, 3, padding=2), 6, []),  # an output larger than the input
        (nn.Conv2d(32, 32, 3, padding=1, groups=2), 8, []),
    ],
)
def test_only_what_torch_is_slow_at_is_changed(conv: nn.Conv2d, side: int, expected: list[str], taken: list[str]) -> None:
    images, weights = torch.randn(2, conv.in_channels, side, side), torch.randn(2, conv.out_channels, 16, 16)
    theirs = gradients(conv, images, weights, fast=False, bf16=True)
    ours = gradients(conv, images, weights, fast=True, bf16=True)
    assert taken == expected
    assert torch.equal(theirs[0], ours[0])
    taken.clear()
    with torch.no_grad(), FastConvolutions():
        conv(images)
    assert taken == []


def test_small_maps_are_left_alone_in_fp32_and_without_tiles(monkeypatch: pytest.MonkeyPatch, taken: list[str]) -> None:
    conv, images, weights = nn.Conv2d(32, 32, 3, padding=1), torch.randn(2, 32, 8, 8), torch.randn(2, 32, 8, 8)
    gradients(conv, images, weights, fast=True)
    monkeypatch.setattr(convolutions, "multiplies_in_tiles", lambda: False)
    gradients(conv, images, weights, fast=True, bf16=True)
    assert taken == []


@pytest.mark.parametrize(
    ("family", "count"), [("timm/tf_efficientnet_lite0", 11), ("torchvision/mobilenet_v3_small", 10), ("timm/resnet18", 0)]
)
def test_the_libraries_nets_have_depthwise_layers_that_gain(family: str, count: int, taken: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        net = build_model(LibraryModel.model_validate({"family": family}), 10).train()
    copied = copy.deepcopy(net)  # as averages are made
    assert [*copied.state_dict()] == [*net.state_dict()]
    with FastConvolutions():
        net(torch.randn(2, 3, 64, 64))
    assert taken.count("DepthwiseConvolution") == count

"""Depthwise convolutions: the library's own outputs, exact gradients, and which layers are replaced."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cifar_small._torchvision import import_torchvision
from cifar_small.config.schema import LibraryModel
from cifar_small.models.counting import skeleton
from cifar_small.models.depthwise import DepthwiseConv2d, replace_depthwise

import_torchvision()
layers = pytest.importorskip("timm.layers")


def both(kernel: int, stride: int, same: bool, channels: int = 4) -> tuple[nn.Conv2d, DepthwiseConv2d]:
    torch.manual_seed(kernel)
    kind = layers.Conv2dSame if same else nn.Conv2d
    conv = kind(channels, channels, kernel, stride, 0 if same else kernel // 2, groups=channels, bias=False)
    return conv, DepthwiseConv2d(copy.deepcopy(conv), same)


def gradients(conv: nn.Module, images: Tensor, weights: Tensor, **autocast: object) -> tuple[Tensor, Tensor, Tensor]:
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(autocast)):
        output = conv(images)
    (output.float() * weights[:, :, : output.shape[2], : output.shape[3]]).sum().backward()
    assert images.grad is not None
    return output, images.grad, conv.weight.grad  # type: ignore[return-value]


SHAPES = given(
    kernel=st.sampled_from([3, 5, 7, 9]), stride=st.integers(1, 2), same=st.booleans(), side=st.sampled_from([4, 7, 8, 15])
)


@settings(max_examples=30, deadline=None)
@SHAPES
def test_outputs_are_the_librarys_and_gradients_agree_with_them(kernel: int, stride: int, same: bool, side: int) -> None:
    theirs, ours = both(kernel, stride, same)
    images, weights = torch.randn(3, 4, side, side), torch.randn(3, 4, side, side)
    expected, found = gradients(theirs, images, weights), gradients(ours, images, weights)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(theirs(images), ours(images))


@settings(max_examples=15, deadline=None)
@SHAPES
def test_in_bf16_they_are_as_near_to_the_exact_ones_as_the_librarys(kernel: int, stride: int, same: bool, side: int) -> None:
    theirs, ours = both(kernel, stride, same)
    images, weights = torch.randn(3, 4, side, side), torch.randn(3, 4, side, side)
    exact = gradients(copy.deepcopy(theirs), images, weights)
    for true, found in zip(exact, gradients(ours, images, weights, bf16=True), strict=True):
        assert (found - true).norm() < 0.01 * true.norm()


def test_what_does_not_train_has_no_gradient() -> None:
    _, ours = both(5, 2, True)
    ours.requires_grad_(False)
    assert not ours(torch.randn(2, 4, 8, 8)).requires_grad
    images = torch.randn(2, 4, 8, 8, requires_grad=True)
    ours(images).sum().backward()
    assert images.grad is not None
    assert ours.weight.grad is None


def test_only_slow_depthwise_layers_are_replaced_and_names_and_draws_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),  # fast
        nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False),
        nn.Conv2d(8, 8, 3, 2, padding=1, groups=8, bias=False),
        nn.Conv2d(8, 8, 5, padding=2, groups=4, bias=False),
        nn.Conv2d(8, 8, 5, padding=4, groups=8, bias=False, dilation=2),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.Conv2d(8, 16, 5, padding=2, groups=8, bias=False),
    )
    twin, state = copy.deepcopy(net), torch.get_rng_state()
    replace_depthwise(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(layer) is DepthwiseConv2d for layer in net] == [False, True, True, False, False, False, False]
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in twin.state_dict().items())
    images = torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        assert torch.equal(net(images), twin(images))


@pytest.mark.parametrize(
    ("family", "count"), [("timm/tf_efficientnet_lite0", 11), ("torchvision/mobilenet_v3_small", 10), ("timm/resnet18", 0)]
)
def test_the_libraries_nets_have_them(family: str, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        net = skeleton(LibraryModel.model_validate({"family": family}), 10)
    assert sum(isinstance(module, DepthwiseConv2d) for module in net.modules()) == count
    copied = copy.deepcopy(net)  # as averages are made
    assert [*copied.state_dict()] == [*net.state_dict()]

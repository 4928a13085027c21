"""The nets, built from the `model` section of a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from cifar_small.models.resnet import ResNet
from cifar_small.models.wideresnet import WideResNet
from cifar_small.schema import ResNetModel, WideResNetModel

ModelConfig = ResNetModel | WideResNetModel

FAMILIES: dict[str, Callable[[Any, int], nn.Module]] = {"resnet": ResNet, "wideresnet": WideResNet}


def build_model(model: ModelConfig, num_classes: int) -> nn.Module:
    """The net of a config, freshly initialised from torch's global generator, in training mode.

    It maps float images (N, 3, 32, 32) to logits (N, K). Raises ConfigError for a shape that cannot be built.
    """
    return FAMILIES[model.family](model, num_classes)


def set_dropout(model: nn.Module, p: float) -> None:
    """Set p of every dropout layer of the net (not of stochastic depth), in place."""
    assert 0 <= p < 1, p
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p

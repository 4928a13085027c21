"""The nets, built from the `model` section of a config."""

from __future__ import annotations

from typing import assert_never

from torch import nn

from cifar_small.config.schema import LibraryModel, OwnModel, ResNetModel, WhitenedResNetModel, WideResNetModel
from cifar_small.models.library import LibraryNet
from cifar_small.models.modes import (
    activate_dropout,
    dropout_layers,
    in_backbone,
    refresh_statistics,
    set_dropout,
    set_frozen,
    set_frozen_throughout,
    set_training,
    statistics_kept,
)
from cifar_small.models.own import build_own
from cifar_small.models.resnet import ResNet
from cifar_small.models.whitened import WhitenedResNet, fit_stem, merge_pooled_norms
from cifar_small.models.wideresnet import WideResNet

__all__ = [
    "LibraryNet",
    "ModelConfig",
    "activate_dropout",
    "build_model",
    "dropout_layers",
    "fit_stem",
    "in_backbone",
    "merge_pooled_norms",
    "refresh_statistics",
    "set_dropout",
    "set_frozen",
    "set_frozen_throughout",
    "set_training",
    "statistics_kept",
]

ModelConfig = ResNetModel | WideResNetModel | WhitenedResNetModel | LibraryModel | OwnModel


def build_model(model: ModelConfig, num_classes: int) -> nn.Module:
    """The net of a config, freshly initialized from torch's global generator, in training mode.

    It maps float images (N, 3, H, W) to logits (N, K). Raises ConfigError for a shape that cannot be built.
    """
    match model:
        case ResNetModel():
            return ResNet(model, num_classes)
        case WideResNetModel():
            return WideResNet(model, num_classes)
        case WhitenedResNetModel():
            return WhitenedResNet(model, num_classes)
        case LibraryModel():
            return LibraryNet(model, num_classes)
        case OwnModel():
            return build_own(model, num_classes)
        case _:
            assert_never(model)

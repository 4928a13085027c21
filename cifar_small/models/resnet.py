"""ResNet for 32x32 images: any widths and depths, with the options of `config.schema.ResNetModel` (He et al., 2016)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from cifar_small.config.schema import ResNetModel
from cifar_small.errors import ConfigError
from cifar_small.models.blocks import ACTIVATIONS, BasicBlock, BlockOptions, Dropout, PreactBlock, conv3x3, init_weights


class ResNet(nn.Module):
    """3x3 stem, 3 or 4 stages of basic blocks, average pool, dropout, linear classifier.

    Maps images (N, 3, 32, 32) to logits (N, K). Raises ConfigError where option A would have to remove channels.
    """

    def __init__(self, model: ResNetModel, num_classes: int) -> None:
        super().__init__()
        stem = model.stem_width or model.widths[0]
        strides = model.strides or (1, 2, 2, 2)[: len(model.widths)]
        channels = (stem, *model.widths)
        if model.shortcut == "pad" and any(after < before for before, after in pairwise(channels)):
            raise ConfigError(
                f"model.shortcut pad cannot shrink channels, got {'/'.join(map(str, channels))} (stem first); "
                "use widths that never decrease, or shortcut: conv"
            )
        self.act = ACTIVATIONS[model.activation]
        self.preact = model.preact
        self.conv1 = conv3x3(3, stem)
        # One name, two places: after the stem, or (preact) after the last block, whose output nothing has normalized.
        self.bn1 = nn.BatchNorm2d(model.widths[-1] if model.preact else stem)
        block = PreactBlock if model.preact else BasicBlock
        depth, last = 0, max(1, sum(model.blocks) - 1)
        self.stages: list[str] = []
        for index, (width, count, stride) in enumerate(zip(model.widths, model.blocks, strides, strict=True)):
            layer = nn.Sequential()
            for position in range(count):
                options = BlockOptions(
                    activation=self.act,
                    shortcut=model.shortcut,
                    se_reduction=model.se_reduction,
                    stochastic_depth=model.stochastic_depth * depth / last,
                )
                first = position == 0
                layer.append(block(channels[index] if first else width, width, stride if first else 1, options))
                depth += 1
            self.stages.append(f"layer{index + 1}")
            self.add_module(self.stages[-1], layer)
        self.dropout = Dropout(model.dropout)
        self.fc = nn.Linear(model.widths[-1], num_classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (N, 3, 32, 32) to logits (N, K)."""
        x = self.conv1(images)
        if not self.preact:
            x = self.act(self.bn1(x))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        if self.preact:
            x = self.act(self.bn1(x))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]

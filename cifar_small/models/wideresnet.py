"""WideResNet (Zagoruyko & Komodakis, 2016): few, wide pre-activation blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cifar_small.config.schema import WideResNetModel
from cifar_small.models.blocks import BlockOptions, PreactBlock, conv3x3, init_weights

STEM = 16


class WideResNet(nn.Module):
    """WRN-depth-widen_factor: a stem of 16, three stages of (depth - 4) / 6 blocks of 16k, 32k and 64k channels.

    Maps images (N, 3, 32, 32) to logits (N, K). Dropout stands between the two convolutions of every block.
    """

    def __init__(self, model: WideResNetModel, num_classes: int) -> None:
        super().__init__()
        blocks = (model.depth - 4) // 6
        widths = [STEM * model.widen_factor * 2**stage for stage in range(3)]
        options = BlockOptions(dropout=model.dropout)
        self.act = options.activation
        self.conv1 = conv3x3(3, STEM)
        self.layer1 = _stage(STEM, widths[0], blocks, 1, options)
        self.layer2 = _stage(widths[0], widths[1], blocks, 2, options)
        self.layer3 = _stage(widths[1], widths[2], blocks, 2, options)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (N, 3, 32, 32) to logits (N, K)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        x = self.act(self.bn1(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _stage(in_channels: int, channels: int, blocks: int, stride: int, options: BlockOptions) -> nn.Sequential:
    first = PreactBlock(in_channels, channels, stride, options)
    return nn.Sequential(first, *(PreactBlock(channels, channels, 1, options) for _ in range(blocks - 1)))

"""A shallow ResNet that learns in few epochs: frozen whitening stem, dirac filters, pooling before BatchNorm, no strides.

Stem, dirac initialization and BatchNorm without a trained scale follow Jordan 2024 (arXiv 2404.00498) and, for the whitening,
Page 2019 ("How to train your ResNet"); the residual blocks are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cifar_small.config.schema import WhitenedResNetModel, WhitenedStage
from cifar_small.models.blocks import ACTIVATIONS, Dropout

PATCH = 2  # the stem looks at 2x2 pixels of 3 channels, so it has 12 directions, each with both signs


class Stem(nn.Conv2d):
    """2x2 convolution 3 -> 24 whose filters turn the patches of the training images into uncorrelated, unit-variance ones.

    Such a weight never trains; without `whiten` it does, from torch's draw. The bias, if there is one, trains unless a phase
    freezes it.
    """

    def __init__(self, whiten: bool, bias: bool) -> None:
        super().__init__(3, 2 * 3 * PATCH**2, PATCH, bias=bias)
        self.whiten = whiten
        if whiten:
            self.weight.requires_grad_(False)
        if self.bias is not None and not self.bias.is_meta:
            nn.init.zeros_(self.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (N, 3, H, W) to (N, 24, H - 1, W - 1)."""
        return super().forward(images)

    @torch.no_grad()
    def fit(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the filters from normalized training images (N, 3, H, W): the patches' eigenvectors over their deviations.

        eps is added to the variances, so that directions without signal are not blown up.
        """
        patches = images.float().unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        # On the CPU, for one net on every device: the signs of eigenvectors are their solver's choice.
        variances, vectors = torch.linalg.eigh((patches.T @ patches / len(patches)).double().cpu())
        filters = (vectors / torch.sqrt(variances + eps)).T.flip(0).reshape(-1, 3, PATCH, PATCH)
        self.weight.copy_(torch.cat((filters, -filters)))


class Stage(nn.Module):
    """act(BN(pool(conv x))), then act(x + residual x) with a residual of convolutions, each followed by BatchNorm."""

    def __init__(self, in_channels: int, stage: WhitenedStage, model: WhitenedResNetModel) -> None:
        super().__init__()
        self.act, self.skip = ACTIVATIONS[model.activation], model.skip
        padding = 1 if stage.kernel == 3 else 0
        self.conv = nn.Conv2d(in_channels, stage.width, stage.kernel, padding=padding, bias=False)
        self.bn = _batch_norm(stage.width, model.bn_momentum)
        self.branch_convs, self.branch_bns = nn.ModuleList(), nn.ModuleList()
        channels = stage.width
        for kernel, width in stage.branch:
            self.branch_convs.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False))
            self.branch_bns.append(_batch_norm(width, model.bn_momentum))
            channels = width

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C, H // 2, W // 2), the floor taken after a 2x2 convolution's loss of one pixel."""
        x = self.act(self.bn(F.max_pool2d(self.conv(x), 2)))
        residual = x
        for index, (conv, bn) in enumerate(zip(self.branch_convs, self.branch_bns, strict=True)):
            residual = bn(conv(self.act(residual) if index else residual))
        return self.act(x + residual) if self.skip else self.act(residual)


class WhitenedResNet(nn.Module):
    """Whitening stem, stages, global max pool (plus mean), linear classifier without bias, logits scaled.

    Maps normalized images (N, 3, H, W), H and W at least 8 per 3 stages, to logits (N, K). `fit_stem` must see training images
    before the first step if the stem whitens.
    """

    def __init__(self, model: WhitenedResNetModel, num_classes: int) -> None:
        super().__init__()
        self.act = ACTIVATIONS[model.activation]
        self.stem = Stem(model.whiten, model.stem_bias)
        self.stages: list[str] = []
        channels = self.stem.out_channels
        for index, stage in enumerate(model.stages):
            self.stages.append(f"layer{index + 1}")
            self.add_module(self.stages[-1], Stage(channels, stage, model))
            channels = stage.width
        self.head_pool, self.logit_scale = model.head_pool, model.logit_scale
        self.dropout = Dropout(model.dropout)
        self.fc = nn.Linear(channels, num_classes, bias=False)
        if model.dirac:
            _start_as_identity(self)
        self.never_trains = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (N, 3, H, W) to logits (N, K)."""
        # While the stem is fixed, the first convolution needs no gradient of its input: 4 % of the FLOPs.
        trains = any(parameter.requires_grad for parameter in self.stem.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            x = self.act(self.stem(images))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        pooled = F.max_pool2d(x, x.shape[2:]).flatten(1)  # not adaptive, which torch 2.11 exports to no ONNX file
        match self.head_pool:
            case "max":
                pass
            case "max_mean":
                pooled = pooled + x.mean((2, 3))
            case unknown:
                assert_never(unknown)
        return self.fc(self.dropout(pooled)) * self.logit_scale  # type: ignore[no-any-return]


def fit_stem(net: nn.Module, images: Tensor, prepare: Callable[[Tensor], Tensor]) -> None:
    """Whiten the stem of a net that wants it by training images (N, 3, 32, 32) as `prepare` makes them; others are left alone.

    Where these are enlarged, as many fewer are taken, evenly spread, as they have more pixels.
    """
    if isinstance(net, WhitenedResNet) and net.stem.whiten:
        side = prepare(images[:1]).shape[-1]
        net.stem.fit(prepare(images[:: max(1, round((side / images.shape[-1]) ** 2))]))


@torch.no_grad()
def merge_pooled_norms(net: nn.Module) -> None:
    """For inference, merge each BatchNorm after a pooling into the convolution before it, in place; other nets have none.

    Its scale is positive, as its weight never trains from 1, so it and the maximum may change places. Exporters merge what
    follows a convolution at once, and would leave these.
    """
    for stage in net.modules():
        if isinstance(stage, Stage):
            assert (stage.bn.weight > 0).all()
            stage.conv = fuse_conv_bn_eval(stage.conv, stage.bn)
            stage.bn = nn.Identity()  # type: ignore[assignment]


def _batch_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    """BatchNorm that trains its bias alone: the convolution after it sets the scale."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm


def _start_as_identity(net: nn.Module) -> None:
    """Let the first filters of every padded convolution pass their input through (dirac); the others keep torch's draw."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] % 2 and not module.weight.is_meta:
            nn.init.dirac_(module.weight.data[: module.in_channels])

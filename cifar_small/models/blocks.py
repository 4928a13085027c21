"""The parts residual nets are made of: activations, dropout, stochastic depth, squeeze-and-excitation, two basic blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_small.config.schema.model import Shortcut

Activation = Callable[[Tensor], Tensor]


def _relu(x: Tensor) -> Tensor:
    # In place is safe here: it follows BatchNorm or an addition, and neither needs its output for the backward pass.
    return F.relu(x, inplace=True)


# Functions, not modules: quantizers refuse a block that uses one nn.ReLU twice.
ACTIVATIONS: dict[str, Activation] = {"relu": _relu, "leaky_relu": F.leaky_relu, "silu": F.silu, "gelu": F.gelu}


class Dropout(nn.Dropout):
    """Dropout that costs nothing while p is 0: a phase may change p, so every net has the layer (Srivastava et al., 2014)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `input` itself at p = 0 or in evaluation."""
        return super().forward(input) if self.p and self.training else input


class StochasticDepth(nn.Module):
    """In training, zero a sample's whole residual with probability p and scale the others by 1/(1-p) (Huang et al., 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        if not self.p or not self.training:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.p
        return x * (kept / (1 - self.p)).to(x.dtype)

    def extra_repr(self) -> str:
        """Show p when the net is printed."""
        return f"p={self.p:g}"


class SqueezeExcitation(nn.Module):
    """Weigh each channel by a gate computed from all channel means (Hu et al., 2018); both layers have biases."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class PadShortcut(nn.Module):
    """Option A of He et al. (2016): strided subsampling, then zero channels; no parameters."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = extra_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + extra, ceil(H / stride), ceil(W / stride)); the zeros follow the channels of x."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a net share, and the probabilities of one block."""

    activation: Activation = ACTIVATIONS["relu"]
    shortcut: Shortcut = "conv"
    se_reduction: int | None = None
    dropout: float | None = None  # between the convolutions; None: no dropout layer there
    stochastic_depth: float = 0.0


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution with padding and without bias: BatchNorm, which removes a bias, always stands beside it."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def _branch_end(channels: int, options: BlockOptions) -> nn.Sequential:
    """What a residual passes before the addition; an empty Sequential returns its input."""
    end: list[nn.Module] = []
    if options.se_reduction is not None:
        end.append(SqueezeExcitation(channels, options.se_reduction))
    if options.stochastic_depth:
        end.append(StochasticDepth(options.stochastic_depth))
    return nn.Sequential(*end)


class BasicBlock(nn.Module):
    """act(BN(conv(act(BN(conv x)))) + shortcut x), He et al. (2016)."""

    def __init__(self, in_channels: int, channels: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        self.act = options.activation
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.branch_end = _branch_end(channels, options)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            match options.shortcut:
                case "pad":
                    self.downsample = PadShortcut(channels - in_channels, stride)
                case "conv":
                    conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
                    self.downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))
                case unknown:
                    assert_never(unknown)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C, H / stride, W / stride)."""
        residual = self.act(self.bn1(self.conv1(x)))
        residual = self.branch_end(self.bn2(self.conv2(residual)))
        return self.act(residual + self.downsample(x))


class PreactBlock(nn.Module):
    """conv(act(BN(conv(act(BN x))))) + shortcut (He et al., 2016b), with optional dropout between the convolutions.

    Where the shape changes, the 1x1 projection takes the activated input, as in WideResNet; option A's padding takes x itself.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        self.act = options.activation
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout: nn.Module = nn.Identity() if options.dropout is None else Dropout(options.dropout)
        self.conv2 = conv3x3(channels, channels)
        self.branch_end = _branch_end(channels, options)
        self.downsample: nn.Module = nn.Identity()
        self.projects = False
        if stride != 1 or in_channels != channels:
            match options.shortcut:
                case "pad":
                    self.downsample = PadShortcut(channels - in_channels, stride)
                case "conv":
                    self.projects = True
                    self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
                case unknown:
                    assert_never(unknown)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C, H / stride, W / stride)."""
        activated = self.act(self.bn1(x))
        shortcut = self.downsample(activated if self.projects else x)
        residual = self.dropout(self.act(self.bn2(self.conv1(activated))))
        return self.branch_end(self.conv2(residual)) + shortcut  # type: ignore[no-any-return]


def init_weights(net: nn.Module) -> None:
    """Kaiming normal (fan out) convolutions (He et al., 2015); BatchNorm weight 1 and bias 0; linear layers keep torch's."""
    if next(net.parameters()).is_meta:
        return  # nothing to fill; trying would import torch's compiler, a second of param_count's time
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

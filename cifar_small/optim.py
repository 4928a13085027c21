"""Optimisers and their parameter groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cifar_small.schema import Optim


def parameter_groups(model: nn.Module, settings: Optim) -> list[dict[str, object]]:
    """Two groups: weights with decay, and 1-d parameters (biases, BatchNorm) without, unless `decay: all`."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1 or settings.decay == "all"]
    spared = [parameter for parameter in parameters if parameter.ndim <= 1 and settings.decay != "all"]
    groups = [(decayed, settings.weight_decay), (spared, 0.0)]
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def build_optimizer(model: nn.Module, settings: Optim) -> torch.optim.SGD:
    """A fused SGD over the parameter groups; its learning rate is set before every step."""
    return torch.optim.SGD(
        parameter_groups(model, settings), lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=True
    )


def update_optimizer(optimizer: torch.optim.SGD, model: nn.Module, settings: Optim) -> torch.optim.SGD:
    """The optimiser for a phase that changed settings: new hyper-parameters, the momentum buffers kept."""
    fresh = build_optimizer(model, settings)
    for parameter, state in optimizer.state.items():
        fresh.state[parameter] = state
    return fresh


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_and_check(
    optimizer: torch.optim.Optimizer, loss: Tensor, clip_norm: float | None, stopped: Tensor | None = None
) -> Tensor:
    """Clip the gradient and make the coming step a no-op on the device if loss or gradient is not finite, or if `stopped`.

    Returns a bool tensor: is something not finite? The fused optimiser reads the same flag (its `found_inf`, made for
    gradient scaling) and leaves the weights alone, so no host synchronisation is needed to stop *before* the update.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
    optimizer.found_inf = (bad if stopped is None else bad | stopped).float()  # type: ignore[attr-defined]
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_((p for group in optimizer.param_groups for p in group["params"]), clip_norm, norm)
    return bad

"""Optimisers and their parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cifar_small.muon import Muon
from cifar_small.schema import SGD, Optim


def parameter_groups(model: nn.Module, settings: SGD) -> list[dict[str, object]]:
    """Two groups: weights with decay, and 1-d parameters (biases, BatchNorm) without, unless `decay: all`."""
    parameters = _trained(model)
    decayed = [parameter for parameter in parameters if parameter.ndim > 1 or settings.decay == "all"]
    spared = [parameter for parameter in parameters if parameter.ndim <= 1 and settings.decay != "all"]
    groups = [(decayed, settings.weight_decay), (spared, 0.0)]
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def build_optimizer(model: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """The optimiser over the parameters that train now: a fused SGD, or Muon. Its learning rates are set before every step."""
    if isinstance(settings, SGD):
        return torch.optim.SGD(
            parameter_groups(model, settings),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            fused=True,
        )
    filters = {
        "lr": settings.lr,
        "momentum": settings.momentum,
        "weight_decay": settings.weight_decay,
        "nesterov": settings.nesterov,
        "iterations": settings.iterations,
        "normalise": settings.normalise,
        "orthogonal": True,
    }
    members: dict[str, list[Tensor]] = {"filters": [], "bias": [], "head": []}
    for parameter in _trained(model):
        # Filters that see the image itself have 3 channels in: too few directions for an orthogonal update to make sense.
        filter_bank = parameter.ndim == 4 and parameter.shape[1] > 3
        members["filters" if filter_bank else "bias" if parameter.ndim <= 1 else "head"].append(parameter)
    hyper: dict[str, dict[str, Any]] = {
        "filters": filters,
        "bias": {**settings.bias.model_dump(), "orthogonal": False},
        "head": {**settings.head.model_dump(), "orthogonal": False},
    }
    return Muon(
        [
            {"params": members[kind], **hyper[kind], "lr_factor": hyper[kind]["lr"] / settings.lr}
            for kind in members
            if members[kind]
        ]
    )


def _trained(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def update_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """The optimiser for a phase that changed settings or what trains: new hyper-parameters, the momentum buffers kept.

    Another kind of optimiser starts without momentum: its numbers mean something else there.
    """
    fresh = build_optimizer(model, settings)
    if type(fresh) is type(optimizer):
        trained = {parameter for group in fresh.param_groups for parameter in group["params"]}
        for parameter, state in optimizer.state.items():
            if parameter in trained:
                fresh.state[parameter] = state
    return fresh


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the step; groups with a rate of their own (Muon's) keep their ratio to it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


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

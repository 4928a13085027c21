"""Optimizers and their parameter groups."""

from __future__ import annotations

from typing import Any, assert_never

import torch
from torch import Tensor, nn

from cifar_small.config.schema import SAM, SGD, Adam, Lookahead, MuonSettings, Optim
from cifar_small.models import in_backbone
from cifar_small.optim.muon import Muon


def parameter_groups(model: nn.Module, settings: SGD | Adam) -> list[dict[str, object]]:
    """Parameters in groups: weights with decay, 1-d ones (biases, BatchNorm) without, unless `decay: all`.

    Head and backbone stand apart where the backbone has a learning rate of its own.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            match settings.decay:
                case "all":
                    spared = False
                case "weights":
                    spared = parameter.ndim <= 1
                case unknown:
                    assert_never(unknown)
            apart = settings.backbone_lr_factor != 1 and in_backbone(name)
            groups.setdefault((apart, spared), []).append(parameter)
    return [
        {
            "params": members,
            "weight_decay": 0.0 if spared else settings.weight_decay,
            "lr_factor": settings.backbone_lr_factor if apart else 1.0,
        }
        for (apart, spared), members in sorted(groups.items(), key=lambda item: item[0])
    ]


def is_filter_bank(parameter: Tensor) -> bool:
    """Does Muon step it? Filters that see the image itself have 3 channels in, depthwise ones 1: too few directions."""
    return parameter.ndim == 4 and parameter.shape[1] > 3


def build_optimizer(model: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """The optimizer over the parameters that train now, fused where torch has it; learning rates are set before every step."""
    fused = not next(model.parameters()).is_meta  # torch has no fused step there, and nothing to gain
    match settings:
        case SGD():
            sgd = torch.optim.SGD(
                parameter_groups(model, settings),
                lr=settings.lr,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                fused=fused,
            )
            _complete_momentum(sgd)
            return sgd
        case Adam():
            return _adam(parameter_groups(model, settings), settings, fused)
        case MuonSettings():
            return _muon(model, settings)
        case _:
            assert_never(settings)


def _adam(groups: list[dict[str, object]], settings: Adam, fused: bool) -> torch.optim.Optimizer:
    betas = (settings.beta1, settings.beta2)
    match settings.name:
        case "radam":
            return GuardedRAdam(groups, lr=settings.lr, betas=betas, eps=settings.eps)
        case "adamw":
            return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=fused)
        case unknown:
            assert_never(unknown)


def _muon(model: nn.Module, settings: MuonSettings) -> Muon:
    filters = {
        "lr": settings.lr,
        "momentum": settings.momentum,
        "weight_decay": settings.weight_decay,
        "nesterov": settings.nesterov,
        "iterations": settings.iterations,
        "normalize": settings.normalize,
        "rule": "muon",
    }
    members: dict[str, list[Tensor]] = {"filters": [], "bias": [], "head": []}
    for parameter in _trained(model):
        members["filters" if is_filter_bank(parameter) else "bias" if parameter.ndim <= 1 else "head"].append(parameter)
    hyper: dict[str, dict[str, Any]] = {
        "filters": filters,
        "bias": {**dict(settings.bias), "rule": settings.bias.name},
        "head": {**dict(settings.head), "rule": settings.head.name},
    }
    return Muon(
        [
            {"params": members[kind], **hyper[kind], "lr_factor": hyper[kind]["lr"] / settings.lr}
            for kind in members
            if members[kind]
        ]
    )


class GuardedRAdam(torch.optim.RAdam):
    """RAdam (Liu et al. 2020, arXiv 1908.03265) that heeds `found_inf`, which torch's own does not, and waits for no device."""

    found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step as torch's, or none if the gradient was not finite; counted on the device, where that is known."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad, group)

    def _step_one(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state |= {"step": torch.zeros((), device=parameter.device)}
            state |= {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        if state["step"].device != parameter.device:  # of a checkpoint: once
            state["step"] = state["step"].to(parameter.device)
        gradient = gradient + group["weight_decay"] * parameter
        count = state["step"] + 1
        mean = state["exp_avg"].lerp(gradient, 1 - beta1)
        square = (beta2 * state["exp_avg_sq"]).addcmul(gradient, gradient, value=1 - beta2)
        # In double, because 1 - beta2**count loses half of the digits of a float.
        t = count.double()
        longest, unbiased = 2 / (1 - beta2) - 1, 1 - beta2**t
        length = longest - 2 * t * beta2**t / unbiased  # of the average that the squares are: rho_t of the paper
        variance = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        adaptive = (variance * unbiased).clamp_min(0).sqrt() / (square.sqrt() + group["eps"])
        size = group["lr"] / (1 - beta1**t)
        moved = parameter - size * mean * torch.where(length > 5, adaptive, 1.0)
        for target, value in (
            (state["step"], count),
            (state["exp_avg"], mean),
            (state["exp_avg_sq"], square),
            (parameter, moved),
        ):
            target.copy_(value if self.found_inf is None else torch.where(self.found_inf.bool(), target, value))


def _trained(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def update_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """The optimizer for a phase that changed settings or what trains: new hyper-parameters, the momentum buffers kept.

    Another kind of optimizer starts without momentum: its numbers mean something else there.
    """
    fresh = build_optimizer(model, settings)
    if type(fresh) is type(optimizer):
        trained = {parameter for group in fresh.param_groups for parameter in group["params"]}
        for parameter, state in optimizer.state.items():
            if parameter in trained:
                fresh.state[parameter] = state
        if isinstance(fresh, torch.optim.SGD):
            _complete_momentum(fresh)
    return fresh


def _complete_momentum(optimizer: torch.optim.SGD) -> None:
    """Give parameters without momentum one of 0.

    That is how each would begin anyway, but torch's fused step takes buffers for all of a group or for none, and leaves new
    ones uninitialized where `found_inf` makes the first step none.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


@torch.no_grad()
def match_strides(optimizer: torch.optim.Optimizer) -> None:
    """Lay out each gradient and each buffer of the optimizer in memory as its parameter is.

    torch's fused steps on a CPU walk through the memory of all of them as it lies, and silently mistake one element for another
    where the strides differ, as those of a checkpoint or of a gradient that somebody replaced may; see docs/surprises.md.
    """
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        if parameter.grad is not None and _lies_otherwise(parameter.grad, parameter):
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        state = optimizer.state.get(parameter, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and _lies_otherwise(value, parameter):
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _lies_otherwise(tensor: Tensor, parameter: Tensor) -> bool:
    pairs = zip(parameter.shape, tensor.stride(), parameter.stride(), strict=True)
    return any(own != other for size, own, other in pairs if size > 1)  # the stride of one element says nothing


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the step; groups with a rate of their own (Muon's, the backbone's) keep their ratio to it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def clip_and_check(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    clip_norm: float | None,
    stopped: Tensor | None = None,
    norms: Tensor | None = None,
) -> Tensor:
    """Clip the gradient and make the coming step a no-op on the device if loss or gradient is not finite, or if `stopped`.

    norms: (sum, steps), float32, to which the norm before clipping is added, of steps that are taken. Returns a bool tensor: is
    something not finite? The fused optimizer reads the same flag (its `found_inf`, made for gradient scaling) and leaves the
    weights alone, so no host synchronization is needed to stop *before* the update.
    """
    match_strides(optimizer)
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
    idle = bad if stopped is None else bad | stopped
    optimizer.found_inf = idle.float()  # type: ignore[attr-defined]
    if norms is not None:
        norms += torch.where(idle, 0.0, torch.stack((norm, torch.ones_like(norm))))
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_((p for group in optimizer.param_groups for p in group["params"]), clip_norm, norm)
    return bad


GROWTH_STEPS = 2000  # as torch's GradScaler has it


@torch.no_grad()
def unscale(model: nn.Module, scale: Tensor) -> None:
    """Divide the gradients by the factor of the loss, in place."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch._foreach_mul_(gradients, 1 / scale)


def adjust_scale(scaling: Tensor, loss: Tensor, bad: Tensor) -> Tensor:
    """After a step in fp16: halve the factor of the loss if its gradients overflowed, double it after many steps without.

    scaling: (factor, steps since it changed), in place, on the device, so that nobody waits, unlike in torch's GradScaler;
    bad: was loss or gradient not finite, so that the step was none? Returns a bool tensor: is it beyond remedy? So it is where
    the loss itself is not finite, or the gradient with a factor below 1.
    """
    factor, steps = scaling.clone().unbind()
    grown = torch.where(steps + 1 >= GROWTH_STEPS, factor * 2, factor)
    scaling[0] = torch.where(bad, factor / 2, grown)
    scaling[1] = torch.where(bad | (grown > factor), 0.0, steps + 1)
    return bad & (~torch.isfinite(loss) | (factor < 1))


@torch.no_grad()
def move_uphill(optimizer: torch.optim.Optimizer, settings: SAM) -> list[tuple[Tensor, Tensor]]:
    """Move the weights to where SAM takes its gradient, in place; returns each parameter with its former value.

    Plain: w + rho g / |g|. Adaptive: w + rho w^2 g / |w g|, the same in coordinates scaled by each weight.
    """
    members = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    scaled = [p.abs() * p.grad if settings.adaptive else p.grad for p in members]
    factor = settings.rho / (nn.utils.get_total_norm(scaled) + 1e-12)
    former = [(parameter, parameter.clone()) for parameter in members]
    for parameter, direction in zip(members, scaled, strict=True):
        parameter.add_(factor * (parameter.abs() * direction if settings.adaptive else direction))
    return former


@torch.no_grad()
def move_back(former: list[tuple[Tensor, Tensor]]) -> None:
    """Give the weights the values they had before `move_uphill`; the gradients stay."""
    for parameter, value in former:
        parameter.copy_(value)


@torch.no_grad()
def look_ahead(model: nn.Module, slow: dict[str, Tensor], settings: Lookahead, step: int, steps: int) -> None:
    """After step `step` (from 1) of `steps` in an epoch: every few of them move the slow weights, and the model's to them.

    An epoch's last step always does, so that what is evaluated and saved are the slow weights, as in the paper.
    """
    if step % settings.steps and step != steps:
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            slow[name].lerp_(parameter, settings.alpha)
            parameter.copy_(slow[name])

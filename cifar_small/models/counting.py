"""How large a net is, and whether the rules allow it: decided from the config alone, before any data is read.

Nets are built on torch's meta device, which has shapes and no memory, so a net of any size is counted in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from cifar_small.config.own_code import load_own
from cifar_small.config.schema import (
    Config,
    LibraryModel,
    OwnModel,
    ResNetModel,
    Rules,
    WhitenedResNetModel,
    WhitenedStage,
    WideResNetModel,
)
from cifar_small.errors import ConfigError
from cifar_small.models import LibraryNet, ModelConfig, build_model
from cifar_small.models.attributes import OF_EVERY_MODULE, holds_tensor
from cifar_small.models.resnet import ResNet
from cifar_small.models.whitened import WhitenedResNet
from cifar_small.models.wideresnet import WideResNet


@dataclass(frozen=True)
class Footprint:
    """The size of a net: numbers it holds and work per image."""

    trainable: int  # what the budget limits
    total: int  # all parameters
    buffers: int  # numbers in BatchNorm's running statistics
    macs: int  # multiply-adds of convolutions, linear layers and attention for one image
    fp32_bytes: int  # of the parameters

    @property
    def mebibytes(self) -> float:
        """Parameters as fp32, in units of 2**20 bytes."""
        return self.fp32_bytes / 2**20


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters: `sum(p.numel() ... if p.requires_grad)` with everything unfrozen.

    What a phase has frozen still counts (freezing does not make a net smaller), a shared parameter counts once, and buffers
    do not count. So it is every parameter that could require a gradient, whether or not it does now.
    """
    return sum(p.numel() for p in model.parameters() if p.is_floating_point() or p.is_complex())


def skeleton(model: ModelConfig, num_classes: int) -> nn.Module:
    """The net on the meta device: shapes without memory. Raises ConfigError for a shape that cannot be built."""
    if isinstance(model, OwnModel) and model.sha256 is not None:
        load_own(model.family, model.sha256)  # runs the file once: tensors it makes for itself are real
    try:
        with torch.device("meta"):
            return build_model(model, num_classes)
    except ConfigError:
        if not isinstance(model, OwnModel):
            raise
    with torch.random.fork_rng(devices=[]):  # it looks at values while it is built, as by .item()
        return build_model(model, num_classes).to("meta")


@cache
def trainable_parameters(model: ModelConfig, num_classes: int) -> int:
    """What the budget limits, of a config's net. Raises ConfigError for a shape that cannot be built."""
    return count_parameters(skeleton(model, num_classes))


@cache
def footprint(model: ModelConfig, num_classes: int, side: int = 32) -> Footprint:
    """Measure the net of a config without allocating it, its work on images of `side` pixels.

    Raises ConfigError for a shape that cannot be built, a net that takes no images of that size, or one that keeps numbers
    where the count does not see them.
    """
    net = skeleton(model, num_classes).eval()
    check_tensors(net)
    total = sum(p.numel() for p in net.parameters())
    buffers = sum(buffer.numel() for buffer in net.buffers() if buffer.is_floating_point())
    trainable = count_parameters(net)
    try:
        macs = _macs(net, side)
    except (Exception, SystemExit) as error:
        if isinstance(net, LibraryNet):
            raise ConfigError(f"{model.family} {net.refusal(side, error)}") from error
        if not isinstance(model, OwnModel):
            raise
        raise ConfigError(
            f"{model.family} has {trainable:,} parameters but cannot be tried on an image of 3x{side}x{side} on torch's meta "
            f"device, where no value can be looked at: {type(error).__name__}: {error}"
        ) from error
    return Footprint(trainable, total, buffers, fp32_bytes=4 * total, macs=macs)


def _macs(net: nn.Module, side: int) -> int:
    """Multiply-adds for one image; the net is used up.

    Ours are counted by hand: the first operation on the meta device imports torch's compiler, which takes a second.
    """
    return _macs_by_hand(net, side) if isinstance(net, ResNet | WideResNet | WhitenedResNet) else _macs_of_any(net, side)


def _macs_of_any(net: nn.Module, side: int) -> int:
    """Multiply-adds of any net on the meta device, its convolutions of all kinds, products of matrices and attention.

    On the CPU torch's counter counts no attention.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, side, side, device="meta"))
    flops: int = counter.get_total_flops()
    return flops // 2


def _macs_by_hand(net: nn.Module, side: int) -> int:
    """Multiply-adds of a net of ours.

    Each layer with weights is made to return zeros of its output's shape, so the net's own code runs on the CPU in no time.
    """
    macs = 0

    def shape_only(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
        nonlocal macs
        if isinstance(layer, nn.Linear):
            output = x.new_zeros(*x.shape[:-1], layer.out_features)
        else:
            assert not isinstance(layer.padding, str), layer
            height, width = (
                (size + 2 * padding - kernel) // stride + 1
                for size, padding, kernel, stride in zip(
                    x.shape[2:], layer.padding, layer.kernel_size, layer.stride, strict=True
                )
            )
            output = x.new_zeros(x.shape[0], layer.out_channels, height, width)
        macs += output.numel() * layer.weight[0].numel()  # weight[0]: all that feeds one output number
        return output

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.forward = partial(shape_only, module)  # type: ignore[method-assign]
        elif isinstance(module, _BatchNorm):
            module.forward = nn.Identity().forward  # type: ignore[method-assign]
        else:  # few numbers, made real so that the net's own code can use them
            for name, parameter in module.named_parameters(recurse=False):
                module.register_parameter(name, nn.Parameter(torch.zeros(parameter.shape)))
    with torch.no_grad():
        net(torch.zeros(1, 3, side, side))
    return macs


def widest(model: ModelConfig, num_classes: int, budget: int) -> tuple[ModelConfig, int] | None:
    """The widest net of the same shape with at most `budget` trainable parameters, and its count; None if none fits.

    wideresnet: the largest integer widen_factor. A net of a library, or the user's own: itself. resnet: all widths and an
    explicit stem_width scaled by one common factor and rounded; every candidate is counted exactly. (An explicit stem of nearly
    widths[0] can round to it and so lose its projection; the count then steps down once, and the result fits but may not be the
    last that would.)
    """
    if isinstance(model, LibraryModel | OwnModel):
        count = trainable_parameters(model, num_classes)
        return (model, count) if count <= budget else None
    scaled, unscaled = _scaling(model)

    def fits(step: int) -> bool:
        return trainable_parameters(scaled(step), num_classes) <= budget

    low = unscaled if fits(unscaled) else 1
    if not fits(low):
        return None
    high = unscaled
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return scaled(low), trainable_parameters(scaled(low), num_classes)


def _scaling(
    model: ResNetModel | WideResNetModel | WhitenedResNetModel,
) -> tuple[Callable[[int], ModelConfig], int]:
    """The nets of one shape in order of width, by a step number, and the step of the model itself."""
    if isinstance(model, WideResNetModel):
        return (lambda step: model.model_copy(update={"widen_factor": step})), model.widen_factor
    widths = _widths(model)
    # A width w rounds up to k at factor (2k - 1) / 2w. In units of 1 / (2 lcm of all widths) each such factor is a whole
    # number, so stepping through whole numbers meets every possible rounding, without floating point.
    unit = 2 * math.lcm(*widths)

    def scale(width: int, step: int) -> int:
        return max(1, (2 * width * step + unit) // (2 * unit))

    def scaled(step: int) -> ModelConfig:
        if isinstance(model, WhitenedResNetModel):
            return model.model_copy(update={"stages": tuple(_scaled_stage(stage, step) for stage in model.stages)})
        stem = {} if model.stem_width is None else {"stem_width": scale(model.stem_width, step)}
        return model.model_copy(update={"widths": tuple(scale(width, step) for width in model.widths), **stem})

    def _scaled_stage(stage: WhitenedStage, step: int) -> WhitenedStage:
        branch = tuple((kernel, scale(width, step)) for kernel, width in stage.branch)
        return stage.model_copy(update={"width": scale(stage.width, step), "branch": branch})

    return scaled, unit


def _widths(model: ResNetModel | WhitenedResNetModel) -> list[int]:
    if isinstance(model, ResNetModel):
        return [*model.widths, model.stem_width or 1]
    return [width for stage in model.stages for width in (stage.width, *(width for _, width in stage.branch))]


def width_text(model: ModelConfig) -> str:
    """The width of a net as its config says it: `widen_factor 3` or `widths 32/64/128/256`."""
    if isinstance(model, LibraryModel | OwnModel):
        return model.family
    if isinstance(model, WideResNetModel):
        return f"widen_factor {model.widen_factor}"
    if isinstance(model, WhitenedResNetModel):
        each = ("-".join(str(width) for width in (stage.width, *(w for _, w in stage.branch))) for stage in model.stages)
        return f"widths {'/'.join(each)}"
    stem = "" if model.stem_width is None else f" with stem_width {model.stem_width}"
    return f"widths {'/'.join(map(str, model.widths))}{stem}"


def check_count(name: str, count: int, rules: Rules) -> None:
    """Refuse a number of trainable parameters over the budget, by raising ConfigError; exactly the budget passes."""
    if count > rules.max_params:
        raise ConfigError(_over(name, count, rules.max_params))


def check_budget(config: Config, num_classes: int) -> int:
    """The trainable parameters of the config's net.

    Raises ConfigError, naming the widest that fits, if over the budget, and for numbers that the count does not see.
    """
    budget = config.rules.max_params
    count = trainable_parameters(config.model, num_classes)
    if count > budget:
        if isinstance(config.model, LibraryModel | OwnModel):
            advice = "it has one width: choose a smaller net, or rules.max_params as the competition has it"
        else:
            found = widest(config.model, num_classes, budget)
            advice = f"widest that fits: {width_text(found[0])} ({found[1]:,})" if found else "no width of this shape fits"
        raise ConfigError(f"{_over(config.name, count, budget)}; {advice}")
    check_tensors(skeleton(config.model, num_classes))
    return count


def _over(name: str, count: int, budget: int) -> str:
    return f"{name} has {count:,} trainable parameters, {count - budget:,} over the budget of {budget:,}"


def check_tensors(model: nn.Module) -> None:
    """Refuse a net that keeps numbers where the count does not see them, by raising ConfigError that names the first few.

    Allowed are plain real floating-point parameters, BatchNorm's running statistics, and the tables of torchvision and timm in
    a net of theirs, such as masks and relative positions of attention, which no training changes.
    """
    problems = list(_hidden(model))
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ConfigError(
            f"the parameter count would miss numbers of this net: {'; '.join(problems[:3])}{more}; "
            "only floating-point parameters and BatchNorm running statistics are allowed"
        )


def _hidden(model: nn.Module) -> Iterator[str]:
    seen, counted = set(), {id(one) for one in (*model.parameters(), *model.buffers(), *model.modules())}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        seen.add(name)
        lazy: bool = is_lazy(parameter)  # named, because mypy takes is_lazy for a type guard and the rest for unreachable
        if lazy:
            yield f"{name} is not initialized yet (lazy)"
        elif type(parameter) is not nn.Parameter or parameter.is_quantized or not parameter.is_floating_point():
            yield f"{name} is a {type(parameter).__name__} of {parameter.dtype}"
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for key, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            seen.add(start + key)
            if is_lazy(buffer):
                yield f"{start}{key} is not initialized yet (lazy)"
            elif isinstance(model, LibraryNet) and type(module).__module__.partition(".")[0] in ("torchvision", "timm"):
                continue
            elif not (isinstance(module, _BatchNorm) and key in ("running_mean", "running_var", "num_batches_tracked")):
                yield f"{start}{key} is a buffer"
        for key, value in vars(module).items():
            if key not in OF_EVERY_MODULE and holds_tensor(value, counted):
                yield f"{start}{key} is a tensor that is not registered"
    yield from (f"{key} is a hidden entry of the state dict" for key in model.state_dict() if key not in seen)

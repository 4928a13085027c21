"""Nets of the user's own: built from their class, and tried for what training, resuming and predicting take for granted."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cifar_small.config.own_code import load_own
from cifar_small.config.schema import OwnModel
from cifar_small.errors import ConfigError
from cifar_small.models.modes import ATTENTION, in_backbone
from cifar_small.wording import plural

PASSES = 8  # of a net that may leave layers out at random, to find which parameters it uses


def build_own(model: OwnModel, num_classes: int) -> nn.Module:
    """An instance of the user's class. Raises ConfigError for what is no net, or refuses its arguments."""
    own: Any = load_own(model.family, model.sha256)
    if not (inspect.isclass(own) and issubclass(own, nn.Module)):
        raise ConfigError(f"{model.family} is {own!r}; expected a class derived from torch.nn.Module")
    try:
        net = own(num_classes=num_classes, **deepcopy(model.arguments))
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        given = ", ".join(["num_classes", *model.arguments])
        raise ConfigError(f"{model.family} cannot be built with {given}: {type(error).__name__}: {error}") from error
    assert isinstance(net, nn.Module)
    try:
        parameters = list(net.named_parameters())
    except TypeError as error:  # torch keeps modules in sets
        raise _broken(model, f"has a module that cannot be hashed ({error}): write @dataclass(eq=False)") from None
    if net.train(net.training) is not net:
        raise _broken(model, "has a train() that does not return the net, as torch's does: end it with `return self`")
    if lazy := [name for name, parameter in parameters if is_lazy(parameter)]:
        raise _broken(model, f"leaves the size of {lazy[0]} open until it sees images; expected sizes known when it is built")
    fixed = frozenset(name for name, parameter in parameters if not parameter.requires_grad)
    if len(fixed) == len(parameters):
        raise _broken(model, "has no parameters that train; expected some")
    net.never_trains = fixed  # type: ignore[assignment]  # phases freeze and release the others
    return net


def check_own(model: OwnModel, num_classes: int, side: int, head_matters: bool = False, apart: bool = False) -> list[str]:
    """Try a net on two random images, on the CPU. Raises ConfigError that says which promise it cannot keep, and why.

    Tried are: one logit a class, for a single image too; equal seeds give equal weights and equal training passes, as a resumed
    run needs; the state dict holds all that a prediction depends on; in evaluation an image's logits do not depend on the batch
    it stands in.
    head_matters: does the config name weights, whose head may be of other classes, and is known by its name? apart: does it
    give the backbone a rate of its own, or freeze it? Returns the names of parameters that the loss does not depend on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.randn(2, 3, side, side)
        first, second = (_seeded(model, num_classes, seed=1) for _ in range(2))
        if apart and all(in_backbone(name) for name, _ in first.named_parameters(remove_duplicate=False)):
            raise _broken(
                model, "has no part called fc, so that its classifier counts as backbone; call it fc, or treat all of it alike"
            )
        if (head_matters or apart) and any(name.startswith(ATTENTION) for name, _ in first.named_parameters()):
            raise _broken(
                model, "calls a part `attention`, as the head of a pretrained net has one; rename it to tell backbone and head"
            )
        if difference := _first_difference(first.state_dict(), second.state_dict()):
            raise _broken(model, f"two nets of one seed begin with other values of {difference}: resuming would not be exact")
        logits = _training_pass(first, images, model)
        if logits.shape != (2, num_classes):
            raise _broken(model, f"maps 2 images to {tuple(logits.shape)}, not {(2, num_classes)}")
        if not torch.equal(logits, _training_pass(second, images, model)):
            raise _broken(model, "two training passes of one torch seed differ: all its random numbers must be torch's")
        other = _seeded(model, num_classes, seed=2)
        other.load_state_dict(first.state_dict())
        first.eval()
        other.eval()
        with torch.no_grad():
            whole, repeated = _logits(first, images, model), _logits(first, images, model)
            again = _logits(other, images, model)
            alone = _logits(first, images[:1], model)
        if not torch.equal(whole, repeated):
            raise _broken(
                model,
                "in evaluation answers the same images otherwise the second time: its forward draws random numbers, or changes "
                "what it computes with; do either only where self.training is true",
            )
        if not torch.equal(whole, again):
            raise _broken(model, "another net with its state dict predicts otherwise: what it learns must be in its parameters")
        for count, found in ((2, whole), (1, alone)):
            if found.shape != (count, num_classes):
                raise _broken(
                    model, f"in evaluation maps {plural(count, 'image')} to {tuple(found.shape)}, not {(count, num_classes)}"
                )
        for found in (logits, whole):
            if (found >= 0).all() and torch.allclose(found.sum(dim=1), torch.ones(2), atol=1e-3):
                raise _broken(
                    model, "returns probabilities; expected logits: leave softmax out, which the loss takes by itself"
                )
        if not torch.allclose(whole[:1], alone, atol=1e-4, rtol=1e-4):
            raise _broken(model, "in evaluation the logits of an image depend on the others of its batch")
        first.train()
        other.train()
        if not torch.equal(_training_pass(first, images, model), _training_pass(other, images, model)):
            raise _broken(
                model,
                "trains otherwise after a pass than another net with its state dict: resuming would not be exact; keep what "
                "changes in a buffer, and draw from torch's own generator",
            )
        return _unused_parameters(first, images, model)


def _seeded(model: OwnModel, num_classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_own(model, num_classes).train()


def _training_pass(net: nn.Module, images: Tensor, model: OwnModel) -> Tensor:
    torch.manual_seed(3)
    return _logits(net, images, model)


def _logits(net: nn.Module, images: Tensor, model: OwnModel) -> Tensor:
    try:
        logits = net(images)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ConfigError(
            f"{model.family} cannot compute images {tuple(images.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(logits, Tensor) and logits.is_floating_point()):
        raise _broken(model, f"returns {type(logits).__name__}, not a tensor of logits")
    if not torch.isfinite(logits).all():
        raise _broken(model, "maps random images to logits that are NaN or infinite")
    return logits.detach()


def _unused_parameters(net: nn.Module, images: Tensor, model: OwnModel) -> list[str]:
    """The names of parameters that train and get no gradient, in training passes of several seeds or in evaluation."""
    for seed in range(PASSES):  # because a net may leave layers out at random
        torch.manual_seed(seed)
        net.train(seed > 0)
        try:
            loss = net(images).square().sum()
            if net.training or loss.requires_grad:  # a net may evaluate without gradients
                loss.backward()
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise _broken(model, f"cannot be trained: its backward pass raises {type(error).__name__}: {error}") from error
    return [name for name, parameter in net.named_parameters() if parameter.requires_grad and parameter.grad is None]


def _first_difference(state: dict[str, Tensor], other: dict[str, Tensor]) -> str:
    return next((name for name in state if name not in other or not torch.equal(state[name], other[name])), "")


def _broken(model: OwnModel, why: str) -> ConfigError:
    return ConfigError(f"{model.family} {why}")

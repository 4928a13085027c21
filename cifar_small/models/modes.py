"""What of a net trains, drops out and keeps statistics: set in place, for any net."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from cifar_small.errors import ConfigError
from cifar_small.models.blocks import Dropout

ATTENTION = "attention."  # in the head of a pretrained net
HEAD = (ATTENTION, "fc.")  # what is not the backbone, in every net


def set_dropout(model: nn.Module, p: float) -> None:
    """Set p of every dropout layer that is ours (not of stochastic depth, nor within a library's backbone), in place."""
    assert 0 <= p < 1, p
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = p


def activate_dropout(model: nn.Module) -> None:
    """Put every dropout layer of the net, and nothing else, into training mode: they drop, BatchNorm keeps its statistics."""
    for layer in dropout_layers(model):
        layer.train()


def dropout_layers(model: nn.Module) -> list[_DropoutNd]:
    """All dropout layers of a net: ours, a library's and the user's own."""
    return [module for module in model.modules() if isinstance(module, _DropoutNd)]


def in_backbone(name: str) -> bool:
    """Is the parameter or buffer of this name outside the head, which another set of classes would replace?"""
    return not name.startswith(HEAD)


def set_frozen(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Train every parameter but those whose names start with one of `prefixes` and those a net never trains, in place.

    The prefix `backbone` stands for all but the head, in every net. Raises ConfigError for a prefix that freezes nothing.
    """
    places: dict[nn.Parameter, list[str]] = {}  # one may stand at several, such as a classifier's weight used elsewhere too
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(parameter, []).append(name)
    names = {given[0]: given for given in places.values()}
    never: frozenset[str] = getattr(model, "never_trains", frozenset())

    def frozen_by(prefix: str) -> set[str]:
        if prefix == "backbone":
            return {name for name, given in names.items() if all(map(in_backbone, given))}
        return {name for name, given in names.items() if any(one.startswith(prefix) for one in given)}

    frozen = never
    for prefix in prefixes:
        named = frozen_by(prefix)
        if named and named <= never:
            raise ConfigError(f"freeze {prefix!r} names only what this net never trains of itself: drop it")
        if not named:
            raise ConfigError(
                f"freeze {prefix!r} matches no parameter of this net; its parameters start with "
                f"{', '.join(dict.fromkeys(name.split('.')[0] for name in names))}"
            )
        frozen |= named
    for parameter, given in places.items():
        parameter.requires_grad_(given[0] not in frozen)


def set_frozen_throughout(model: nn.Module, phases: Iterable[tuple[str, ...]]) -> None:
    """Train every parameter but those that all these phases freeze, in place; as `set_frozen` does for a single one."""
    trained: set[str] = set()
    for prefixes in phases:
        set_frozen(model, prefixes)
        trained |= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def set_training(model: nn.Module) -> None:
    """Training mode, in place, but for a BatchNorm that is frozen as a whole: it evaluates, and its statistics stay."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and _is_frozen(module):
            module.eval()


def _is_frozen(norm: _BatchNorm) -> bool:
    """Does nothing of it train that could? One without weight and bias never counts as frozen, whatever is around it."""
    parameters = list(norm.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Within, training passes use their own BatchNorm statistics; what they leave in the running ones is undone."""
    # Not by a momentum of 0: that times the infinite mean of a pass that overflows is not a number.
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


@torch.no_grad()
def refresh_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set BatchNorm's running statistics to their mean over batches of images (B, 3, H, W), in place.

    Left alone are those of a norm that is frozen, or that the net's own `train` keeps in evaluation. All else is as in
    evaluation. (torch's own `update_bn` leaves dropout and stochastic depth on: they need random numbers, and their noise
    widens the variances.)
    """
    was_training = model.training
    set_training(model)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    model.eval()
    if not norms:
        model.train(was_training)
        return  # before the images are made
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # torch's plain mean of all calls so far: a batch calls a norm at two places twice
    counters = [norm.num_batches_tracked for norm in norms]
    for norm in norms:  # on the CPU, since torch looks at it in each call
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device="cpu")
    for images in batches:
        model(images)
    for norm, counter in zip(norms, counters, strict=True):
        if counter is not None:  # as of a norm that keeps no statistics
            counter.fill_(int(norm.num_batches_tracked or 0))
        norm.num_batches_tracked = counter
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)

"""Optimizer: groups, steps against SGD written by hand, clipping, and steps that must not happen."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from torch import nn

from cifar_small.config.loading import parse_config
from cifar_small.config.schema import SGD, Adam
from cifar_small.optim.optimizers import build_optimizer, clip_and_check, parameter_groups, set_learning_rate, update_optimizer


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 4)
    ).double()


def gradients(model: nn.Module, step: int) -> torch.Tensor:
    """Fill in the gradients of one step; returns the loss."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(6, 2, 4, 4, generator=generator, dtype=torch.double)
    labels = torch.randint(4, (6,), generator=generator)
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    return loss.detach()


def names(model: nn.Module, group: dict[str, Any]) -> list[str]:
    return [name for name, one in model.named_parameters() if any(one is member for member in group["params"])]


def test_one_dimensional_parameters_are_not_decayed() -> None:
    model = small_net()
    decayed, spared = parameter_groups(model, SGD(weight_decay=0.3))
    assert names(model, decayed) == ["0.weight", "4.weight", "5.weight"]
    assert names(model, spared) == ["0.bias", "1.weight", "1.bias", "4.bias", "5.bias"]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)


def test_decay_all_is_one_group() -> None:
    model = small_net()
    (group,) = parameter_groups(model, SGD(weight_decay=0.3, decay="all"))
    assert names(model, group) == [name for name, _ in model.named_parameters()]
    assert group["weight_decay"] == 0.3


def test_frozen_parameters_are_left_out() -> None:
    model = small_net()
    model[0].requires_grad_(False)
    model[4].requires_grad_(False)
    found = [name for group in parameter_groups(model, SGD()) for name in names(model, group)]
    assert found == ["5.weight", "1.weight", "1.bias", "5.bias"]


def by_hand(
    weights: dict[str, np.ndarray], grads: dict[str, np.ndarray], buffers: dict[str, np.ndarray], settings: SGD, lr: float
) -> None:
    # Sutskever et al. (2013) in torch's form: buffer = momentum * buffer + gradient; the first buffer is the gradient.
    for name, weight in weights.items():
        decay = settings.weight_decay if settings.decay == "all" or weight.ndim > 1 else 0.0
        gradient = grads[name] + decay * weight
        buffers[name] = settings.momentum * buffers[name] + gradient if name in buffers else gradient
        step = gradient + settings.momentum * buffers[name] if settings.nesterov else buffers[name]
        weights[name] = weight - lr * step


def as_numpy(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: one.detach().numpy().copy() for name, one in model.named_parameters()}


def walk(
    model: nn.Module, optimizer: torch.optim.SGD, buffers: dict[str, np.ndarray], settings: SGD, steps: range, base: float
) -> None:
    """Steps of the optimizer, checked after each against the same ones by hand."""
    weights = as_numpy(model)
    for step in steps:
        lr = base * (1 + step) / 20
        loss = gradients(model, step)
        set_learning_rate(optimizer, lr)
        assert clip_and_check(optimizer, loss, settings.clip_norm).item() == 0
        grads = {name: one.grad.numpy().copy() for name, one in model.named_parameters() if one.grad is not None}
        optimizer.step()
        by_hand(weights, grads, buffers, settings, lr)
        for name, found in as_numpy(model).items():
            assert np.allclose(found, weights[name], rtol=1e-10, atol=1e-13), (step, name)


@pytest.mark.parametrize(
    "settings",
    [
        SGD(momentum=0.9, weight_decay=0.05),
        SGD(momentum=0.8, weight_decay=0.05, decay="all"),
        SGD(momentum=0.9, nesterov=False, weight_decay=0.05),
        SGD(momentum=0.9, clip_norm=0.3),
    ],
)
def test_twenty_steps_by_hand(settings: SGD) -> None:
    model = small_net()
    start = as_numpy(model)
    walk(model, build_optimizer(model, settings), {}, settings, range(20), 0.2)
    assert all(not np.allclose(start[name], found, atol=1e-3) for name, found in as_numpy(model).items() if name != "0.bias")


@pytest.mark.parametrize("limit", [1e-3, 0.5, 1e6])
def test_clipping_is_torchs(limit: float) -> None:
    model, other = small_net(), small_net()
    gradients(other, 0)
    norm = nn.utils.clip_grad_norm_(other.parameters(), limit).item()
    assert 0.5 < norm < 1e6  # so that the three limits clip, clip and do not
    loss = gradients(model, 0)
    before = [one.grad.clone() for one in model.parameters()]
    assert clip_and_check(build_optimizer(model, SGD()), loss, limit).item() == 0
    for found, expected, unclipped in zip(model.parameters(), other.parameters(), before, strict=True):
        assert torch.allclose(found.grad, expected.grad, rtol=1e-12, atol=0)
        assert torch.equal(found.grad, unclipped) == (limit == 1e6)
    total = sum(one.grad.square().sum().item() for one in model.parameters()) ** 0.5
    assert total == pytest.approx(min(limit, norm), rel=1e-4)


def test_without_a_limit_the_gradient_is_left_alone() -> None:
    model = small_net()
    loss = gradients(model, 0)
    before = [one.grad.clone() for one in model.parameters()]
    assert clip_and_check(build_optimizer(model, SGD()), 1e6 * loss, None).item() == 0
    assert all(torch.equal(one.grad, kept) for one, kept in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first", [True, False])
def test_a_step_that_is_not_finite_changes_nothing(clip: float | None, where: str, value: float, first: bool) -> None:
    model = small_net()
    optimizer = build_optimizer(model, SGD(weight_decay=0.1))
    if not first:
        clip_and_check(optimizer, gradients(model, 0), clip)
        optimizer.step()
    loss = gradients(model, 1)
    if where == "loss":
        loss = torch.tensor(value)
    else:
        model[4].weight.grad[0, 3] = value
    weights = [one.detach().clone() for one in model.parameters()]
    momentum = copy.deepcopy([optimizer.state[one].get("momentum_buffer") for one in model.parameters()])
    bad = clip_and_check(optimizer, loss, clip)
    assert bad.item() == 1
    assert bad.dtype == torch.bool
    optimizer.step()
    assert all(torch.equal(one, kept) for one, kept in zip(model.parameters(), weights, strict=True))
    for one, kept in zip(model.parameters(), momentum, strict=True):
        assert torch.equal(optimizer.state[one]["momentum_buffer"], kept)
        assert first == (not kept.any())
    # The next finite step happens again.
    assert clip_and_check(optimizer, gradients(model, 2), clip).item() == 0
    optimizer.step()
    assert all(torch.isfinite(one).all() for one in model.parameters())
    assert not torch.equal(model[4].weight, weights[4])


def test_norms_are_those_before_clipping_of_the_steps_that_are_taken() -> None:
    model, norms = small_net(), torch.zeros(2)
    optimizer = build_optimizer(model, SGD())
    expected = []
    for step in range(4):
        loss = gradients(model, step)
        expected.append(torch.cat([one.grad.flatten() for one in model.parameters()]).norm().item())
        stopped = torch.tensor(step == 2)
        clip_and_check(optimizer, torch.tensor(math.nan) if step == 1 else loss, expected[-1] / 3, stopped, norms)
    assert norms.tolist() == pytest.approx([expected[0] + expected[3], 2])


@pytest.mark.parametrize("beta2", [0.999, 0.9])
def test_radam_takes_the_steps_of_torchs(beta2: float) -> None:
    """Before its average of squares is long enough to be trusted (5 steps), and after."""
    settings = Adam(name="radam", lr=0.02, beta2=beta2, weight_decay=0.1)
    model, other = small_net(), small_net()
    optimizer = build_optimizer(model, settings)
    theirs = torch.optim.RAdam(parameter_groups(other, settings), lr=0.02, betas=(0.9, beta2), eps=settings.eps)
    for step in range(12):
        for one, net in ((optimizer, model), (theirs, other)):
            clip_and_check(one, gradients(net, step), None)
            one.step()
        for found, expected in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("before", [0, 3, 8])
def test_a_step_of_radam_that_is_not_finite_changes_nothing(before: int) -> None:
    model = small_net()
    optimizer = build_optimizer(model, Adam(name="radam", lr=0.02))
    for step in range(before):
        clip_and_check(optimizer, gradients(model, step), None)
        optimizer.step()
    weights, state = copy.deepcopy(list(model.parameters())), copy.deepcopy(optimizer.state_dict()["state"])
    loss = gradients(model, before)
    model[4].weight.grad[0, 3] = math.nan
    clip_and_check(optimizer, loss, None)
    optimizer.step()
    assert all(torch.equal(one, kept) for one, kept in zip(model.parameters(), weights, strict=True))
    for number, one in optimizer.state_dict()["state"].items():
        assert one["step"] == before
        for key, value in one.items():
            assert torch.equal(value, state[number][key]) if before else not value.any()


def test_update_keeps_the_momentum_and_takes_the_new_settings() -> None:
    model = small_net()
    first = SGD(lr=0.1, momentum=0.9, weight_decay=0.05)
    second = SGD(lr=0.02, momentum=0.5, weight_decay=0.2, decay="all", nesterov=False)
    optimizer = build_optimizer(model, first)
    buffers: dict[str, np.ndarray] = {}
    walk(model, optimizer, buffers, first, range(5), 0.2)
    fresh = update_optimizer(optimizer, model, second)
    assert [len(group["params"]) for group in fresh.param_groups] == [8]
    group = fresh.param_groups[0]
    assert [group[key] for key in ("lr", "momentum", "weight_decay", "nesterov")] == [0.02, 0.5, 0.2, False]
    for name, one in model.named_parameters():
        assert np.allclose(fresh.state[one]["momentum_buffer"].numpy(), buffers[name], rtol=1e-10, atol=1e-13)
    walk(model, fresh, buffers, second, range(5, 10), 0.2)


def test_the_learning_rate_reaches_every_group() -> None:
    optimizer = build_optimizer(small_net(), SGD(lr=0.3))
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]
    set_learning_rate(optimizer, 0.007)
    assert [group["lr"] for group in optimizer.param_groups] == [0.007, 0.007]


LAYOUTS = (torch.channels_last, torch.contiguous_format)


@pytest.mark.parametrize("buffers", LAYOUTS)
@pytest.mark.parametrize("gradient", LAYOUTS)
@pytest.mark.parametrize("weight", LAYOUTS)
@pytest.mark.parametrize("optim", [{"name": "sgd"}, {"name": "adam", "lr": 0.01}, {"name": "adamw", "lr": 0.01}])
def test_steps_are_the_plain_ones_whatever_lies_in_another_memory_order(
    optim: dict[str, Any], weight: Any, gradient: Any, buffers: Any
) -> None:
    """torch's fused steps alone give other weights here; see docs/surprises.md."""
    settings = parse_config(tiny_raw(optim=optim)).optim
    ends = []
    for plain in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Conv2d(4, 8, 3, bias=False).to(memory_format=weight)
        optimizer = build_optimizer(net, settings)
        for group in optimizer.param_groups:
            group["fused"] = not plain
            group["foreach"] = False
        for _ in range(3):
            net.weight.grad = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.contiguous_format if plain else gradient)
            net.weight.grad = net.weight.grad.contiguous(memory_format=weight) if plain else net.weight.grad
            clip_and_check(optimizer, torch.zeros(()), None)
            if plain:
                del optimizer.found_inf  # which only the fused steps read
            optimizer.step()
            state = optimizer.state[net.weight]
            for key in () if plain else tuple(state):  # as after a checkpoint that was written in another order
                if state[key].ndim == 4:
                    state[key] = state[key].contiguous(memory_format=buffers)
        ends.append(net.weight.detach().clone())
    torch.testing.assert_close(ends[0], ends[1])

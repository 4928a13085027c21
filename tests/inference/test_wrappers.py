"""Adam and its kin against torch's own, Lookahead and SAM against references of a few lines; all resume bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from benchmarks.kill_resume import fingerprint
from conftest import tiny_raw, train_until_save
from torch import Tensor, nn

from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import SAM, Adam, Lookahead
from cifar_small.errors import ConfigError
from cifar_small.models import statistics_kept
from cifar_small.optim.optimizers import (
    GROWTH_STEPS,
    adjust_scale,
    build_optimizer,
    clip_and_check,
    look_ahead,
    move_back,
    move_uphill,
    unscale,
)
from cifar_small.runs.directory import Run
from cifar_small.training.build import build_trainer
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer

KINDS: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def loss_of(model: nn.Module, step: int) -> Tensor:
    images = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
    loss: Tensor = (model(images) ** 2).mean()
    return loss


def backward(model: nn.Module, step: int) -> Tensor:
    model.zero_grad()
    loss = loss_of(model, step)
    torch.autograd.backward(loss)
    return loss.detach()


@pytest.mark.parametrize("name", KINDS)
def test_adam_and_its_kin_take_torchs_steps(name: str) -> None:
    model, other = net(), net()
    settings = Adam.model_validate({"name": name, "lr": 0.05, "beta1": 0.8, "beta2": 0.9, "eps": 1e-4, "weight_decay": 0.1})
    optimizer = build_optimizer(model, settings)
    weights = [parameter for parameter in other.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in other.parameters() if parameter.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    reference = KINDS[name](groups, lr=0.05, betas=(0.8, 0.9), eps=1e-4, foreach=False)
    for step in range(12):
        clip_and_check(optimizer, backward(model, step), None)
        optimizer.step()
        backward(other, step)
        reference.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_a_gradient_that_is_not_finite_changes_nothing(name: str) -> None:
    model = net()
    optimizer = build_optimizer(model, Adam.model_validate({"name": name}))
    clip_and_check(optimizer, backward(model, 0), None)
    optimizer.step()
    before = copy.deepcopy(model.state_dict())
    moments = [optimizer.state[parameter]["exp_avg"].clone() for parameter in model.parameters()]
    backward(model, 1)
    model[0].weight.grad[0, 0] = torch.inf
    assert clip_and_check(optimizer, torch.tensor(1.0), None)
    optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    now = (optimizer.state[parameter]["exp_avg"] for parameter in model.parameters())
    assert all(torch.equal(was, is_) for was, is_ in zip(moments, now, strict=True))


def test_the_factor_of_the_loss_is_halved_doubled_and_given_up() -> None:
    scaling, fine, bad = torch.tensor([8.0, 0.0]), torch.tensor(False), torch.tensor(True)
    assert not adjust_scale(scaling, torch.tensor(1.0), bad)
    assert scaling.tolist() == [4.0, 0.0]
    for _ in range(GROWTH_STEPS - 1):
        assert not adjust_scale(scaling, torch.tensor(1.0), fine)
    assert scaling.tolist() == [4.0, GROWTH_STEPS - 1]
    assert not adjust_scale(scaling, torch.tensor(1.0), fine)
    assert scaling.tolist() == [8.0, 0.0]
    assert adjust_scale(scaling, torch.tensor(torch.inf), bad)  # the loss itself: no factor mends that
    scaling = torch.tensor([1.0, 5.0])
    assert [bool(adjust_scale(scaling, torch.tensor(1.0), bad)) for _ in range(2)] == [False, True]


def test_gradients_are_divided_by_the_factor() -> None:
    model, other = net(), net()
    backward(model, 0)
    (loss_of(other, 0) * 1024).backward()
    unscale(other, torch.tensor(1024.0))
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad)


def test_lookahead_follows_its_definition() -> None:
    """Every third step, and at the epoch's last, the seventh, so that the slow weights are what is evaluated."""
    model = net()
    slow = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected = {name: value.clone() for name, value in slow.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for step in range(1, 8):
        backward(model, step)
        optimizer.step()
        fast = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        look_ahead(model, slow, Lookahead(steps=3, alpha=0.4), step, 7)
        if step in (3, 6, 7):
            expected = {name: expected[name] + 0.4 * (fast[name] - expected[name]) for name in fast}
            fast = expected
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), fast[name])


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_takes_its_gradient_uphill_and_steps_from_where_it_was(adaptive: bool) -> None:
    model, other = net(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    backward(model, 0)
    # the reference: one long vector
    flat = torch.cat([parameter.detach().flatten() for parameter in other.parameters()])
    backward(other, 0)
    gradient = torch.cat([parameter.grad.flatten() for parameter in other.parameters() if parameter.grad is not None])
    size = flat.abs() if adaptive else torch.ones_like(flat)
    perturbed = flat + 0.5 * size**2 * gradient / (size * gradient).norm()
    nn.utils.vector_to_parameters(perturbed, other.parameters())
    uphill = backward(other, 0)
    gradient = torch.cat([parameter.grad.flatten() for parameter in other.parameters() if parameter.grad is not None])

    former = move_uphill(optimizer, SAM(rho=0.5, adaptive=adaptive))
    found = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.testing.assert_close(found, perturbed)
    assert backward(model, 0) == pytest.approx(uphill.item(), rel=1e-5)
    assert uphill > loss_of(net(), 0)
    move_back(former)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    optimizer.step()
    found = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.testing.assert_close(found, flat - 0.1 * gradient)


def test_the_second_pass_of_sam_leaves_running_statistics_alone() -> None:
    norm = nn.BatchNorm1d(4)
    norm(torch.randn(9, 4))
    before = copy.deepcopy(norm.state_dict())
    with statistics_kept(norm):
        output = norm(5 + torch.randn(9, 4))
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())
    assert output.mean().abs() < 1e-5  # it did use the batch's own
    with statistics_kept(norm):
        norm(torch.full((9, 4), torch.inf))  # as in fp16 where the weights SAM has climbed to overflow
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())
    norm(torch.randn(9, 4))
    assert not torch.equal(before["running_mean"], norm.running_mean)


def test_both_passes_of_sam_drop_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a radius of almost 0 the two gradients are those of one net, micro-batch by micro-batch."""
    model = {**tiny_raw()["model"], "dropout": 0.5, "stochastic_depth": 0.5}
    engine = {"device": "cpu", "precision": "fp32", "micro_batch_size": 32}
    config = parse_config(tiny_raw(model=model, sam={"rho": 1e-9}, engine=engine, phases=[{"epochs": 1}]))
    trainer = build_trainer(resolve_config(config), Run(tmp_path), quiet=True)
    gradients, backward_pass = [], Trainer.backward

    def noted(self: Trainer, *arguments: Any, **options: Any) -> Tensor:
        loss = backward_pass(self, *arguments, **options)
        gradients.append(self.state.model.fc.weight.grad.clone())
        return loss

    monkeypatch.setattr(Trainer, "backward", noted)
    trainer.train_epoch(trainer.resolved.phases[0], MagicMock())
    assert len(gradients) == 8
    for first, second in zip(gradients[::2], gradients[1::2], strict=True):
        torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(gradients[0], gradients[2], atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"optim": {"name": "adamw", "lr": 0.01, "weight_decay": 0.05}},
        {"optim": {"name": "radam", "lr": 0.01}, "lookahead": {"steps": 3}},
        {"phases": [{"epochs": 1}, {"epochs": 1, "optim": {"name": "adam", "lr": 0.01}}]},
        {"phases": [{"epochs": 1}, {"epochs": 1, "optim": {"name": "muon"}}]},
        {"sam": {"rho": 0.1}, "phases": [{"epochs": 1}, {"epochs": 1, "sam": None, "lookahead": {}}]},
    ],
    ids=["adamw", "radam and lookahead", "sgd, then adam", "sgd, then muon", "sam, then lookahead"],
)
def test_resumed_bit_for_bit(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = {"threads": 1, "device": "cpu", "checkpoint_steps": 2}
    settings = parse_config({**tiny_raw(), "phases": [{"epochs": 2}], **changes, "engine": engine})
    train(settings, tmp_path / "whole", quiet=True)
    for kill in (1, 2, 3):  # in an epoch, between phases, in the last epoch
        train_until_save(settings, tmp_path / f"killed{kill}", kill, monkeypatch)
        train(settings, tmp_path / f"killed{kill}", resume=True, quiet=True)
        assert fingerprint(tmp_path / f"killed{kill}") == fingerprint(tmp_path / "whole")


def test_each_wrapper_changes_a_run(tmp_path: Path) -> None:
    weights = []
    for index, changes in enumerate([{}, {"sam": {}}, {"lookahead": {"steps": 2}}, {"optim": {"name": "adam"}}]):
        settings = parse_config({**tiny_raw(), "phases": [{"epochs": 1}], **changes})
        train(settings, tmp_path / str(index), quiet=True)
        weights.append(fingerprint(tmp_path / str(index)))
    assert len(set(weights)) == 4


def test_unknown_optimizers_are_answered_with_all_names() -> None:
    with pytest.raises(ConfigError, match=r"optim.name: expected one of sgd, adam, adamw, radam, muon, got \"lamb\""):
        parse_config({**tiny_raw(), "optim": {"name": "lamb"}})
    with pytest.raises(ConfigError, match=r"optim.beta3: unknown key; did you mean 'beta[12]'\?"):
        parse_config({**tiny_raw(), "optim": {"name": "radam", "beta3": 0.9}})

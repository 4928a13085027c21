"""Muon: orthogonal directions, steps by hand, torch's own for plain matrices, and steps that must not happen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifar_small import environment
from cifar_small.config.hashing import config_dict, config_hash, dump_config
from cifar_small.config.loading import parse_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.schema import SGD, Config
from cifar_small.config.schema import MuonSettings as Settings
from cifar_small.errors import ConfigError
from cifar_small.optim.muon import COEFFICIENTS, Muon, orthogonalize
from cifar_small.optim.optimizers import build_optimizer, clip_and_check, set_learning_rate, update_optimizer


def group(**changes: Any) -> dict[str, Any]:
    plain = {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.0, "nesterov": True, "iterations": 3, "normalize": True}
    return {**plain, "rule": "muon", **changes}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4)
    )


def backward(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    output = model[:4](torch.randn(4, 3, 7, 7, generator=generator))  # type: ignore[index]
    loss: Tensor = (model[5](output.flatten(1)) ** 2).mean()  # type: ignore[index, operator]
    loss.backward()
    return loss.detach()


@pytest.fixture(params=["avx512_bf16", "avx2"])
def flag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the processor is said to have: bfloat16, or nothing newer than AVX2."""
    monkeypatch.setattr(environment, "_cpu_facts", lambda: ("a processor", frozenset({request.param})))
    return str(request.param)


@pytest.mark.parametrize("shape", [(1, 6, 20), (3, 20, 6), (2, 8, 8)])
def test_singular_values_come_near_one(flag: str, shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 100
    before = torch.linalg.svdvals(matrices / matrices.norm(dim=(1, 2), keepdim=True))
    after = torch.linalg.svdvals(orthogonalize(matrices, 5).float())
    assert after.shape == before.shape
    assert (after[before > 0.05] > 0.6).all()
    assert (after < 1.3).all()


def test_products_are_in_bfloat16_only_where_the_processor_computes_in_it(flag: str) -> None:
    """torch 2.13.0 multiplied matrices of 192 x 1728 in bfloat16 at a 25th of float32's speed on a processor with AVX2."""
    expected = {"avx512_bf16": torch.bfloat16, "avx2": torch.float32}[flag]
    for given in (torch.float32, torch.bfloat16):
        assert orthogonalize(torch.eye(4, 6, dtype=given)[None], 3).dtype == expected
    assert orthogonalize(torch.empty(1, 4, 6, device="meta"), 3).dtype == torch.bfloat16  # stands for a GPU


def test_each_iteration_is_the_quintic_of_the_singular_values() -> None:
    matrix = torch.diag(torch.tensor([0.8, 0.6]))  # of norm 1, so it stays as it is
    a, b, c = COEFFICIENTS
    expected = [a * s + b * s**3 + c * s**5 for s in (0.8, 0.6)]
    assert torch.diag(orthogonalize(matrix[None], 1)[0]).tolist() == pytest.approx(expected, abs=0.01)  # bfloat16: 2-3 digits


def test_a_stack_is_its_matrices_and_zero_stays_zero() -> None:
    matrices = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(2))
    matrices[1] = 0
    whole = orthogonalize(matrices, 3)
    assert torch.equal(whole[1], torch.zeros_like(whole[1]))
    for index in (0, 2):
        torch.testing.assert_close(whole[index], orthogonalize(matrices[index : index + 1], 3)[0], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_torchs_muon_takes_the_same_steps_of_a_matrix(shape: tuple[int, int]) -> None:
    """torch has the same factor for tall matrices, and takes a lerp for momentum, which only scales it."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([{"params": [ours], **group(normalize=False, weight_decay=0.2, iterations=5, momentum=0.9)}])
    reference = torch.optim.Muon([theirs], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.2, ns_steps=5)
    for step in range(4):
        ours.grad = torch.randn(shape, generator=torch.Generator().manual_seed(10 + step))
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
        # both compute in bfloat16, whose rounding may fall differently: up to 3 % of an entry of the update
        torch.testing.assert_close(ours.detach(), theirs.detach(), atol=0.1 * 0.03 * (step + 1), rtol=0)
    assert (ours.detach() - start).abs().max() > 0.1


def test_filters_keep_their_norm_and_move_by_the_learning_rate() -> None:
    filters = nn.Parameter(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(4)))
    optimizer = Muon([{"params": [filters], **group(lr=0.05)}])
    for seed in range(3):
        before = filters.detach() * (8**0.5 / filters.detach().norm())
        filters.grad = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
        # an orthogonal update of 8 rows has norm sqrt(8), give or take what three iterations leave
        assert (filters.detach() - before).norm().item() == pytest.approx(0.05 * 8**0.5, rel=0.25)


def test_nesterov_momentum_by_hand() -> None:
    filters = nn.Parameter(torch.eye(2).reshape(2, 2, 1, 1).clone())
    optimizer = Muon([{"params": [filters], **group(momentum=0.5, lr=0.1)}])
    gradients = [torch.tensor([[1.0, 0.0], [0.0, 0.2]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])]
    expected, buffer = torch.eye(2), torch.zeros(2, 2)
    for gradient in gradients:
        filters.grad = gradient.reshape(2, 2, 1, 1).clone()
        optimizer.step()
        buffer = 0.5 * buffer + gradient
        update = orthogonalize((gradient + 0.5 * buffer)[None], 3)[0].float()
        expected = expected * (2**0.5 / expected.norm()) - 0.1 * update
        torch.testing.assert_close(filters.detach().reshape(2, 2), expected, atol=1e-6, rtol=0)


def test_groups_of_a_net() -> None:
    """Filters that see the image, and the classifier, are the head's; biases and BatchNorm the bias group's."""
    model = net()
    settings = Settings(
        name="muon", lr=0.2, bias={"lr": 4.0, "weight_decay": 0.01}, head={"lr": 0.5, "momentum": 0.7, "weight_decay": 0.003}
    )
    optimizer = build_optimizer(model, settings)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [sorted(names[parameter] for parameter in entry["params"]) for entry in optimizer.param_groups]
    assert found == [["1.weight", "2.weight"], ["0.bias", "2.bias", "3.bias", "3.weight", "5.bias"], ["0.weight", "5.weight"]]
    set_learning_rate(optimizer, 0.1)
    assert [entry["lr"] for entry in optimizer.param_groups] == [0.1, 2.0, 0.25]
    assert [entry["weight_decay"] for entry in optimizer.param_groups] == [0.0, 0.01, 0.003]


def test_other_parameters_take_torchs_adamw_steps() -> None:
    model, other = net(), net()
    bias = {"name": "adamw", "lr": 0.03, "beta1": 0.8, "beta2": 0.9}
    head = {"name": "adamw", "lr": 0.02, "eps": 1e-3, "weight_decay": 0.3}
    optimizer = build_optimizer(model, Settings(name="muon", bias=bias, head=head))
    plain = {name: parameter for name, parameter in other.named_parameters() if name not in ("1.weight", "2.weight")}
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in plain.values() if p.ndim == 1], "lr": 0.03, "betas": (0.8, 0.9), "weight_decay": 0.0},
            {"params": [p for p in plain.values() if p.ndim > 1], "lr": 0.02, "eps": 1e-3, "weight_decay": 0.3},
        ]
    )
    mine = dict(model.named_parameters())
    for seed in range(6):
        backward(model, seed)
        for name, parameter in plain.items():
            parameter.grad = mine[name].grad.clone()
        if seed == 3:  # a step that must not happen leaves weights, moments and the count of steps alone
            clip_and_check(optimizer, torch.tensor(torch.inf), None)
        else:
            clip_and_check(optimizer, torch.tensor(1.0), None)
            reference.step()
        optimizer.step()
        for name, parameter in plain.items():
            torch.testing.assert_close(mine[name].detach(), parameter.detach(), atol=1e-6, rtol=1e-5)


def test_other_parameters_take_torchs_sgd_steps() -> None:
    model, other = net(), net()
    settings = Settings(
        name="muon", bias={"lr": 0.3, "momentum": 0.8, "weight_decay": 0.1}, head={"lr": 0.2, "weight_decay": 0.0}
    )
    optimizer = build_optimizer(model, settings)
    plain = {name: parameter for name, parameter in other.named_parameters() if name not in ("1.weight", "2.weight")}
    reference = torch.optim.SGD(
        [
            {"params": [p for p in plain.values() if p.ndim == 1], "lr": 0.3, "momentum": 0.8, "weight_decay": 0.1},
            {"params": [p for p in plain.values() if p.ndim > 1], "lr": 0.2, "momentum": 0.85},
        ],
        nesterov=True,
        momentum=0.5,
    )
    for step in range(5):
        backward(model, step)
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            assert mine.grad is not None
            theirs.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    found = dict(model.named_parameters())
    for name, parameter in plain.items():
        assert np.allclose(found[name].detach(), parameter.detach(), rtol=1e-5, atol=1e-7), name


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = net()
    optimizer = build_optimizer(model, Settings(name="muon"))
    clip_and_check(optimizer, backward(model, 0), None)
    optimizer.step()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    buffers = [optimizer.state[parameter]["momentum_buffer"].clone() for parameter in model.parameters()]
    backward(model, 1)
    model[1].weight.grad[0, 0, 0, 0] = torch.nan
    assert clip_and_check(optimizer, torch.tensor(1.0), None)
    optimizer.step()
    assert all(torch.equal(before, now) for before, now in zip(weights, model.parameters(), strict=True))
    kept = (optimizer.state[parameter]["momentum_buffer"] for parameter in model.parameters())
    assert all(torch.equal(before, now) for before, now in zip(buffers, kept, strict=True))


def test_momentum_survives_new_settings_but_not_another_optimizer() -> None:
    model = net()
    optimizer = build_optimizer(model, Settings(name="muon"))
    backward(model, 0)
    optimizer.step()
    changed = update_optimizer(optimizer, model, Settings(name="muon", lr=0.01, momentum=0.9))
    assert changed.state[model[1].weight] is optimizer.state[model[1].weight]
    assert changed.param_groups[0]["momentum"] == 0.9
    momenta = [entry["momentum_buffer"] for entry in update_optimizer(optimizer, model, SGD()).state.values()]
    assert len(momenta) == len(list(model.parameters()))
    assert not any(momentum.any() for momentum in momenta)
    model[1].weight.requires_grad_(False)
    assert model[1].weight not in update_optimizer(optimizer, model, Settings(name="muon")).state


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="weight_decay has no effect on filters of fixed norm"):
        Settings(name="muon", weight_decay=0.1)
    with pytest.raises(ValueError, match="nesterov needs momentum above 0"):
        Settings(name="muon", momentum=0.0)
    model = {"family": "wideresnet", "depth": 10, "widen_factor": 1}
    with pytest.raises(ConfigError, match=r"optim.name: expected one of sgd, adam, adamw, radam, muon, got \"lamb\""):
        parse_config({"name": "x", "model": model, "phases": [{"epochs": 1}], "optim": {"name": "lamb"}})


def test_a_phase_changes_one_number_of_a_group_and_keeps_the_others() -> None:
    raw = {
        "name": "x",
        "model": {"family": "wideresnet", "depth": 10, "widen_factor": 1},
        "optim": {"name": "muon", "bias": {"lr": 9.0, "momentum": 0.7, "weight_decay": 0.02}, "head": {"lr": 0.3}},
        "phases": [{"epochs": 1}, {"epochs": 1, "optim": {"bias": {"lr": 5.0}}}],
    }
    first, second = (phase.settings.optim for phase in resolve_phases(parse_config(raw)))
    assert isinstance(first, Settings)
    assert isinstance(second, Settings)
    assert first.bias.model_dump() == {"lr": 9.0, "momentum": 0.7, "weight_decay": 0.02}
    assert second.bias.model_dump() == {"lr": 5.0, "momentum": 0.7, "weight_decay": 0.02}
    assert first.head.model_dump() == {"lr": 0.3, "momentum": 0.85, "weight_decay": 5e-4}


def test_the_former_key_is_read_and_hashed() -> None:
    """`normalise` is how records of earlier versions spell it, at the top level and in phases."""

    def spelled(key: str) -> Config:
        phases = [{"epochs": 1}, {"epochs": 1, "optim": {key: True}}]
        model = {"family": "wideresnet", "depth": 10, "widen_factor": 1}
        return parse_config({"name": "x", "model": model, "optim": {"name": "muon", key: False}, "phases": phases})

    former, present = spelled("normalise"), spelled("normalize")
    assert former == present
    assert "normalise" not in dump_config(former)
    settings = [phase.settings.optim for phase in resolve_phases(former)]
    assert [optim.normalize for optim in settings if isinstance(optim, Settings)] == [False, True]
    assert (
        config_hash(present) == "c342124131c8e0607864d3e32c6752fd99041267e13a6a6e8e8e85879240ecd2"
    )  # as computed before the key was renamed
    with pytest.raises(ConfigError, match=r"optim\.normalise: unknown key; did you mean 'normalize'\?"):
        parse_config({**config_dict(present), "optim": {"name": "muon", "normalise": True, "normalize": True}})


def test_a_bank_of_zeros_takes_a_plain_step() -> None:
    filters = nn.Parameter(torch.zeros(2, 2, 1, 1))
    filters.grad = torch.eye(2).reshape(2, 2, 1, 1)
    Muon([{"params": [filters], **group(momentum=0.0, nesterov=False, iterations=5)}]).step()
    step = orthogonalize(torch.eye(2)[None], 5)[0].float()
    assert torch.allclose(filters.detach().reshape(2, 2), -0.1 * step)
    assert filters.isfinite().all()

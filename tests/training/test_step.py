"""Whole epochs of the loop against plain torch: each setting of a step does what its formula says, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import PhaseSettings
from cifar_small.runs.directory import Run
from cifar_small.training.batches import Batches
from cifar_small.training.build import build_trainer
from cifar_small.training.trainer import Trainer
from cifar_small.transforms.augmenter import epoch_order
from cifar_small.transforms.functional import resize

# torch's channels-last BatchNorm rounds a hundred times more coarsely in fp32.
ENGINE = {"device": "cpu", "precision": "fp32", "threads": 1, "layout": "contiguous"}
PLAIN = {"lr": 0.02, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
DROPS = {"epochs": 1, "dropout": 0.5}
Given = list[tuple[Tensor, Tensor]]


def built(folder: Path, **changes: Any) -> Trainer:
    raw = {"engine": ENGINE, "schedule": {"name": "constant"}, "optim": PLAIN, "phases": [{"epochs": 1}], **changes}
    return build_trainer(resolve_config(parse_config(tiny_raw(**raw))), Run(folder), quiet=True)


def an_epoch(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Given:
    """Train an epoch, without evaluation and checkpoints; returns the pixels and targets of its steps."""
    given: Given = []
    inputs = Batches.inputs

    def watched(*arguments: Any) -> tuple[Tensor, Tensor]:
        given.append(inputs(*arguments))
        return given[-1]

    monkeypatch.setattr(Batches, "inputs", watched)
    trainer.train_epoch(trainer.resolved.phases[0], SimpleNamespace(update=lambda count: None))
    return given


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def flat(model: nn.Module) -> Tensor:
    """All weights of a net."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def by_hand(model: nn.Module, given: Given, settings: PhaseSettings) -> tuple[float, float]:
    """The same epoch by torch's own optimizer; returns the mean loss and the share of the targets that was hit."""
    parameters, loss_sum, hits = list(model.parameters()), 0.0, 0.0
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9)
    slow = [parameter.detach().clone() for parameter in parameters]
    model.train()
    for number, (pixels, targets) in enumerate(given, start=1):
        optimizer.zero_grad()
        logits = model(pixels)
        loss = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.item() / len(given)
        hits += targets[range(len(targets)), logits.argmax(1)].mean().item() / len(given)
        if settings.sam is not None:
            norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters if p.grad is not None))  # type: ignore[arg-type]
            before, kept = [p.detach().clone() for p in parameters], statistics(model)
            with torch.no_grad():
                for parameter in parameters:
                    assert parameter.grad is not None
                    parameter += settings.sam.rho * parameter.grad / norm
            optimizer.zero_grad()
            F.cross_entropy(model(pixels), targets, label_smoothing=settings.label_smoothing).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter, value in zip(parameters, before, strict=True):
                    parameter.copy_(value)
                for name, buffer in model.named_buffers():
                    buffer.copy_(kept[name])
        if settings.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, settings.optim.clip_norm)
        optimizer.step()
        if settings.lookahead is not None and (number % settings.lookahead.steps == 0 or number == len(given)):
            with torch.no_grad():
                for parameter, value in zip(parameters, slow, strict=True):
                    value += settings.lookahead.alpha * (parameter - value)
                    parameter.copy_(value)
    return loss_sum, hits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_smoothing": 0.2},
        {"optim": {**PLAIN, "clip_norm": 0.5}},
        {"sam": {"rho": 0.2}},
        {"lookahead": {"steps": 2, "alpha": 0.4}},
        {"mixup_alpha": 0.4},
        {"sam": {"rho": 0.2}, "mixup_alpha": 0.4, "label_smoothing": 0.1},
    ],
    ids=["plain", "smoothing", "clipping", "sam", "lookahead", "mixup", "sam with mixup"],
)
def test_an_epoch_is_that_of_plain_torch(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, statistics, loss and accuracy; after few steps, for in each of SAM rounding grows a hundredfold."""
    steps = 3 if "lookahead" in changes else 2
    data = {"source": "digits", "val_size": 200, "train_limit": 64 * steps}
    trainer = built(tmp_path, data=data, **changes)
    settings = trainer.resolved.phases[0].settings
    start, model, without = (copy.deepcopy(trainer.state.model) for _ in range(3))
    given = an_epoch(trainer, monkeypatch)
    assert len(given) == steps
    expected = by_hand(model, given, settings)
    moved = (flat(model) - flat(start)).norm()
    assert (flat(trainer.state.model) - flat(model)).norm() < 0.01 * moved
    for mine, theirs in zip(trainer.state.model.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)
    assert (trainer.state.totals / (64 * steps)).tolist() == pytest.approx(expected, rel=1e-4)
    if changes.keys() - {"mixup_alpha"}:  # whose effect is in the targets; of the others, one without shows nothing
        by_hand(without, given, built(tmp_path).resolved.phases[0].settings)
        assert (flat(without) - flat(model)).norm() > 0.1 * moved


def test_dropout_draws_anew_in_every_step_and_alike_in_both_passes_of_sam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draws(**changes: Any) -> list[list[int]]:
        trainer, seen = built(tmp_path, **changes), list[int]()
        trainer.state.model.register_forward_hook(lambda *_: seen.append(int(torch.randint(2**31, ()))))
        an_epoch(trainer, monkeypatch)
        passes = len(seen) // 4
        return [seen[start : start + passes] for start in range(0, len(seen), passes)]

    alone = draws(phases=[DROPS])
    assert [len(step) for step in alone] == [1] * 4
    assert len({step[0] for step in alone}) == 4
    assert [[first, second] for first, second in draws(phases=[DROPS], sam={"rho": 0.2})] == [step * 2 for step in alone]
    assert not {step[0] for step in draws(phases=[DROPS], seed=1)} & {step[0] for step in alone}


def test_each_seed_and_epoch_has_its_own_order_masks_and_mixing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [epoch_order(64, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    trainer, seen = built(tmp_path, phases=[{"epochs": 2, "dropout": 0.5}]), list[int]()
    trainer.state.model.register_forward_hook(lambda *_: seen.append(int(torch.randint(2**31, ()))))
    for epoch in (0, 1):
        trainer.state.epoch, trainer.state.step = epoch, 0
        an_epoch(trainer, monkeypatch)
    assert len(set(seen)) == len(seen) == 8

    def weights(seed: int, epoch: int) -> list[float]:
        trainer = built(tmp_path, seed=seed, mixup_alpha=1.0, phases=[{"epochs": 2}])
        return [batch.mix.weight for batch in trainer.batches.epoch(trainer.resolved.phases[0], epoch, 0)]

    found = [*weights(0, 0), *weights(0, 1), *weights(1, 0)]
    assert len(set(found)) == len(found) == 12


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_resized_as_the_config_says(interpolation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(**changes: Any) -> Sequence[Tensor]:
        return [pixels for pixels, _ in an_epoch(built(tmp_path, **changes), monkeypatch)]

    full, small = seen(), seen(phases=[{"epochs": 1, "resolution": 24}], input={"interpolation": interpolation})
    assert small[0].shape[-2:] == (24, 24)
    for whole, part in zip(full, small, strict=True):
        torch.testing.assert_close(part, resize(whole, 24, interpolation), rtol=1e-4, atol=1e-5)
    other = {"bilinear": "bicubic", "bicubic": "bilinear"}[interpolation]
    assert not np.allclose(small[0], resize(full[0], 24, other), atol=1e-2)

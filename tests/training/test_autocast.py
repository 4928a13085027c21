"""Weights never change within an autocast block, where torch goes on using its 16-bit copies of the old ones.

Each place that changes weights and goes forward again is run twice in bf16, with torch's cache of copies and without it: the
bits are the same only where no copy outlives its weight (docs/surprises.md). Dropout at prediction changes no weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_raw
from torch import Tensor

from cifar_small.config.loading import parse_config
from cifar_small.inference.predict import load_net
from cifar_small.inference.soup import WeightAverager
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.training.train import train

BF16 = {"device": "cpu", "precision": "bf16", "threads": 1, "micro_batch_size": 16}
SMALL: dict[str, Any] = {
    "data": {"source": "digits", "val_size": 100, "train_limit": 96},
    "model": {**tiny_raw()["model"], "dropout": 0.3},
    "batch_size": 32,
    "engine": BF16,
    "selection": "last",
}


def trained(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """The weights that count after a run of a few steps; val's loss, which is of these weights, beside them."""
    rows: list[dict[str, Any]] = []
    train(parse_config(tiny_raw(**{**SMALL, **changes})), folder, quiet=True, on_epoch=rows.append)
    weights: dict[str, Tensor] = load_checkpoint(folder / "best.pt")["weights"]
    return {**weights, "val_loss": torch.tensor([row["val_loss"] for row in rows])}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one net with dropout, of different seeds."""
    folders = [tmp_path_factory.mktemp("autocast") / f"seed{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        trained(folder, seed=seed, phases=[{"epochs": 1}])
    return folders


def with_sam(folder: Path, _: list[Path]) -> dict[str, Tensor]:
    return trained(folder, phases=[{"epochs": 1, "sam": {"rho": 0.5}}])


def with_lookahead(folder: Path, _: list[Path]) -> dict[str, Tensor]:
    return trained(folder, phases=[{"epochs": 1, "lookahead": {"steps": 2, "alpha": 0.5}}])


def with_exponential_average(folder: Path, _: list[Path]) -> dict[str, Tensor]:
    return trained(folder, ema_decay=0.5, phases=[{"epochs": 2}])


def with_average_of_epochs(folder: Path, _: list[Path]) -> dict[str, Tensor]:
    return trained(folder, phases=[{"epochs": 2, "swa": {"every": 1}}])


def with_teachers(folder: Path, runs: list[Path]) -> dict[str, Tensor]:
    return trained(folder, phases=[{"epochs": 1}], distill={"teachers": [str(run) for run in runs], "kd_weight": 0.7})


def of_a_greedy_soup(_: Path, runs: list[Path]) -> dict[str, Tensor]:
    nets = [load_net(Run(run)) for run in runs]
    pot = WeightAverager(nets[0], [()])
    pot.average(nets[:1])  # as a greedy soup is tried with one member after the other
    weights: dict[str, Tensor] = pot.average(nets)["weights"]
    return weights


PLACES = (with_sam, with_lookahead, with_exponential_average, with_average_of_epochs, with_teachers, of_a_greedy_soup)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_no_forward_pass_uses_a_copy_of_weights_that_have_changed_since(
    place: Callable[[Path, list[Path]], dict[str, Tensor]],
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cached = place(tmp_path / "cached", runs)
    monkeypatch.setattr(torch, "autocast", functools.partial(torch.autocast, cache_enabled=False))
    assert equal(cached, place(tmp_path / "fresh", runs))


def test_within_one_block_the_copies_would_be_old(tmp_path: Path) -> None:
    right = with_sam(tmp_path / "right", [])
    with torch.autocast("cpu", dtype=torch.bfloat16):  # around the whole run, so that its copies outlive every step
        assert not equal(right, with_sam(tmp_path / "wrong", []))

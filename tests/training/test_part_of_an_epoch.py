"""A run that ends within an epoch: its steps, its schedule, the same bits after a resume, and what is recorded of it."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import train_until_save
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config
from cifar_small.errors import ConfigError
from cifar_small.optim.schedulers import learning_rate, rate_at
from cifar_small.reporting.dry_run import describe_run
from cifar_small.reporting.timeline import learning_rates
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.training.train import train

Make = Callable[..., Config]
PHASES = [{"epochs": 1, "optim": {"lr": 0.1}}, {"epochs": 1.5, "lookahead": {"steps": 3}}]  # 4 steps an epoch


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from conftest import tiny_raw

    run = Run(tmp_path_factory.mktemp("part") / "whole")
    train(parse_config(tiny_raw(phases=PHASES, ema_decay=0.9)), run.folder, quiet=True)
    return run


def test_the_schedule_ends_at_the_last_step(whole: Run) -> None:
    rows = list(csv.DictReader(whole.metrics_file.read_text().splitlines()))
    assert [int(row["steps"]) for row in rows] == [4, 8, 10]
    cosine = [0.05 * (1 + math.cos(math.pi * step / 10)) for step in (3, 7, 9)]
    assert [float(row["lr"]) for row in rows] == pytest.approx(cosine)


def test_it_is_recorded(whole: Run) -> None:
    summary = whole.summary()
    assert summary is not None
    assert (summary.epochs, summary.epochs_planned, summary.last_epoch, summary.epochs_trained) == (3, 3, 0.5, 2.5)
    assert summary.ended_early == ""
    assert "steps   10: 2.5 epochs of 4" in describe_run(whole.config())


@pytest.mark.parametrize("saves", [1, 5, 9, 10])
def test_a_run_that_is_cut_off_goes_on_to_the_same_bits(
    tiny: Make, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    """Saved after every step, also within the part of an epoch and just before its end."""
    config = tiny(phases=PHASES, ema_decay=0.9)
    engine = config.engine.model_copy(update={"checkpoint_steps": 1})
    saving = config.model_copy(update={"engine": engine})
    train_until_save(saving, tmp_path / "cut", saves, monkeypatch)
    train(saving, tmp_path / "cut", resume=True, quiet=True)
    cut, expected = (load_checkpoint(folder / "last.pt") for folder in (tmp_path / "cut", whole.folder))
    for part in ("model", "average"):
        assert cut[part].keys() == expected[part].keys()
        assert all(torch.equal(value, cut[part][name]) for name, value in expected[part].items())
    assert cut["epoch"] == expected["epoch"] == 3


def test_it_can_not_be_made_longer(tiny: Make, whole: Run) -> None:
    longer: Any = [PHASES[0], {**PHASES[1], "epochs": 4}]
    with pytest.raises(ConfigError, match=r"phases.1.epochs: 1.5 -> 4"):
        train(tiny(phases=longer, ema_decay=0.9), whole.folder, resume=True, quiet=True)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.floats(0.01, 0.99), st.integers(1, 50), st.sampled_from(["cosine", "one_cycle", "piecewise"]))
def test_rates_are_those_of_a_schedule_over_the_steps_that_are_made(whole_: int, part: float, steps: int, name: str) -> None:
    from conftest import tiny_raw

    schedule = {"name": name} | ({"points": [[0, 1], [1, 0]]} if name == "piecewise" else {})
    resolved = resolve_config(parse_config(tiny_raw(phases=[{"epochs": whole_ + part}], schedule=schedule)))
    rates, count = learning_rates(resolved.phases, steps), resolved.steps(steps)
    assert len(rates) == count == whole_ * steps + max(1, round(part * steps))
    phase = resolved.phases[0]
    assert rates == [learning_rate(phase.settings.schedule, 0.1, step, count, steps) for step in range(count)]


def test_schedules_that_begin_later_end_with_the_run_too(tiny: Make) -> None:
    later = {"name": "piecewise", "points": [[0, 1], [1, 0]]}
    resolved = resolve_config(tiny(phases=[{"epochs": 2}, {"epochs": 1.25, "schedule": later}]))
    first, last = resolved.phases
    assert (first.schedule_steps(8), last.schedule_steps(8), resolved.steps(8)) == (16, 10, 26)
    assert rate_at(last, 3, 1, 8) == pytest.approx(0.1 * (1 - 9 / 10))


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"epochs": 1.5}, {"epochs": 1}], "phases.0.epochs 1.5: only the last phase may end within an epoch"),
        ([{"epochs": 2.0}], "write 2 instead of 2.0"),
        ([{"epochs": 0}], "above 0"),
        ([{"epochs": -0.5}], "above 0"),
    ],
)
def test_what_has_no_meaning_is_refused(tiny: Make, phases: list[dict[str, float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(phases=phases)

"""Sweeps: the cells a file stands for, who trains what, what is recorded, and which cell wins."""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import tiny_raw
from synthetic import summary_of

import cifar_small.figures.run as plots
import cifar_small.sweep.cells as cells_module
import cifar_small.sweep.claims as claims_module
import cifar_small.sweep.cluster as cluster
import cifar_small.sweep.run as run_module
import cifar_small.sweep.search as search_module
import cifar_small.sweep.table as table_module
import cifar_small.sweep.worker as worker_module
from cifar_small.cli.main import main
from cifar_small.config.hashing import dump_config
from cifar_small.config.loading import load_config
from cifar_small.config.schema import Config
from cifar_small.environment import machine_facts
from cifar_small.errors import CheckpointError, ConfigError, DiskError, DivergedError, Terminated, UserError
from cifar_small.files import sha256_bytes, write_atomic, write_json
from cifar_small.randomness import numpy_generator
from cifar_small.runs import locks
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run, write_start
from cifar_small.runs.locks import locked
from cifar_small.sweep.cells import SWEEP, _draw_one, cell_name, plan
from cifar_small.sweep.claims import Claim, ClaimLost, holder, take
from cifar_small.sweep.run import prepare, run_sweep
from cifar_small.sweep.spec import Range, load_sweep
from cifar_small.sweep.states import SweepDirectory, trial_name
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
Write = Callable[..., Path]
LR_WIDTHS = {"optim.lr": [0.1, 0.05], "model.widths": [[8, 16, 32], [8, 8, 8]]}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a sweep file over a tiny base config: `write(parameters={...}, base={...})`."""

    def write(base: dict[str, Any] | None = None, **sweep: Any) -> Path:
        raw = tiny_raw(**{"phases": [{"epochs": 1}], **(base or {})})
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"name": "s", "config": "base.yaml", **sweep}, sort_keys=False), encoding="utf-8")
        return path

    return write


EMPTY = sha256_bytes(b"")


class FakeTraining:
    """Stands in for `train`: an accuracy at once, by the config; remembers what was trained."""

    def __init__(self, accuracy: Callable[[Config], float], epochs: int = 1) -> None:
        self.accuracy, self.epochs, self.trained = accuracy, epochs, list[str]()

    def __call__(self, config: Config, folder: Path, *, on_epoch: Any, **options: Any) -> None:
        assert options["resume"] is True
        run = Run(folder)
        self.trained.append(run.folder.name)
        write_atomic(run.config_file, dump_config(config).encode())
        accuracy = self.accuracy(config)
        for epoch in range(1, self.epochs + 1) if on_epoch is not None else ():
            on_epoch({"epoch": epoch, "val_accuracy": accuracy * epoch / self.epochs})
        options["before_save"]()
        write_atomic(run.best, b"")
        write_json(run.summary_file, summary_of(val_accuracy=accuracy, seconds=90.0, parameters=1, weights_sha256=EMPTY))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTraining]:
    def install(accuracy: Callable[[Config], float], epochs: int = 1, pictures: bool = False) -> FakeTraining:
        training = FakeTraining(accuracy, epochs)
        if not pictures:  # most of the time of such a sweep
            monkeypatch.setattr(table_module, "_draw", lambda *arguments: None)
        monkeypatch.setattr(worker_module, "train", training)
        return training

    return install


def message(error: pytest.ExceptionInfo[BaseException]) -> str:
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------ the sweep file


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"paramters": {}}, "paramters: unknown key; did you mean 'parameters'?"),
        ({}, "expected parameters (to combine) or cells (by hand), got neither"),
        ({"parameters": LR_WIDTHS, "cells": [{"label": "a"}]}, "got both: keep one"),
        ({"parameters": {}}, "parameters is empty: name a dotted key"),
        ({"parameters": {"optim.lr": []}}, "parameters.optim.lr: expected a list of values (or a range), got []"),
        ({"parameters": {"optim.lr": 0.1}}, "parameters.optim.lr: expected a list of values (or a range), got 0.1"),
        ({"parameters": {"optim.lr": [0.1, 1.0e-1]}}, "parameters.optim.lr lists 0.1 twice"),
        ({"parameters": {"batch_size": [64, 64.0]}}, "parameters.batch_size lists 64 twice"),
        ({"parameters": {"optim.lr": {"low": 0.1, "high": 1}}}, "parameters.optim.lr is a range, which a grid cannot list"),
        ({"parameters": {"seed": [0, 1]}}, "parameters.seed cannot vary: list the seeds under seeds"),
        ({"parameters": {"data": [{}]}}, "parameters.data cannot vary: all cells are compared on the same val images"),
        ({"parameters": {"data.val_size": [9]}}, "parameters.data.val_size cannot vary: all cells"),
        ({"parameters": {"optim": [{}], "optim.lr": [1]}}, "parameters.optim.lr lies inside optim"),
        ({"parameters": LR_WIDTHS, "seeds": [0, 1, 0]}, "seeds names 0 twice"),
        ({"parameters": LR_WIDTHS, "seeds": []}, "seeds is empty"),
        ({"parameters": LR_WIDTHS, "trials": 3}, "trials has no effect with method grid"),
        ({"parameters": LR_WIDTHS, "method": "random"}, "method random needs trials"),
        ({"parameters": LR_WIDTHS, "method": "rnd"}, "method: input should be 'grid', 'random' or 'tpe', got \"rnd\""),
        ({"parameters": LR_WIDTHS, "prune": {"warmup_epochs": 1}}, "prune has no effect with method grid"),
        ({"cells": []}, "cells is empty"),
        ({"cells": [{"augment.cutout": 1}]}, "cells.0.label: field required"),
        (
            {"cells": [{"label": "+ cutout"}]},
            'cells.0.label: expected text of letters, digits and . _ - (at most 64, the first a letter or digit), got "+ cut',
        ),
        ({"cells": [{"label": "a"}, {"label": "a", "seed": 1}]}, 'cells has the label "a" twice'),
        ({"cells": [{"label": "a"}], "method": "random", "trials": 1}, "method random draws from parameters"),
        ({"parameters": LR_WIDTHS, "config": "bse.yaml"}, "bse.yaml is no file; expected the base config's path"),
    ],
)
def test_a_wrong_sweep_file_is_refused(write: Write, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_sweep(write(**changes))
    assert expected in message(error)
    assert "sweep.yaml: " in message(error)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"low": 0.1, "hgih": 1}, "parameters.optim.lr.hgih: unknown key; did you mean 'high'?"),
        ({"low": 1, "high": 1}, "parameters.optim.lr: low 1 must be below high 1"),
        ({"low": 0, "high": 1, "log": True}, "parameters.optim.lr: log needs low above 0, got 0"),
        ({"low": 0.5, "high": 1, "type": "int"}, "parameters.optim.lr: type int needs whole numbers, got low 0.5"),
        ({"low": "a", "high": 1}, 'parameters.optim.lr.low: input should be a valid number, got "a"'),
    ],
)
def test_a_wrong_range_is_refused(write: Write, value: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_sweep(write(method="random", trials=2, parameters={"optim.lr": value}))
    assert expected in message(error)


def test_no_file_and_no_mapping_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the config .*nothing\.yaml"):
        load_sweep(tmp_path / "nothing.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ConfigError, match=r"list\.yaml holds a list; expected keys such as name, config and parameters"):
        load_sweep(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match=r"resnet_hour\.yaml is the config of a run, not a sweep"):
        load_sweep(ROOT / "configs/resnet_hour.yaml")


# --------------------------------------------------------------------------------------------------------------------- cells


def test_a_grid_is_every_combination_in_the_order_of_the_file(write: Write) -> None:
    cells = plan(load_sweep(write(parameters=LR_WIDTHS, seeds=[3, 4])))
    assert [cell.name for cell in cells] == [
        "lr-0.1_widths-8-16-32", "lr-0.1_widths-8-8-8", "lr-0.05_widths-8-16-32", "lr-0.05_widths-8-8-8",
    ]  # fmt: skip
    assert cells[1].settings == {"optim.lr": 0.1, "model.widths": [8, 8, 8]}
    config = cells[1].seeded(4)
    assert (config.name, config.seed, config.optim.lr) == ("s-lr-0.1_widths-8-8-8", 4, 0.1)
    assert cells[0].config.seed == 3
    assert [cell.parameters for cell in cells] == [20034, 4114, 20034, 4114]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"optim.lr": 1e-5, "batch_size": 64.0}, "lr-1e-05_batch_size-64"),
        ({"augment.flip": "random", "ema_decay": None, "model.preact": True}, "flip-random_ema_decay-null_preact-true"),
        ({"model.widths": [16, 32]}, "widths-16-32"),
        ({"data.train_limit": "../x y"}, "train_limit-..-x-y-e6e729aa"),
        ({"optim.lr": -1}, "lr--1-499a37e8"),
        ({"phases": [{"epochs": 1}]}, "phases--epochs-1-8c07b031"),
        ({"a" * 70: 1}, "a" * 55 + "-3f99519b"),
    ],
)
def test_names_are_stable_and_fit_for_a_folder(settings: dict[str, Any], name: str) -> None:
    assert cell_name(settings) == name


def test_names_tell_different_settings_apart() -> None:
    settings = [{"a": "x y"}, {"a": "x-y"}, {"a": "x/y"}, {"a": ["x", "y"]}, {"a": [["x"], "y"]}, {"a": {"x": "y"}}]
    assert len({cell_name(one) for one in settings}) == len(settings)


def test_an_unknown_dotted_key_is_said_once_with_the_nearest(write: Write) -> None:
    with pytest.raises(ConfigError) as error:
        plan(load_sweep(write(parameters={"optim.lrr": [1, 2, 3, 4, 5, 6, 7]})))
    assert "optim.lrr: unknown key; did you mean optim.lr?" in message(error)
    assert message(error).count("did you mean") == 1
    assert message(error).endswith("(in lrr-1, lrr-2, lrr-3, lrr-4, lrr-5 and 2 more)")


def test_cells_that_would_train_the_same_are_refused(write: Write) -> None:
    path = write({"phases": [{"epochs": 1, "optim": {"lr": 0.3}}]}, parameters={"optim.lr": [0.1, 0.2]})
    with pytest.raises(ConfigError, match=r"the cells lr-0\.1 and lr-0\.2 train alike.*phases\.0\.key"):
        plan(load_sweep(path))


def test_cells_that_differ_in_a_dropout_that_no_phase_has_are_refused(write: Write) -> None:
    sweep = {"parameters": {"model.dropout": [0.0, 0.5]}}
    assert len(plan(load_sweep(write({"phases": [{"epochs": 1}, {"epochs": 1, "dropout": 0.1}]}, **sweep)))) == 2
    path = write({"phases": [{"epochs": 1, "dropout": 0.1}, {"epochs": 1}]}, **sweep)
    with pytest.raises(ConfigError, match=r"the cells dropout-0 and dropout-0\.5 train alike"):
        plan(load_sweep(path))


def test_cells_by_hand(write: Write) -> None:
    cells = plan(load_sweep(write(cells=[{"label": "plain"}, {"label": "cut", "augment.cutout": 8, "optim.lr": 0.2}])))
    assert [(cell.name, cell.settings) for cell in cells] == [("plain", {}), ("cut", {"augment.cutout": 8, "optim.lr": 0.2})]
    assert [cell.config.augment.cutout for cell in cells] == [0, 8]
    assert [cell.config.name for cell in cells] == ["s-plain", "s-cut"]


SPACES = {
    "optim.lr": {"low": 0.01, "high": 1.0, "log": True},
    "augment.cutout": {"low": 0, "high": 3, "type": "int"},
    "optim.nesterov": [True, False],
}


def test_random_draws_are_reproducible_and_grow(write: Write) -> None:
    def drawn(trials: int, seed: int) -> list[dict[str, Any]]:
        path = write(method="random", trials=trials, search_seed=seed, parameters=SPACES)
        return [dict(cell.settings) for cell in plan(load_sweep(path))]

    six = drawn(6, 0)
    assert six[:2] == [
        {"optim.lr": 0.0436153, "augment.cutout": 1, "optim.nesterov": True},
        {"optim.lr": 0.273674, "augment.cutout": 2, "optim.nesterov": False},
    ]
    assert drawn(3, 0) == six[:3]  # more trials only add cells
    assert drawn(3, 1) != six[:3]
    assert all(0.01 <= one["optim.lr"] <= 1 and one["augment.cutout"] in range(4) for one in six)


def test_integers_and_logarithms_are_drawn_evenly() -> None:
    rng = numpy_generator(0, SWEEP)
    whole = [_draw_one(Range(low=0, high=3, type="int"), rng) for _ in range(4000)]
    assert [0.22 < whole.count(value) / 4000 < 0.28 for value in range(4)] == [True] * 4
    logs = [_draw_one(Range(low=0.01, high=1, log=True), rng) for _ in range(4000)]
    assert 0.47 < sum(value < 0.1 for value in logs) / 4000 < 0.53
    assert {_draw_one(Range(low=1, high=2, type="int", log=True), rng) for _ in range(50)} == {1, 2}


def test_random_cannot_draw_more_cells_than_there_are(write: Write) -> None:
    parameters = {"augment.cutout": {"low": 0, "high": 1, "type": "int"}, "optim.nesterov": [True, False]}
    assert len(plan(load_sweep(write(method="random", trials=4, parameters=parameters)))) == 4
    with pytest.raises(ConfigError, match="trials is 5, but the parameters have only 4 combinations: use method grid"):
        plan(load_sweep(write(method="random", trials=5, parameters=parameters)))


def test_a_range_narrower_than_its_digits_does_not_hang(write: Write) -> None:
    parameters = {"optim.lr": {"low": 0.1, "high": 0.1000001}}
    with pytest.raises(ConfigError, match=r"trials is 5, but only 1 different settings were found: widen low\.\.high"):
        plan(load_sweep(write(method="random", trials=5, parameters=parameters)))


def test_cells_over_the_budget_are_listed_and_refused_or_skipped(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = {"parameters": {"model.widths": [[8, 8, 8], [8, 16, 32], [16, 32, 64]]}}
    base = {"rules": {"max_params": 20_033, "rows": 360}}
    with pytest.raises(ConfigError) as error:
        plan(load_sweep(write(base, **sweep)))
    assert message(error) == (
        "s: 2 of 3 cells are over the budget of 20,033 trainable parameters: widths-8-16-32 20,034, widths-16-32-64 78,330; "
        "narrow the parameters or set skip_illegal: true"
    )
    with pytest.raises(ConfigError, match="3 of 3 cells are over the budget"):  # nothing would be left
        plan(load_sweep(write({"rules": {"max_params": 9, "rows": 360}}, **sweep, skip_illegal=True)))
    training = fake(lambda config: 0.5)
    assert run_sweep(write(base, **sweep, skip_illegal=True), tmp_path / "out") == 0
    assert training.trained == ["widths-8-8-8-seed0"]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| widths-8-16-32 | \\[8, 16, 32\\] | 20,034 | 0 of 1 |  |  |  | skipped: 1 parameters over the budget |" in table


# -------------------------------------------------------------------------------------------------------------------- claims


def other_host(folder: Path, job: str, generation: int = 0, minutes: float = 0.0) -> Path:
    """A claim of another machine, last heard of so many minutes ago."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{job}.{generation}"
    path.write_text(json.dumps({"host": "elsewhere", "process": 1}))
    os.utime(path, (time.time() - 60 * minutes,) * 2)
    return path


def test_a_claim_is_one_workers_until_released(tmp_path: Path) -> None:
    claim = take(tmp_path, "a-seed0", 10)
    assert claim is not None
    with claim:
        assert take(tmp_path, "a-seed0", 10) is None
        assert holder(tmp_path, "a-seed0", 10) == f"process {os.getpid()} on {socket.gethostname()}"
        assert take(tmp_path, "a-seed01", 10) is not None  # another job, though its name begins alike
        claim.check()
    assert holder(tmp_path, "a-seed0", 10) is None
    assert take(tmp_path, "a-seed0", 10) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-seed0.0", "a-seed0.1", "a-seed01.0"]


def test_of_many_workers_one_gets_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_host(tmp_path, "a", minutes=60)
    got, together = list[Claim](), threading.Barrier(12)

    def silence(path: Path, stale_minutes: float) -> str:
        together.wait()  # all have seen the old claim as stale before the first takes it over
        return "silent"

    monkeypatch.setattr(claims_module, "_silence", silence)

    def grab() -> None:
        if claim := take(tmp_path, "a", 10):
            got.append(claim)

    threads = [threading.Thread(target=grab) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [claim.path.name for claim in got] == ["a.1"]


def test_a_silent_claim_is_taken_over_and_its_holder_told(tmp_path: Path) -> None:
    first = take(tmp_path, "a", 10)
    assert first is not None
    other_host(tmp_path, "a", minutes=9)
    assert take(tmp_path, "a", 10) is None
    assert holder(tmp_path, "a", 10) == "process 1 on elsewhere"
    other_host(tmp_path, "a", minutes=11)
    second = take(tmp_path, "a", 10)
    assert second is not None
    with pytest.raises(ClaimLost, match=r"a\.0 sent no heartbeat for too long"):
        first.check()
    second.check()


def test_a_silent_claim_on_a_locked_run_is_left_to_its_holder(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path
) -> None:
    """Its process was stopped, or lives in another container and cannot reach the claim."""
    place = tmp_path / "out"
    training = fake(lambda config: 0.5)
    place.mkdir()
    other_host(place / "claims", "lr-0.1-seed0", minutes=60)
    with locked(place / "lr-0.1-seed0"):
        assert run_sweep(write(parameters={"optim.lr": [0.1]}), place, quiet=True) == 0
    assert training.trained == []
    assert [path.name for path in (place / "claims").glob("lr*")] == ["lr-0.1-seed0.0"]
    run_sweep(write(parameters={"optim.lr": [0.1]}), place, quiet=True)
    assert training.trained == ["lr-0.1-seed0"]


def test_the_age_of_a_claim_is_told_by_the_folders_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_host(tmp_path, "a")
    monkeypatch.setattr(time, "time", lambda: 1e12)  # a machine whose clock is far ahead
    assert take(tmp_path, "a", 10) is None


def test_a_claim_lives_on_through_a_server_that_is_away_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = take(tmp_path, "a", 10)
    assert claim is not None
    exists, asked, later = Path.exists, list[Path](), threading.Event()

    def flaky(path: Path, **options: Any) -> bool:
        asked.append(path)
        if len(asked) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        later.set()
        return exists(path, **options)

    claim._beat = 0.01
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", flaky)
        with claim:
            assert later.wait(10)  # asked again after the error
    assert claim.path.stat().st_mtime == 0


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS])
def test_a_visitor_who_may_not_write_sees_who_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    other_host(tmp_path, "a", minutes=1)

    def refuse(path: Path, **options: Any) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(Path, "touch", refuse)
    assert holder(tmp_path, "a", 10) == "process 1 on elsewhere"


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    here = {**claims_module._machine(), "process": child.pid}
    (tmp_path / "a.0").write_text(json.dumps(here))
    assert take(tmp_path, "a", 10) is not None
    for key in ("host", "boot", "namespace"):  # a number of another container, or of before a restart, means nothing here
        (tmp_path / f"{key}.0").write_text(json.dumps({**here, key: "another"}))
        assert take(tmp_path, key, 10) is None
    (tmp_path / "b.0").write_text("")  # made, not written yet
    assert take(tmp_path, "b", 10) is None
    assert holder(tmp_path, "b", 10) == "another process"


def test_where_a_process_cannot_be_asked_whether_it_lives_a_claim_expires_by_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows `os.kill(process, 0)` would interrupt it."""
    path = other_host(tmp_path, "a", minutes=5)
    path.write_text(json.dumps({**claims_module._machine(), "process": 2**22 + 1}))
    monkeypatch.setattr(signal, "CTRL_C_EVENT", 0, raising=False)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("it was interrupted"))
    assert take(tmp_path, "a", stale_minutes=10) is None
    os.utime(path, (time.time() - 660,) * 2)
    assert take(tmp_path, "a", stale_minutes=10) is not None


def test_a_holder_shows_that_it_lives(tmp_path: Path) -> None:
    path = other_host(tmp_path, "a", minutes=60)
    with Claim(tmp_path, "a", 0, stale_minutes=0.002):  # so a sign of life every 12 ms
        until = time.monotonic() + 20
        while path.stat().st_mtime < time.time() - 60 and time.monotonic() < until:
            time.sleep(0.01)
        assert holder(tmp_path, "a", 10) == "process 1 on elsewhere"
    assert path.stat().st_mtime == 0


# -------------------------------------------------------------------------------------------------------------------- workers


def test_each_run_is_trained_once_first_seeds_first(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = fake(lambda config: config.optim.lr + config.seed / 100)
    path = write(parameters={"optim.lr": [0.1, 0.2]}, seeds=[0, 1])
    assert run_sweep(path, tmp_path / "out") == 0
    assert training.trained == ["lr-0.1-seed0", "lr-0.2-seed0", "lr-0.1-seed1", "lr-0.2-seed1"]
    assert run_sweep(path, tmp_path / "out") == 0
    assert len(training.trained) == 4
    run_sweep(write(parameters={"optim.lr": [0.1, 0.2, 0.3]}, seeds=[0, 1]), tmp_path / "out")  # a grid may grow
    assert training.trained[4:] == ["lr-0.3-seed0", "lr-0.3-seed1"]


def test_table_literal_and_winner_by_val(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracies = {(0.1, 0): 0.5, (0.1, 1): 0.52, (0.2, 0): 0.7, (0.2, 1): 0.6, (0.4, 0): 0.99}

    def accuracy(config: Config) -> float:
        if (config.optim.lr, config.seed) not in accuracies:
            raise DivergedError("loss is not | finite\nat epoch 1")
        return accuracies[config.optim.lr, config.seed]

    fake(accuracy, pictures=True)
    place = tmp_path / "out"
    assert run_sweep(write(parameters={"optim.lr": [0.1, 0.2, 0.4]}, seeds=[0, 1]), place) == 5
    assert (place / "table.csv").read_text() == (
        "cell,optim.lr,parameters,seeds,val_mean,val_sd,val_seed0,val_seed1,minutes,state\n"
        "lr-0.2,0.2,20034,2,0.65,0.070711,0.7,0.6,3.0,done\n"
        "lr-0.1,0.1,20034,2,0.51,0.014142,0.5,0.52,3.0,done\n"
        "lr-0.4,0.4,20034,1,0.99,,0.99,,1.5,failed: loss is not | finite at epoch 1\n"
    )
    lines = (place / "table.md").read_text().splitlines()
    assert lines[2:7] == [
        "| cell | optim.lr | parameters | seeds | val % | sd | minutes | state |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
        "| lr-0.2 | 0.2 | 20,034 | 2 | 65.00 | 7.07 | 3.0 | done |",
        "| lr-0.1 | 0.1 | 20,034 | 2 | 51.00 | 1.41 | 3.0 | done |",
        "| lr-0.4 | 0.4 | 20,034 | 1 of 2 | 99.00 |  | 1.5 | failed: loss is not \\| finite at epoch 1 |",
    ]
    assert "chosen on val only" in lines[-1]
    best = load_config(place / "best.yaml")  # of the whole cells: one lucky seed is no mean
    assert (best.optim.lr, best.seed, best.name) == (0.2, 0, "s-lr-0.2")
    out = capsys.readouterr().out
    assert "best on val: lr-0.2, 65.00 % ± 7.07 sd, 2 seeds, 20,034 parameters (the test split was not read)" in out
    failed = json.loads((place / "lr-0.4-seed1" / "failed.json").read_text())
    assert len(failed.pop("config_sha256")) == 64
    assert failed == {
        "error": "DivergedError", "reason": "loss is not | finite at epoch 1", "exit_code": 5,
    }  # fmt: skip
    assert (place / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_run_is_left_alone_until_it_is_to_be_tried_again(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(config: Config) -> float:
        raise DivergedError("loss is not finite")

    path, place = write(parameters={"optim.lr": [0.1]}), tmp_path / "out"
    fake(diverge)
    with monkeypatch.context() as patched:
        patched.setattr(worker_module, "load_train", lambda data: pytest.fail("a run that diverged had its data"))
        assert run_sweep(path, place, quiet=True) == 5
    training = fake(lambda config: 0.5)
    assert run_sweep(path, place, quiet=True) == 5
    assert training.trained == []
    assert run_sweep(path, place, quiet=True, retry_failed=True) == 0
    assert training.trained == ["lr-0.1-seed0"]


def test_what_is_not_the_cells_fault_ends_the_worker(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    def defect(config: Config) -> float:
        raise RuntimeError("a defect")

    def full(config: Config) -> float:
        raise DiskError("no space left")

    place = tmp_path / "out"
    cells = {"parameters": {"optim.lr": [0.1, 0.2]}}
    with pytest.raises(UserError, match="nowhere"):  # by the real training
        run_sweep(write({"data": {"source": "cifar10", "root": str(tmp_path / "nowhere")}}, **cells), place, quiet=True)
    path = write(**cells)
    fake(full)
    with pytest.raises(DiskError, match="no space left"):
        run_sweep(path, place, quiet=True)
    assert list(place.rglob("failed.json")) == []
    fake(defect)
    with pytest.raises(RuntimeError, match="a defect"):
        run_sweep(path, place, quiet=True)
    training = fake(lambda config: 0.5)  # marked, so the next worker gets past it
    assert run_sweep(path, place, quiet=True) == 1
    assert training.trained == ["lr-0.2-seed0"]


@pytest.mark.parametrize("missing", ["weights", "teachers"])
@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_weights_and_teachers_that_no_cell_has_end_the_worker(write: Write, tmp_path: Path, method: str, missing: str) -> None:
    """tpe cannot try a failed trial again: a machine without them would use all trials up."""
    gone = str(tmp_path / "gone")
    allowed = {"max_params": 100_000, "rows": 360, "pretrained": True}
    base = {
        "weights": {"weights": f"{gone}.pt", "rules": allowed},
        "teachers": {"distill": {"teachers": [gone]}},
    }[missing]
    cells: dict[str, Any] = {
        "grid": {"parameters": {"optim.lr": [0.1, 0.2]}},
        "tpe": {"method": "tpe", "trials": 2, "parameters": {"optim.lr": [0.1, 0.2]}},
    }[method]
    if method == "tpe":
        pytest.importorskip("optuna")
    place = tmp_path / "out"
    with pytest.raises(CheckpointError, match="gone"):
        run_sweep(write(base, **cells), place, quiet=True)
    assert list(place.rglob("failed.json")) == []
    assert run_sweep(write(**cells), place, quiet=True) == 0


def test_a_cell_whose_own_teachers_are_missing_fails_alone(write: Write, tmp_path: Path) -> None:
    cells = [{"label": "a", "distill.teachers": [str(tmp_path / "gone")]}, {"label": "b"}]
    assert run_sweep(write(cells=cells), tmp_path / "out", quiet=True) == 4
    assert " done |" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_what_one_cell_alone_cannot_do_is_recorded_and_the_rest_goes_on(write: Write, tmp_path: Path, method: str) -> None:
    """256 training images make no batch of 512, nor are there 10,000 of them: errors of the data, yet of these cells alone."""
    cells: dict[str, Any] = {
        "grid": {"cells": [{"label": "a", "batch_size": 512}, {"label": "b", "data.train_limit": 10_000}, {"label": "c"}]},
        "tpe": {"method": "tpe", "trials": 4, "parameters": {"batch_size": [512, 64], "optim.lr": [0.1, 0.2]}},
    }[method]
    if method == "tpe":
        pytest.importorskip("optuna")
    place = tmp_path / "out"
    assert run_sweep(write(**cells), place, quiet=True) in (2, 3)
    rows = (place / "table.md").read_text()
    assert rows.count(" done |") >= 1
    assert rows.count(" done |") + rows.count("| failed: ") == (3 if method == "grid" else 4)
    if method == "tpe":
        assert set(told(place)) == {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_a_cell_too_large_for_the_memory_is_recorded(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, error: Exception
) -> None:
    def too_large(config: Config) -> float:
        if config.optim.lr == 0.1:
            raise error
        return 0.5

    fake(too_large)
    assert run_sweep(write(parameters={"optim.lr": [0.1, 0.2]}), tmp_path / "out", quiet=True) == 1
    rows = (tmp_path / "out" / "table.md").read_text()
    assert rows.count(" done |") == rows.count("| failed: ") == 1


def test_runs_of_others_are_left_to_them(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, place = write(parameters={"optim.lr": [0.1, 0.2, 0.3]}), tmp_path / "out"
    place.mkdir()
    training = fake(lambda config: 0.5)
    claim = other_host(place / "claims", "lr-0.1-seed0", minutes=1)
    assert run_sweep(path, place) == 0
    assert training.trained == ["lr-0.2-seed0", "lr-0.3-seed0"]
    assert "1 run held by other workers (lr-0.1-seed0)" in capsys.readouterr().out
    assert "| lr-0.1 | 0.1 | 20,034 | 0 of 1 |  |  |  | running |" in (place / "table.md").read_text()
    os.utime(claim, (time.time() - 3600,) * 2)
    assert run_sweep(path, place) == 0
    assert training.trained[2:] == ["lr-0.1-seed0"]


def test_a_run_that_ended_just_before_the_claim_is_not_trained_again(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = fake(lambda config: 0.5)

    def late(folder: Path, job: str, stale_minutes: float, in_use: Any) -> Claim | None:
        run = Run(tmp_path / "out" / job)
        write_atomic(run.best, b"")
        write_json(run.summary_file, summary_of(val_accuracy=0.7, seconds=60.0, weights_sha256=EMPTY))
        return take(folder, job, stale_minutes)

    monkeypatch.setattr(worker_module, "take", late)
    assert run_sweep(write(parameters={"optim.lr": [0.1]}), tmp_path / "out", quiet=True) == 0
    assert training.trained == []


def test_a_worker_that_was_taken_for_dead_stops(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    place = tmp_path / "out"

    def taken_over(config: Config) -> float:
        other_host(place / "claims", "lr-0.1-seed0", generation=1)
        return 0.5

    training = fake(taken_over)
    run_sweep(write(parameters={"optim.lr": [0.1]}), place, quiet=True)
    assert training.trained == ["lr-0.1-seed0"]
    assert not (place / "lr-0.1-seed0" / "summary.json").exists()
    assert not (place / "lr-0.1-seed0" / "failed.json").exists()


def test_a_woken_worker_writes_over_nothing(tiny: Callable[..., Config], tmp_path: Path) -> None:
    """Where locks do not reach, the claim is looked at before anything of the run is replaced."""
    run, looks = Run(tmp_path / "run"), list[dict[str, bytes]]()

    def look() -> None:
        if run.last.exists():
            looks.append({path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()})
            raise ClaimLost("taken over")

    with pytest.raises(ClaimLost):
        train(tiny(phases=[{"epochs": 2}]), run.folder, quiet=True, before_save=look)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()} == looks[0]
    assert load_checkpoint(run.last)["epoch"] == 1
    with pytest.raises(ClaimLost):
        train(tiny(phases=[{"epochs": 2}]), run.folder, quiet=True, resume=True, before_save=look)
    assert looks[1] == looks[0] | {"env.json": looks[1]["env.json"]}


def test_a_run_whose_weights_were_written_over_is_not_done(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    summary = train(tiny(phases=[{"epochs": 1}]), run.folder, quiet=True)
    assert run.finished() == summary
    shutil.copy(run.last, run.best)
    assert run.finished() is None


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with (
        pytest.raises(DiskError, match=r"without locks .Function not implemented.*put runs on a local disk"),
        locked(tmp_path),
    ):
        pass


def test_a_run_directory_in_use_is_no_failure(write: Write, tmp_path: Path) -> None:
    path, place = write(parameters={"optim.lr": [0.1]}), tmp_path / "out"
    with locked(place / "lr-0.1-seed0"):
        assert run_sweep(path, place, quiet=True) == 0
    assert list(place.rglob("failed.json")) == []


def test_a_changed_base_config_is_refused_before_anything_trains(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path
) -> None:
    training = fake(lambda config: 0.5)
    run_sweep(write(parameters={"optim.lr": [0.1]}), tmp_path / "out", quiet=True)
    for base, said in (({"batch_size": 32}, "batch_size: 64 -> 32"), ({"phases": [{"epochs": 2}]}, "epochs: 1 -> 2")):
        with pytest.raises(ConfigError, match=rf"lr-0\.1-seed0 was trained with other settings.*{said}"):
            run_sweep(write(base, parameters={"optim.lr": [0.1]}), tmp_path / "out", quiet=True)
    assert len(training.trained) == 1


def test_runs_that_patience_ended_go_on_with_more(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = {0.1: [0.6, 0.3, 0.3, 0.9], 0.2: [0.1, 0.2, 0.3, 0.4]}  # of the one patience ends the run

    def scripted(self: Trainer) -> tuple[float, float]:
        return 1.0, accuracies[self.config.optim.lr][self.state.epoch]

    def epochs() -> list[int]:
        return [Run(tmp_path / "out" / f"lr-{lr}-seed0").summary().epochs for lr in (0.1, 0.2)]

    monkeypatch.setattr(Trainer, "_evaluate", scripted)
    base, sweep = {"phases": [{"epochs": 4}], "selection": "best"}, {"parameters": {"optim.lr": [0.1, 0.2]}}
    assert run_sweep(write({**base, "patience": 1}, **sweep), tmp_path / "out", quiet=True) == 0
    assert epochs() == [2, 4]
    assert "2 of 2 runs done" in run_module.show(write({**base, "patience": 1}, **sweep), tmp_path / "out")
    for patience, expected in ((2, [3, 4]), (None, [4, 4])):
        path = write({**base, "patience": patience}, **sweep)
        assert "1 of 2 runs done" in run_module.show(path, tmp_path / "out")
        assert run_sweep(path, tmp_path / "out", quiet=True) == 0
        assert epochs() == expected
        assert "2 of 2 runs done" in run_module.show(path, tmp_path / "out")
    assert len(Run(tmp_path / "out" / "lr-0.2-seed0").sessions()) == 1
    with pytest.raises(ConfigError, match=r"lr-0\.1-seed0 was trained with other settings.*patience: None -> 3"):
        run_module.show(write({**base, "patience": 3}, **sweep), tmp_path / "out")


def test_trials_that_patience_ended_and_optuna_counted_are_refused_with_more(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    fake(lambda config: config.optim.lr / 2)
    base = {"phases": [{"epochs": 4}], "selection": "best"}
    run_sweep(write({**base, "patience": 1}, **TPE), tmp_path / "out", quiet=True)
    assert "6 of 6 runs done" in run_module.show(write({**base, "patience": 2}, **TPE), tmp_path / "out")
    ended = Run(tmp_path / "out" / f"{trial_name(2)}-seed0")
    write_json(ended.summary_file, {**ended.summary().plain(), "epochs": 2, "epochs_planned": 4, "ended": "patience"})
    assert "6 of 6 runs done" in run_module.show(write({**base, "patience": 1}, **TPE), tmp_path / "out")
    with pytest.raises(ConfigError, match=rf"{ended.name} was trained with other settings.*patience: 1 -> 2"):
        run_sweep(write({**base, "patience": 2}, **TPE), tmp_path / "out", quiet=True)


def test_a_sweep_may_change_before_its_first_epoch_is_done(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path
) -> None:
    """A folder with a config and no checkpoint is of a run that was stopped in its first epoch: nothing is lost."""
    place = tmp_path / "out"
    config = load_config(write(parameters={"optim.lr": [0.1]}).parent / "base.yaml")
    environment = {**machine_facts(torch.device("cpu"), "fp32"), "processes": 1}
    write_start(Run(place / "lr-0.1-seed0"), config, environment, "", 1)
    training = fake(lambda config: 0.5)
    run_sweep(write({"batch_size": 32}, parameters={"optim.lr": [0.1]}), place, quiet=True)
    assert len(training.trained) == 1


def test_on_epoch_ends_a_run_that_can_go_on(tiny: Callable[..., Config], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []

    def stop(row: dict[str, Any]) -> None:
        rows.append(row)
        raise ClaimLost("stop")

    with pytest.raises(ClaimLost):
        train(tiny(), tmp_path / "run", quiet=True, on_epoch=stop)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["epoch"] == 1
    assert [row["epoch"] for row in rows] == [1]
    assert 0 <= rows[0]["val_accuracy"] <= 1
    assert train(tiny(), tmp_path / "run", quiet=True, resume=True).epochs == 2


def test_a_killed_sweep_goes_on(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, place = write(parameters={"optim.lr": [0.1, 0.2]}), tmp_path / "out"
    original, steps = Trainer.step, 0

    def step(self: Trainer, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 6:  # the second step of the second run
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(Terminated):
        run_sweep(path, place, quiet=True)
    assert Run(place / "lr-0.1-seed0").summary() is not None
    assert load_checkpoint(place / "lr-0.2-seed0" / "last.pt")["step"] == 2
    assert run_sweep(path, place, quiet=True) == 0
    assert [len(Run(place / f"lr-{lr}-seed0").sessions()) for lr in (0.1, 0.2)] == [1, 2]
    assert steps == 8  # nothing was trained twice


WORKER = "import sys; from pathlib import Path; from cifar_small.sweep.run import run_sweep; "
WORKER += "sys.exit(run_sweep(Path(sys.argv[1]), Path(sys.argv[2]), quiet=True))"


def test_workers_side_by_side_train_each_run_once(write: Write, tmp_path: Path) -> None:
    path = write({"model": {"family": "resnet", "widths": [4, 4, 4], "blocks": [1, 1, 1]}}, parameters={
        "optim.lr": [0.1, 0.05], "label_smoothing": [0.0, 0.1, 0.2],
    })  # fmt: skip
    place = tmp_path / "out"
    command = [sys.executable, "-W", "error", "-c", WORKER, str(path), str(place)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(worker.communicate(timeout=600)[1], worker.returncode) for worker in workers]
    assert ends == [("", 0)] * 2
    runs = [Run(folder) for folder in place.glob("*-seed0")]
    assert len(runs) == 6
    assert [len(run.sessions()) for run in runs] == [1] * 6
    claims = [json.loads(one.read_text())["process"] for one in (place / "claims").iterdir()]
    assert set(claims) <= {worker.pid for worker in workers}
    assert (place / "table.csv").read_text().count(",done\n") == 6


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_range_of_epochs_may_have_whole_ends(method: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """tpe tries the ends of each range before it begins; random may draw a whole number, to the digits it writes."""
    tried: list[Any] = []
    monkeypatch.setattr(cells_module, "check_pipelines", lambda resolved: tried.append(resolved.phases[0].settings.epochs))
    draws = iter((7.0, 8.25, 9.0))
    monkeypatch.setattr(cells_module, "_draw_one", lambda space, rng: next(draws))
    parameters = {"phases.0.epochs": {"low": 7, "high": 9}}
    cells = plan(load_sweep(write(method=method, trials=3, parameters=parameters)))
    assert json.dumps(tried) == {"random": "[7, 8.25, 9]", "tpe": "[7, 9]"}[method]
    assert [cell.name for cell in cells] == (["epochs-7", "epochs-8.25", "epochs-9"] if method == "random" else [])
    assert json.dumps([cell.settings["phases.0.epochs"] for cell in cells]) == ("[7, 8.25, 9]" if cells else "[]")


# ------------------------------------------------------------------------------------------------------------------------ tpe


TPE = {
    "method": "tpe",
    "trials": 6,
    "parameters": {"optim.lr": {"low": 0.01, "high": 1.0, "log": True}, "batch_size": [32, 64]},
}


def trials(place: Path, key: str) -> list[Any]:
    return [json.loads(path.read_text())[key] for path in sorted((place / "trials").glob("trial*.json"))]


def settings_of(place: Path) -> list[dict[str, Any]]:
    return trials(place, "settings")


def told(place: Path) -> list[str | None]:
    return trials(place, "told")


def study_of(place: Path) -> Any:
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(place / "trials" / "journal.log"))
    return optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))


def test_tpe_without_optuna_names_the_extra(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'cifar_small\[sweep\]'"):
        run_sweep(write(**TPE), tmp_path / "out", quiet=True)


def test_tpe_runs_its_trials_and_can_be_repeated(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    training = fake(lambda config: config.optim.lr / 2 + config.seed / 100)
    path = write(**TPE, seeds=[0, 1])
    assert run_sweep(path, tmp_path / "a", quiet=True) == 0
    assert training.trained == [f"{trial_name(number)}-seed{seed}" for number in range(6) for seed in (0, 1)]
    assert run_sweep(path, tmp_path / "a", quiet=True) == 0
    assert len(training.trained) == 12
    assert run_sweep(path, tmp_path / "b", quiet=True) == 0
    assert settings_of(tmp_path / "a") == settings_of(tmp_path / "b")
    assert len({one["optim.lr"] for one in settings_of(tmp_path / "a")}) == 6
    best = max(settings_of(tmp_path / "a"), key=lambda one: one["optim.lr"])
    assert load_config(tmp_path / "a" / "best.yaml").optim.lr == best["optim.lr"]
    assert told(tmp_path / "a") == ["COMPLETE"] * 6
    assert study_of(tmp_path / "a").best_value == pytest.approx(best["optim.lr"] / 2 + 0.005)  # the mean over the seeds
    page = (Path(__file__).parents[2] / "docs" / "watching.md").read_text(encoding="utf-8")
    documented = re.findall(r"^optuna-dashboard runs/NAME/(.+)$", page, re.MULTILINE)
    assert [(tmp_path / "a" / journal).is_file() for journal in documented] == [True]
    with pytest.raises(ConfigError, match="contains trials of other parameters, seeds or start_with"):
        run_sweep(write(**TPE), tmp_path / "a", quiet=True)


def test_tpe_starts_with_the_base_and_what_one_knows(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    training = fake(lambda config: config.optim.lr / 2)
    parameters = {
        "optim.lr": {"low": 0.01, "high": 1.0, "log": True},
        "model.widths": [[8, 8, 8], [8, 16, 32]],
        "phases.0.epochs": {"low": 1, "high": 3, "type": "int"},
    }
    base = {
        "optim": {"name": "sgd", "lr": 0.5},
        "model": {**tiny_raw()["model"], "widths": [8, 16, 32]},
        "phases": [{"epochs": 2}],
    }
    first = [{}, {"optim.lr": 1, "model.widths": [8, 8, 8]}]
    place = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna's on what it calls experimental would puzzle users
        assert run_sweep(write(base, method="tpe", trials=5, parameters=parameters, start_with=first), place, quiet=True) == 0
    known = [{"optim.lr": 0.5, "model.widths": [8, 16, 32], "phases.0.epochs": 2}]
    known += [{"optim.lr": 1.0, "model.widths": [8, 8, 8], "phases.0.epochs": 2}]
    assert settings_of(place)[:2] == known
    assert all(one not in known for one in settings_of(place)[2:])
    assert len(training.trained) == 5
    assert [trial.params["optim.lr"] for trial in study_of(place).trials][:2] == [0.5, 1.0]  # TPE learns from them
    assert load_config(place / "best.yaml").optim.lr == 1.0
    with pytest.raises(ConfigError, match="contains trials of other parameters, seeds or start_with"):
        run_sweep(write(base, method="tpe", trials=5, parameters=parameters, start_with=[{}]), place, quiet=True)


@pytest.mark.parametrize("best", [True, False])  # does TPE keep going back to one combination, or is all the same?
def test_tpe_trains_no_combination_twice(best: bool, write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    training = fake(lambda config: 0.9 if best and config.optim.lr == 0.05 and config.batch_size == 64 else 0.1)
    parameters = {
        "optim.lr": [0.05, 0.1, 0.2],
        "batch_size": {"low": 62, "high": 64, "type": "int"},
        "model.widths": [[8, 8, 8], [8, 16, 32]],
    }
    path = write(method="tpe", trials=18, random_trials=3, parameters=parameters, start_with=[{"batch_size": 64}])
    assert run_sweep(path, tmp_path / "out", quiet=True) == 0
    assert len({json.dumps(one, sort_keys=True) for one in settings_of(tmp_path / "out")}) == len(training.trained) == 18
    with pytest.raises(ConfigError, match="trials is 19, but the parameters have only 18 combinations: use method grid"):
        run_sweep(write(method="tpe", trials=19, parameters=parameters), tmp_path / "more", quiet=True)


def test_a_start_takes_what_a_phase_inherits(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    fake(lambda config: 0.5)
    space = {"phases.0.optim.lr": {"low": 0.001, "high": 0.5}, "phases.0.label_smoothing": [0.0, 0.1]}
    path = write({"optim": {"lr": 0.25}}, method="tpe", trials=2, parameters=space, start_with=[{}])
    assert run_sweep(path, tmp_path / "out", quiet=True) == 0
    assert settings_of(tmp_path / "out")[0] == {"phases.0.optim.lr": 0.25, "phases.0.label_smoothing": 0.0}


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        (
            [{}],
            r"s: start_with\.0: optim\.lr is 5\.0 in the base config, which is none of what parameters\.optim\.lr lets it be",
        ),
        ([{"optim.lr": 2}], r"s: start_with\.0: optim\.lr is 2, which is none of"),
        ([{"optim.lr": True}], r"s: start_with\.0: optim\.lr is true, which is none of"),
        ([{"optim.lr": 0.1, "batch_size": 48}], r"s: start_with\.0: batch_size is 48, which is none of"),
        ([{"optim.lr": 0.1}, {"optim.lr": 0.10}], r"s: start_with\.1 sets the same as start_with\.0: drop one"),
        (
            [{"optim.lr": 0.1, "mixup_alpha": 0.2}],
            r"start_with\.0\.mixup_alpha is none of the parameters: add it to them, or drop",
        ),
        ([{"optim.lr": rate / 10} for rate in range(1, 8)], r"start_with lists 7 trials, more than trials 6: raise trials"),
    ],
)
def test_a_start_that_the_parameters_do_not_include_is_refused(
    first: list[dict[str, Any]], problem: str, write: Write, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        run_sweep(write({"optim": {"name": "sgd", "lr": 5.0}}, **TPE, start_with=first), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_start_with_is_for_tpe_alone(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start_with has no effect with method grid: drop it, or set method tpe"):
        run_sweep(write(parameters={"batch_size": [32, 64]}, start_with=[{}]), tmp_path / "out", quiet=True)


def test_a_killed_trial_goes_on_as_the_same_one(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers = pytest.importorskip("optuna").samplers
    sampler, seeds = samplers.TPESampler, []
    monkeypatch.setattr(samplers, "TPESampler", lambda **options: seeds.append(options["seed"]) or sampler(**options))
    path, place = write(**{**TPE, "trials": 3}), tmp_path / "out"

    def killed(config: Config) -> float:
        if config.name == "s-trial0001":
            raise Terminated("killed")
        return 0.5

    fake(killed)
    with pytest.raises(Terminated):
        run_sweep(path, place, quiet=True)
    before = settings_of(place)
    assert told(place) == ["COMPLETE", None]
    training = fake(lambda config: 0.5)
    assert run_sweep(path, place, quiet=True) == 0
    assert training.trained == ["trial0001-seed0", "trial0002-seed0"]
    assert settings_of(place)[:2] == before
    # With one seed for each session, Optuna would begin again with the points of the first.
    assert len(set(seeds)) == 3
    assert len({one["optim.lr"] for one in settings_of(place)}) == 3
    assert trials(place, "optuna_number") == [0, 1, 2]
    assert told(place) == ["COMPLETE"] * 3


def test_a_trial_killed_before_it_was_written_down_is_asked_for_again(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    path, place = write(**{**TPE, "trials": 2}), tmp_path / "out"

    def killed(path: Path, value: Any) -> None:
        if path.name == "trial0001.json":
            raise Terminated("killed")
        write_json(path, value)

    training = fake(lambda config: 0.5)
    with monkeypatch.context() as patched:
        patched.setattr(search_module, "write_json", killed)
        with pytest.raises(Terminated):
            run_sweep(path, place, quiet=True)
    assert run_sweep(path, place, quiet=True) == 0
    assert training.trained == ["trial0000-seed0", "trial0001-seed0"]
    assert [trial.state.name for trial in study_of(place).trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_failed_and_illegal_trials_are_told(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    parameters = {"model.widths": [[8, 8, 8], [16, 32, 64]], "optim.lr": [0.1, 0.2, 0.3]}
    widths = {"method": "tpe", "trials": 5, "parameters": parameters}
    base = {"rules": {"max_params": 20_000, "rows": 360}}
    with pytest.raises(ConfigError, match=r"s: 1 of 4 cells are over the budget of 20,000.*probe1 78,330"):
        run_sweep(write(base, **widths), tmp_path / "out", quiet=True)

    def diverge(config: Config) -> float:
        raise DivergedError("not finite")

    training = fake(diverge)
    assert run_sweep(write(base, **widths, skip_illegal=True), tmp_path / "out", quiet=True) == 5
    assert told(tmp_path / "out") == ["PRUNED"] * 5
    assert 0 < len(training.trained) < 5


def test_values_that_are_possible_only_apart_are_drawn_again(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No probe along one parameter finds them: 64 images do not divide into micro-batches of 48."""
    pytest.importorskip("optuna")
    fake(lambda config: 0.5)
    parameters = {"optim.lr": [0.1, 0.2, 0.3], "batch_size": [48, 64], "engine.micro_batch_size": [16, 48]}
    sweep = write({"batch_size": 48}, method="tpe", trials=8, parameters=parameters)
    assert run_sweep(sweep, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert re.search(r"invalid combination, drawing again: .*batch_size 64, engine\.micro_batch_size 48: ", said)
    assert told(tmp_path / "out") == ["COMPLETE"] * 8
    settings = [cell.settings for cell in SweepDirectory(load_sweep(sweep), tmp_path / "out").trial_cells(load_sweep(sweep))]
    assert len(settings) == 8
    assert not [one for one in settings if (one["batch_size"], one["engine.micro_batch_size"]) == (64, 48)]
    with pytest.raises(
        ConfigError, match=r"no valid combination is left for trial0009; narrow the parameters, or lower trials"
    ):  # there are nine
        run_sweep(write({"batch_size": 48}, method="tpe", trials=10, parameters=parameters), tmp_path / "out", quiet=True)
    assert told(tmp_path / "out") == ["COMPLETE"] * 9


def test_parameters_that_hardly_ever_make_a_config_are_given_up(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    fake(lambda config: 0.5)

    def never(*arguments: Any) -> None:
        raise ConfigError("these do not go together")

    monkeypatch.setattr(search_module, "resolve", never)
    with pytest.raises(ConfigError, match=r"no valid combination is left for trial0000.*these do not go together"):
        run_sweep(write(method="tpe", trials=2, parameters={"optim.lr": [0.1, 0.2]}), tmp_path / "out", quiet=True)


def test_trials_below_the_median_are_pruned(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    training = fake(lambda config: 1 - int(config.name[-1]) / 10, epochs=4)  # each trial worse than the one before
    path = write({"phases": [{"epochs": 4}]}, **TPE, prune={"warmup_epochs": 2, "startup_trials": 2})
    assert run_sweep(path, tmp_path / "out", quiet=True) == 0
    assert told(tmp_path / "out") == ["COMPLETE"] * 2 + ["PRUNED"] * 4
    pruned = json.loads((tmp_path / "out" / "trial0002-seed0" / "pruned.json").read_text())
    assert (pruned["epoch"], pruned["val_accuracy"]) == (2, pytest.approx(0.4))
    assert "pruned after epoch 2 at val 40.00%" in (tmp_path / "out" / "table.md").read_text()
    assert len(training.trained) == 6
    # Optuna was told, so a trial is over, also for a machine with other threads.
    engine = {**tiny_raw()["engine"], "threads": 2}
    again = write({"phases": [{"epochs": 4}], "engine": engine}, **TPE, prune={"warmup_epochs": 2, "startup_trials": 2})
    _, directory, cells = prepare(again, tmp_path / "out")
    time.sleep(0.02)
    assert [directory.state(cell, 0).kind for cell in cells] == ["done"] * 2 + ["pruned"] * 4


def test_of_trials_in_random_order_half_are_kept(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    """Optuna's pruner compares with the trials that it kept alone, so that its bar rises: it would keep 12 of 60."""
    pytest.importorskip("optuna")
    order = np.random.default_rng(0).permutation(60)
    fake(lambda config: (1 + order[int(config.name[-4:])]) / 100, epochs=2)
    path = write({"phases": [{"epochs": 2}]}, **{**TPE, "trials": 60, "random_trials": 59}, prune={"warmup_epochs": 1})
    assert run_sweep(path, tmp_path / "out", quiet=True) == 0
    earlier = [order[:number] for number in range(60)]
    expected = [len(old) < 5 or order[number] >= np.median(old) for number, old in enumerate(earlier)]
    assert [state == "COMPLETE" for state in told(tmp_path / "out")] == expected
    assert sum(expected) > 25


def test_the_pruner_looks_at_the_first_seed_until_its_last_epoch(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path
) -> None:
    """A later seed's early epochs lie below the first one's last; they say nothing against the trial."""
    pytest.importorskip("optuna")
    training = fake(lambda config: 1 - int(config.name[-1]) / 10, epochs=4)
    changes = {**TPE, "trials": 4, "prune": {"warmup_epochs": 4, "startup_trials": 2}}
    assert run_sweep(write({"phases": [{"epochs": 4}]}, **changes, seeds=[0, 1]), tmp_path / "out", quiet=True) == 0
    assert told(tmp_path / "out") == ["COMPLETE"] * 2 + ["PRUNED"] * 2
    assert training.trained[:4] == ["trial0000-seed0", "trial0000-seed1", "trial0001-seed0", "trial0001-seed1"]
    assert training.trained[4:] == ["trial0002-seed0", "trial0003-seed0"]  # pruned at the last epoch: the second seed is saved


def test_a_picture_of_many_cells_written_by_hand_shows_the_best(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(table_module, "draw_cells", lambda cells, title: drawn.append((cells, title)))
    monkeypatch.setattr(table_module, "save", lambda figure, path: None)
    fake(lambda config: config.optim.lr / 100, pictures=True)
    cells = [{"label": f"c{number}", "optim.lr": float(number)} for number in range(1, 43)]
    assert run_sweep(write(cells=cells), tmp_path / "out", quiet=True) == 0
    shown, title = drawn[-1]
    assert [name for name, _ in shown] == [f"c{number}" for number in range(42, 2, -1)]
    assert "42 of 42 cells" in title
    assert "the best 40" in title


def diverges_above_1(config: Config) -> float:
    if config.optim.lr > 1:
        raise DivergedError("loss is not finite")
    return 0.5


def test_a_mended_cell_is_tried_again_without_being_asked(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(diverges_above_1)
    cells = [{"label": "a", "optim.lr": 0.1}, {"label": "b", "optim.lr": 5.0}]
    assert run_sweep(write(cells=cells), tmp_path / "out") == 5
    assert "1 run failed and will be skipped unless retried" in capsys.readouterr().out
    assert "optim" in (tmp_path / "out" / "b-seed0" / "config.yaml").read_text()  # it had begun
    cells[1]["optim.lr"] = 0.2
    assert "1 of 2 runs done" in run_module.show(write(cells=cells), tmp_path / "out")
    assert run_sweep(write(cells=cells), tmp_path / "out", quiet=True) == 0
    assert Run(tmp_path / "out" / "b-seed0").config().optim.lr == 0.2
    assert Run(tmp_path / "out" / "set_aside" / "b-seed0.0").config().optim.lr == 5.0
    cells[1]["optim.lr"] = 0.3  # of a run that did not fail: still refused
    with pytest.raises(ConfigError, match="b-seed0 was trained with other settings"):
        run_sweep(write(cells=cells), tmp_path / "out", quiet=True)


def test_a_run_that_failed_goes_on_with_settings_that_do_not_matter_to_it(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path
) -> None:
    """As smaller batches of evaluation after memory ran out: what it has trained is kept."""

    def out_of_memory(config: Config) -> float:
        if config.engine.eval_batch_size > 100:
            raise torch.OutOfMemoryError("no memory")
        return 0.5

    fake(out_of_memory)
    cells = [{"label": "a"}]
    assert run_sweep(write({"engine": {"eval_batch_size": 500}}, cells=cells), tmp_path / "out", quiet=True) == 1
    (tmp_path / "out" / "a-seed0" / "last.pt").write_bytes(b"eight epochs")
    assert run_sweep(write({"engine": {"eval_batch_size": 50}}, cells=cells), tmp_path / "out", quiet=True) == 0
    assert (tmp_path / "out" / "a-seed0" / "last.pt").read_bytes() == b"eight epochs"
    assert not (tmp_path / "out" / "set_aside").exists()


def test_a_failure_of_newer_settings_than_ours_is_left_alone(write: Write, tmp_path: Path) -> None:
    """Or a worker that read the sweep before it was mended, and one that read it after, would set each other's runs aside."""
    old, new = ({"label": "a", "optim.lr": rate} for rate in (5.0, 0.2))
    sweep = load_sweep(write(cells=[old]))
    place, cell = SweepDirectory(sweep, tmp_path / "out"), plan(sweep)[0]
    newer = load_sweep(write(cells=[new]))
    time.sleep(0.02)
    SweepDirectory(newer, tmp_path / "out").record(plan(newer)[0], 0, "failed.json", {"reason": "x", "exit_code": 5})
    assert place.state(cell, 0).kind == "failed"
    assert not place.was_mended(cell, 0)
    assert SweepDirectory(sweep, tmp_path / "out").state(cell, 0).kind == "open"  # one that starts now knows no better


def test_a_mended_run_that_somebody_trains_by_hand_is_left_to_them(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path
) -> None:
    fake(diverges_above_1)
    assert run_sweep(write(cells=[{"label": "a", "optim.lr": 5.0}]), tmp_path / "out", quiet=True) == 5
    mended = write(cells=[{"label": "a", "optim.lr": 0.1}])
    with locked(tmp_path / "out" / "a-seed0"):
        run_sweep(mended, tmp_path / "out", quiet=True)
    assert not list((tmp_path / "out").glob("set_aside/*"))
    assert run_sweep(mended, tmp_path / "out", quiet=True) == 0


def test_retrying_what_failed_sets_a_mended_cells_run_aside_too(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path
) -> None:
    fake(diverges_above_1)
    assert run_sweep(write(cells=[{"label": "a", "optim.lr": 5.0}]), tmp_path / "out", quiet=True) == 5
    assert run_sweep(write(cells=[{"label": "a", "optim.lr": 0.1}]), tmp_path / "out", quiet=True, retry_failed=True) == 0
    assert (tmp_path / "out" / "set_aside" / "a-seed0.0" / "failed.json").exists()


def test_a_cell_that_failed_before_it_began_trains_once_it_is_mended(write: Write, tmp_path: Path) -> None:
    cells = [{"label": "a", "optim.lr": 0.1}, {"label": "b", "optim.lr": 0.2, "freeze": "bakcbone"}]
    assert run_sweep(write(cells=cells), tmp_path / "out", quiet=True) == 2
    cells[1]["freeze"] = "none"
    assert run_sweep(write(cells=cells), tmp_path / "out", quiet=True) == 0
    assert (tmp_path / "out" / "b-seed0" / "summary.json").exists()
    assert not (tmp_path / "out" / "b-seed0" / "failed.json").exists()


def test_a_folder_of_other_files_is_one_cells_fault(write: Write, tmp_path: Path) -> None:
    place = tmp_path / "out"
    (place / "a-seed0").mkdir(parents=True)
    (place / "a-seed0" / "notes.txt").write_text("x")
    cells = [{"label": "a", "optim.lr": 0.1}, {"label": "b", "optim.lr": 0.2}]
    assert run_sweep(write(cells=cells), place, quiet=True) == 4
    assert (place / "b-seed0" / "summary.json").exists()
    assert "is not empty and is not a run directory (contains notes.txt, ...)" in (place / "table.md").read_text()


def test_the_folder_of_another_sweep_is_refused(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    fake(lambda config: 0.5)
    assert run_sweep(write(cells=[{"label": "a"}]), tmp_path / "out", quiet=True) == 0
    table = (tmp_path / "out" / "table.md").read_bytes()
    other = write(name="other", cells=[{"label": "b"}])
    for attempt in (lambda: run_sweep(other, tmp_path / "out", quiet=True), lambda: run_module.show(other, tmp_path / "out")):
        with pytest.raises(ConfigError, match=r"out is the folder of the sweep s, not of other"):
            attempt()
    assert (tmp_path / "out" / "table.md").read_bytes() == table


def test_pipelines_are_built_before_anything_trains(write: Write, tmp_path: Path) -> None:
    augment = {"engine": "albumentations", "pipeline": [{"name": "HorizontalFlop", "p": 0.5}]}
    with pytest.raises(ConfigError, match=r"HorizontalFlop.*\(in b\)"):
        plan(load_sweep(write(cells=[{"label": "a"}, {"label": "b", "augment": augment}])))


@pytest.mark.parametrize(
    ("epochs", "prune", "message"),
    [
        (2, {"warmup_epochs": 1}, "prune.startup_trials 5 leaves none of the 4 trials to stop"),
        (
            2,
            {"warmup_epochs": 2, "startup_trials": 1},
            "prune.warmup_epochs 2 lets every trial of 2 epochs finish: lower",
        ),
        (
            1,
            {"warmup_epochs": 1, "startup_trials": 1},
            "prune.warmup_epochs 1 lets every trial of 1 epoch finish: drop",
        ),
    ],
)
def test_a_pruner_that_would_stop_nothing_is_refused(write: Write, epochs: int, prune: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(load_sweep(write({"phases": [{"epochs": epochs}]}, **{**TPE, "trials": 4, "prune": prune})))


def test_tpe_learns_where_random_does_not(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    pytest.importorskip("optuna")

    def distance(settings: dict[str, Any]) -> float:
        return abs(math.log10(settings["optim.lr"]) + 2)  # the best rate is 0.01, the space spans four decades around it

    fake(lambda config: 1 - abs(math.log10(config.optim.lr) + 2) / 4)
    space = {"optim.lr": {"low": 1e-4, "high": 1.0, "log": True}}
    sweep = write(method="tpe", trials=30, random_trials=8, parameters=space)
    assert run_sweep(sweep, tmp_path / "out", quiet=True) == 0
    distances = [distance(one) for one in settings_of(tmp_path / "out")]
    assert np.mean(distances[:8]) > 0.8  # at random 1.0, with a standard deviation of 0.2
    assert np.mean(distances[8:]) < 0.65  # at random 1.0, with one of 0.12


@pytest.mark.parametrize("old", [False, True], ids=["a file", "the dangling link of an earlier version"])
def test_the_journals_lock_outlives_no_killed_worker(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    """In a relative folder, as by default."""
    optuna_file = pytest.importorskip("optuna.storages.journal._file")
    ticks = iter(range(0, 1000, 5))  # the test fails when they are used up; without them it would wait for ever
    monkeypatch.setattr(optuna_file, "time", SimpleNamespace(monotonic=lambda: next(ticks), sleep=lambda seconds: None))
    monkeypatch.chdir(tmp_path)
    fake(lambda config: 0.5)
    lock = Path("out/trials/journal.log.lock")
    lock.parent.mkdir(parents=True)
    if old:
        lock.symlink_to("out/trials/journal.log")
    else:
        lock.touch()
    assert run_sweep(write(**{**TPE, "trials": 2}), Path("out"), quiet=True) == 0
    assert told(tmp_path / "out") == ["COMPLETE"] * 2
    assert not lock.exists()


def test_a_journal_cut_off_in_its_last_line_goes_on(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    fake(lambda config: 0.5)
    place = tmp_path / "out"
    run_sweep(write(**{**TPE, "trials": 4}), place, quiet=True)
    journal = place / "trials" / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":')
    assert run_sweep(write(**{**TPE, "trials": 5}), place) == 0
    assert f"{journal}: its last line was cut off (11 bytes) and is dropped; the whole lines go on" in capsys.readouterr().out
    assert journal.read_bytes().startswith(whole)
    assert [trial.state.name for trial in study_of(place).trials] == ["COMPLETE"] * 5
    journal.write_bytes(b"no entry\n" + whole)
    with pytest.raises(CheckpointError, match=r"journal\.log is damaged .*restore it, or remove"):
        run_sweep(write(**{**TPE, "trials": 6}), place, quiet=True)
    journal.unlink()
    with pytest.raises(UserError, match=r"journal\.log is missing, but 5 trials stood in it: restore it"):
        run_sweep(write(**{**TPE, "trials": 6}), place, quiet=True)


def test_tpe_keeps_away_from_what_diverges(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    """The best rate lies at the edge of what diverges, as it often does; half of the space diverges."""
    pytest.importorskip("optuna")

    def accuracy(config: Config) -> float:
        if config.optim.lr > 0.01:
            raise DivergedError("not finite")
        return 1 + math.log10(config.optim.lr) / 4

    fake(accuracy)
    space = {"optim.lr": {"low": 1e-4, "high": 1.0, "log": True}}
    sweep = write(method="tpe", trials=30, random_trials=8, parameters=space)
    assert run_sweep(sweep, tmp_path / "out", quiet=True) == 5
    diverged = [one["optim.lr"] > 0.01 for one in settings_of(tmp_path / "out")]
    assert sum(diverged[8:]) < 15  # of 22; over seeds 9 ± 2, where TPE is told nothing of them 18 ± 1.4


# --------------------------------------------------------------------------------------------------------------- command line


def one_line(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["sweep", *(str(argument) for argument in arguments)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_list_trains_and_writes_nothing(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = fake(lambda config: 0.5)
    path, place = write(parameters=LR_WIDTHS, seeds=[0, 1]), tmp_path / "out"
    assert main(["sweep", str(path), "--output", str(place), "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cell                    parameters  state",
        "lr-0.1_widths-8-16-32       20,034  open",
        "lr-0.1_widths-8-8-8          4,114  open",
        "lr-0.05_widths-8-16-32      20,034  open",
        "lr-0.05_widths-8-8-8         4,114  open",
        "4 cells, 2 seeds: 0 of 8 runs done",
    ]
    assert not place.exists()
    assert training.trained == []


def test_table_alone(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    fake(lambda config: 0.5, pictures=True)
    path, place = write(parameters=LR_WIDTHS), tmp_path / "out"
    assert main(["sweep", str(path), "--output", str(place)]) == 0
    before = (place / "table.csv").read_bytes()
    for name in ("table.csv", "table.md", "best.yaml", "sweep.png"):
        (place / name).unlink()
    training = fake(lambda config: 0.6, pictures=True)
    assert main(["sweep", str(path), "--output", str(place), "--table"]) == 0
    assert (place / "table.csv").read_bytes() == before
    assert {"table.md", "best.yaml", "sweep.png"} <= {path.name for path in place.iterdir()}
    assert training.trained == []


def test_wrong_use_is_one_line(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(parameters=LR_WIDTHS)
    assert "--jobs and --slurm have no effect without --submit" in one_line(capsys, 2, path, "--jobs", 2)
    assert "--submit needs --jobs N" in one_line(capsys, 2, path, "--submit", "local")
    wrong = (path, "--submit", "slurm", "--jobs", 1, "--slurm")
    assert "expected key=value such as partition=gpu, got 'gpu'" in one_line(capsys, 2, *wrong, "gpu")
    assert "time is given twice" in one_line(capsys, 2, *wrong, "time=1", "time=2")
    assert "--slurm has no effect with --submit local" in one_line(
        capsys, 2, path, "--submit", "local", "--jobs", 1, "--slurm", "time=1"
    )
    assert "unknown key" in one_line(capsys, 2, write(parameters={"optim.lrr": [1]}), "--list")


def test_submit_without_submitit_names_the_extra(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    path = write(parameters=LR_WIDTHS)
    line = one_line(capsys, 2, path, "--output", tmp_path / "out", "--submit", "local", "--jobs", 1)
    assert "pip install 'cifar_small[sweep]'" in line


def test_slurm_off_cluster_is_one_line(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write(parameters=LR_WIDTHS)
    arguments = (path, "--output", tmp_path / "out", "--submit", "slurm", "--jobs", 2)
    assert "this machine has no sbatch and srun; submit from a login node" in one_line(capsys, 2, *arguments)
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    assert "use --slurm time=MINUTES" in one_line(capsys, 2, *arguments)
    assert "submitit refuses" in one_line(capsys, 2, *arguments, "--slurm", "time=5", "partiton=gpu")


def test_time_limits_do_not_end_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit counts a job as failed at its fourth time limit, unless its executor was built otherwise."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(cluster.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert submitit.AutoExecutor(tmp_path, cluster="slurm")._executor.max_num_timeout == 3
    executor = cluster._executor(SweepDirectory(tmp_path), "slurm")
    assert executor._executor.max_num_timeout == cluster.TIMEOUTS > 1000


def test_submitit_workers_do_the_sweep(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(ROOT)
    path, place = write(parameters={"optim.lr": [0.1, 0.2]}), tmp_path / "out"
    assert main(["sweep", str(path), "--output", str(place), "--submit", "local", "--jobs", "2"]) == 0
    runs = [Run(place / f"lr-{lr}-seed0") for lr in (0.1, 0.2)]
    assert [len(run.sessions()) for run in runs] == [1, 1]
    assert "--submit local" in runs[0].sessions()[0].command
    assert "best on val: lr-0." in capsys.readouterr().out


def test_workers_find_a_sweep_that_comes_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[cluster.Job] = []
    monkeypatch.setattr(cluster, "_executor", lambda *given: None)
    monkeypatch.setattr(cluster, "_configure", lambda *given: None)
    monkeypatch.setattr(cluster, "_send", lambda executor, job, jobs, gpus: sent.append(job) or [])
    monkeypatch.chdir(tmp_path)
    folder = Path("out")
    cluster.submit_workers(Path("sweeps/ablation_augment"), folder, cluster="slurm", jobs=1, settings={}, command="")
    assert sent[0].path.is_absolute()
    assert sent[0].path.is_file()
    assert sent[0].folder == tmp_path / "out"


def test_the_error_of_a_worker_that_failed_is_said_and_not_where_its_logs_are() -> None:
    submitit = pytest.importorskip("submitit")
    tail = (
        "You can check full logs with 'job.stderr(0)' and 'job.stdout(0)' or at paths:\n  - /x/1_0_log.err\n  - /x/1_0_log.out"
    )
    assert "You can check full logs" in inspect.getsource(submitit.core.core)
    trace = (
        "Job (task=0) failed during processing with trace:\n----\nTraceback (most recent call last):\nDataError: no such folder"
    )
    error = submitit.core.utils.FailedJobError(f"{trace}\n\n{'-' * 22}\n{tail}")
    assert cluster._reason(error) == "DataError: no such folder"
    assert cluster._reason(submitit.core.utils.UncompletedJobError("Job 1 was\nkilled")) == "killed"


def test_workers_of_a_machine_with_gpus_see_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit hides all GPUs from local jobs that ask for none."""
    asked: list[Any] = []
    executor = SimpleNamespace(update_parameters=lambda **given: asked.append(given), submit=lambda job: job)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    job = cluster.Job(Path("sweep.yaml"), Path("out"), "")
    assert cluster._send(executor, job, 3, cluster.visible_gpus()) == [job] * 3
    assert asked == [{"gpus_per_node": 1, "local_visible_gpus": [gpu]} for gpu in (0, 1, 0)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert cluster.visible_gpus() == [5, 7]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5c1e,GPU-77aa")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES names the GPU 'GPU-5c1e'; expected numbers"):
        cluster.visible_gpus()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cluster.visible_gpus() == []


# ---------------------------------------------------------------------------------------------------- sweeps of the repository


def test_the_repositorys_sweeps() -> None:
    ablation = load_sweep(ROOT / "configs/sweeps/ablation_augment.yaml")
    cells = plan(ablation)
    assert [cell.name for cell in cells] == ["crop_flip", "cutout", "mixup", "cutmix", "ema"]
    assert (ablation.seeds, {cell.parameters for cell in cells}) == ((0, 1, 2), {309_738})
    grid = plan(load_sweep(ROOT / "configs/sweeps/resnet44_grid.yaml"))
    assert (len(grid), len({cell.name for cell in grid})) == (256, 256)
    assert grid[-1].name == "batch_size-512_gamma-0.5_weight_decay-0.001_milestones-125-175"
    assert {cell.parameters for cell in grid} == {4_985_390}
    for path in (ROOT / "configs/sweeps").glob("*.yaml"):
        text = path.read_text()
        assert "command     cifar-small sweep configs/sweeps/" in text
        assert "measured    " in text


def test_pictures_of_many_cells_and_of_ranges(write: Write, fake: Callable[..., FakeTraining], tmp_path: Path) -> None:
    fake(lambda config: 0.5 + config.optim.lr / 10 - config.label_smoothing / 10 + config.augment.cutout / 100, pictures=True)
    parameters = {"optim.lr": [0.1, 0.2], "label_smoothing": [0.0, 0.1], "augment.cutout": [0, 8]}
    run_sweep(write(parameters=parameters), tmp_path / "grid", quiet=True)
    run_sweep(write(method="random", trials=12, parameters=SPACES), tmp_path / "random", quiet=True)
    for name in ("grid", "random"):
        assert (tmp_path / name / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_picture_of_marginal_means_is_given(
    write: Write, fake: Callable[..., FakeTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole cells only: means over different seeds are no fair comparison."""
    drawn: list[Any] = []
    monkeypatch.setattr(table_module, "draw_marginals", lambda panels, title: drawn.append((panels, title)))
    monkeypatch.setattr(table_module, "save", lambda figure, path: None)
    fake(
        lambda config: config.optim.lr - config.label_smoothing + config.augment.cutout / 100 + config.seed / 10, pictures=True
    )
    parameters = {"optim.lr": [0.2, 0.4], "label_smoothing": [0.0, 0.1], "augment.cutout": [0, 8]}
    path = write(parameters=parameters, seeds=[0, 1])
    run_sweep(path, tmp_path / "out", quiet=True)
    panels, title = drawn[-1]
    assert "8 of 8 cells, 2 seeds" in title
    assert [panel.name for panel in panels] == list(parameters)
    assert [panel.labels for panel in panels] == [["0.2", "0.4"], ["0", "0.1"], ["0", "8"]]
    points = zip(*(panel.values for panel in panels), strict=True)
    found = dict(zip(points, panels[0].heights, strict=True))
    assert found[(1, 0, 1)] == pytest.approx(100 * (0.4 - 0.0 + 0.08 + 0.05))
    assert found[(0, 1, 0)] == pytest.approx(100 * (0.2 - 0.1 + 0.0 + 0.05))
    sweep, place, cells = run_module.prepare(path, tmp_path / "out")
    place.run(cells[0], 1).summary_file.unlink()
    run_module.finish(sweep, place, cells, quiet=True)
    panels, title = drawn[-1]
    assert "7 of 8 cells" in title
    assert all(len(panel.heights) == len(panel.values) == 7 for panel in panels)


def test_the_means_that_are_drawn() -> None:
    """Of choices the mean at each, of numbers that of each fifth of the cells."""
    numbers = [float(value) for value in range(10)]
    choice = plots.Dots("flip", [0, 0, 1], [80.0, 82.0, 90.0], ["none", "random"])
    scale = plots.Dots("lr", numbers, [10 * value for value in numbers])
    for panel, expected in (
        (choice, ([0, 1], [81.0, 90.0])),
        (scale, ([0.5, 2.5, 4.5, 6.5, 8.5], [5.0, 25.0, 45.0, 65.0, 85.0])),
    ):
        means = plots.draw_marginals([panel], "title").axes[0].lines[1]
        assert (list(means.get_xdata()), list(means.get_ydata())) == expected


def test_where_sweeps_go(write: Write) -> None:
    parameters = {"optim.lr": [0.1, 0.2]}
    assert SweepDirectory(load_sweep(write(parameters=parameters))).folder == Path("runs/s")

"""Shared by all tests: one CPU thread (nets here are tiny, and results must not depend on the machine), no CIFAR variable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_small.cli.main import main
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Config
from cifar_small.data import datamodule, load_train
from cifar_small.files import write_atomic
from cifar_small.training import summary
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer

torch.set_num_threads(1)


def tiny_raw(**changes: Any) -> dict[str, Any]:
    """A config of seconds on scikit-learn's digits, as a plain mapping; `changes` replace top-level keys."""
    return {
        "name": "tiny",
        "rules": {"max_params": 100_000, "rows": 360},
        "data": {"source": "digits", "val_size": 200, "train_limit": 256},
        "model": {"family": "resnet", "widths": [8, 16, 32], "blocks": [1, 1, 1], "strides": [2, 2, 2]},
        "batch_size": 64,
        "optim": {"lr": 0.1},
        "augment": {"crop": 2, "flip": "none"},
        "phases": [{"epochs": 2}],
        "engine": {"device": "cpu", "precision": "fp32", "threads": 1},
        **changes,
    }


@pytest.fixture
def tiny() -> Callable[..., Config]:
    """A function that makes a tiny config: `tiny(phases=[{"epochs": 1}])`."""
    return lambda **changes: parse_config(tiny_raw(**changes))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs a command line and gives its exit code and what it wrote to stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


PICTURES = ("draw_curves", "draw_confusion", "save")  # of a run that ends


@pytest.fixture(scope="session", autouse=True)
def quick_files() -> Iterator[None]:
    """Files need not reach the disk: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_runs() -> Iterator[None]:
    """Runs write files in place of pictures and read the digits once: most of a tiny run's time otherwise; see `pictures`."""
    read = cache(load_train)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_confusion"):
            patch.setattr(summary, name, lambda *_, **__: None)
        patch.setattr(summary, "save", lambda _, path: write_atomic(path, b"a picture"))
        patch.setattr(
            datamodule, "load_train", lambda data, side: read(data) if data.source == "digits" else load_train(data, side)
        )
        yield


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test draw their pictures."""
    for name in PICTURES:
        monkeypatch.setattr(summary, name, DRAWN[name])


DRAWN = {name: getattr(summary, name) for name in PICTURES}


def train_until_save(config: Config, folder: Path, saves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the checkpoint has been written `saves` times, and die there."""
    save, done = Trainer._save, []

    def killed(self: Trainer) -> None:
        save(self)
        done.append(1)
        if len(done) == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder, quiet=True)

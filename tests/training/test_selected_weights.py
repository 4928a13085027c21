"""A run whose best.pt was damaged, overwritten or removed: written again from where its weights are, or refused, unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_raw, train_until_save

from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Config
from cifar_small.errors import CheckpointError
from cifar_small.files import sha256_file
from cifar_small.inference.soup import make_soup
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import load_predictions
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def overwrite(path: Path) -> None:
    """With whole weights of another run."""
    content = load_checkpoint(path)
    save_checkpoint(path, {**content, "epoch": content["epoch"] + 40})


def alter(path: Path) -> None:
    """With other weights that say the same of themselves, which the summary's hash alone tells apart."""
    content = load_checkpoint(path)
    next(iter(content["weights"].values())).mul_(2)
    save_checkpoint(path, content)


DAMAGES = [truncate, overwrite, alter, Path.unlink]


def of(selection: str, epochs: int = 3, **engine: Any) -> Config:
    raw = tiny_raw(selection=selection, phases=[{"epochs": epochs}], ema_decay=0.9, ema_warmup=True)
    return parse_config({**raw, "engine": {**raw["engine"], **engine}})


def scripted(monkeypatch: pytest.MonkeyPatch, *accuracies: float) -> None:
    """Have epoch n score the n-th of these on val."""
    monkeypatch.setattr(Trainer, "_evaluate", lambda self: (1.0, accuracies[self.state.epoch]))


def hashes(run: Run) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in run.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("config", "accuracies", "source"),
    [
        (of("last"), (0.6, 0.5, 0.4), "last.pt"),
        (of("best"), (0.4, 0.5, 0.6), "last.pt"),
        (of("best", keep_every=1), (0.4, 0.6, 0.5), "epoch-0002.pt"),
    ],
    ids=["last", "best is last", "kept"],
)
def test_selected_weights_that_are_elsewhere_are_written_again(
    config: Config,
    accuracies: tuple[float, ...],
    source: str,
    damage: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted(monkeypatch, *accuracies)
    run = Run(tmp_path / "run")
    before, content = train(config, run.folder, quiet=True), run.best.read_bytes()
    assert before is not None
    damage(run.best)
    capsys.readouterr()
    after = train(config, run.folder, resume=True, quiet=True)
    assert run.best.read_bytes() == content
    assert f"best.pt {'is missing' if damage is Path.unlink else ''}" in (said := capsys.readouterr().out)
    assert f"; written again from {source}, the weights of epoch {before.selected_epoch}" in said
    assert after is not None
    assert after.weights_sha256 == before.weights_sha256
    assert after.val_accuracy == before.val_accuracy
    assert run.finished() == after
    assert load_predictions(run.predictions / "val.npz").meta.weights_sha256 == after.weights_sha256


@pytest.mark.parametrize("damage", DAMAGES)
def test_selected_weights_that_are_nowhere_leave_the_run_as_it_is(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.4, 0.6, 0.5)
    config, run = of("best", keep_last=1, keep_final=True), Run(tmp_path / "run")
    train(config, run.folder, quiet=True)
    damage(run.best)
    before = hashes(run)
    for _ in range(2):
        with pytest.raises(CheckpointError) as caught:
            train(config, run.folder, resume=True, quiet=True)
        assert hashes(run) == before
    assert (
        "; the selected weights, of epoch 2 with 60.00% on val, are lost: last.pt is of epoch 3, and epoch-0002.pt was not "
        "kept; the checkpoints epoch-0003, final can still be predicted with; to have them again, restore best.pt from a copy, "
        "or train again; nothing was changed"
    ) in str(caught.value)
    assert str(caught.value).startswith(f"{run.best} ")


def test_a_damaged_copy_of_the_epoch_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, 0.4, 0.6, 0.5)
    config, run = of("best", keep_every=1), Run(tmp_path / "run")
    train(config, run.folder, quiet=True)
    truncate(run.best)
    truncate(run.kept_file(2))
    with pytest.raises(CheckpointError, match=r"epoch-0002\.pt is damaged; the checkpoints epoch-0001, epoch-0003 can still"):
        train(config, run.folder, resume=True, quiet=True)


@pytest.mark.parametrize(("third", "selected"), [(0.7, 3), (0.5, None)])
def test_before_the_end_a_better_epoch_may_take_the_place(
    third: float, selected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, 0.6, 0.5, third)
    config, run = of("best"), Run(tmp_path / "run")
    train_until_save(config, run.folder, 2, monkeypatch)
    truncate(run.best)
    if selected is None:
        with pytest.raises(CheckpointError, match=r"best\.pt .*truncated.*of epoch 1 with 60.00% on val, are lost"):
            train(config, run.folder, resume=True, quiet=True)
        assert run.summary() is None
    else:
        summary = train(config, run.folder, resume=True, quiet=True)
        assert summary is not None
        assert summary.selected_epoch == selected
    assert "warning: " in (said := capsys.readouterr().out)
    assert "or a later epoch must be better, to be selected" in said


def test_within_an_epoch_the_last_weights_are_those_of_that_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = of("last", checkpoint_steps=1), Run(tmp_path / "run")
    train_until_save(config, run.folder, 6, monkeypatch)  # of 4 steps an epoch
    assert load_checkpoint(run.last)["step"] > 0
    truncate(run.best)
    summary = train(config, run.folder, resume=True, quiet=True)
    assert summary is not None
    assert (summary.selected_epoch, run.finished()) == (3, summary)


def test_without_last_pt_there_is_nothing_to_write_it_from(tmp_path: Path) -> None:
    config, run = of("last"), Run(tmp_path / "run")
    whole = train(config, run.folder, quiet=True)
    run.last.unlink()
    run.previous.unlink()
    assert train(config, run.folder, resume=True, quiet=True) == whole
    with pytest.raises(CheckpointError, match=r"has ended, and there is no last\.pt to go on from; start a new run from its"):
        train(of("last", 4), run.folder, resume=True, quiet=True)
    truncate(run.best)
    before = hashes(run)
    with pytest.raises(CheckpointError, match=r"best\.pt .*is truncated.*there is no last\.pt to write it again from"):
        train(config, run.folder, resume=True, quiet=True)
    assert hashes(run) == before


def test_a_soup_is_made_again(tmp_path: Path) -> None:
    runs = [Run(tmp_path / name) for name in ("one", "other")]
    for run, seed in zip(runs, (0, 1), strict=True):
        train(parse_config(tiny_raw(seed=seed, phases=[{"epochs": 1}])), run.folder, quiet=True)
    soup = Run(tmp_path / "soup")
    make_soup(runs, soup)
    truncate(soup.best)
    with pytest.raises(CheckpointError, match=r"best\.pt .*is truncated.*a soup is not trained.*again from its members"):
        train(soup.config(), soup.folder, resume=True, quiet=True)
    shutil.rmtree(soup.folder)

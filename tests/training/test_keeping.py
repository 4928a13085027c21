"""Weights kept beside best.pt: which files there are after any epoch, kill or change of mind, and what can be done with one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw, train_until_save
from hypothesis import given
from hypothesis import strategies as st

import cifar_small.runs.keeping as keeping
from cifar_small.cli.main import main
from cifar_small.config.hashing import config_hash, recipe_hash
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Config, Engine
from cifar_small.data import load_test, write_unlabelled
from cifar_small.errors import CheckpointError, ConfigError, DiskError
from cifar_small.inference.predict import load_net, predict
from cifar_small.reporting.results import render_results
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.keeping import copies_kept, epochs_to_keep, keep_epoch
from cifar_small.runs.predictions import load_predictions
from cifar_small.runs.recording import write_record
from cifar_small.submission.submission_file import submit
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer


def keeps(epochs: int = 5, **engine: Any) -> Config:
    plain = {"device": "cpu", "precision": "fp32", "threads": 1}
    return parse_config(tiny_raw(phases=[{"epochs": epochs}], engine={**plain, **engine}))


def there(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(("epoch", "final")))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[list[str]], dict[int, torch.Tensor]]:
    """A run of 5 epochs that keeps every 2nd, the last 2 and the end; the files after each epoch; each epoch's fc.weight."""
    run, seen, weights = Run(tmp_path_factory.mktemp("keeping") / "run"), [], {}
    evaluate = Trainer._evaluate

    def recorded(self: Trainer) -> tuple[float, float]:
        weights[self.state.epoch + 1] = self.state.model.fc.weight.detach().clone()  # type: ignore[union-attr]
        return evaluate(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_evaluate", recorded)
        config = keeps(keep_every=2, keep_last=2, keep_final=True)
        train(config, run.folder, quiet=True, on_epoch=lambda row: seen.append(there(run.folder)))
    return run, seen, weights


@pytest.fixture
def run(trained: tuple[Run, Any, Any], tmp_path: Path) -> Run:
    """A copy of the trained run, for a test to do with as it likes."""
    return Run(shutil.copytree(trained[0].folder, tmp_path / "run"))


# ------------------------------------------------------------------------------------------------------------ what is there


@given(every=st.none() | st.integers(1, 9), last=st.none() | st.integers(1, 9), epochs=st.integers(1, 40))
def test_kept_epochs_are_multiples_and_the_last(every: int | None, last: int | None, epochs: int) -> None:
    kept = epochs_to_keep(Engine(keep_every=every, keep_last=last), epochs)
    by_hand = {
        epoch
        for epoch in range(1, epochs + 1)
        if (every and epoch % every == 0) or (last and epoch > epochs - last)
    }  # fmt: skip
    assert kept == by_hand
    before = epochs_to_keep(Engine(keep_every=every, keep_last=last), epochs - 1)
    assert kept <= before | {epochs}  # nothing has to be made later
    assert copies_kept(Engine(keep_every=every, keep_last=last), epochs) >= len(kept)


def test_files_after_each_epoch(trained: tuple[Run, list[list[str]], Any]) -> None:
    run, seen, _ = trained
    assert seen == [
        ["epoch-0001.pt"],
        ["epoch-0001.pt", "epoch-0002.pt"],
        ["epoch-0002.pt", "epoch-0003.pt"],
        ["epoch-0002.pt", "epoch-0003.pt", "epoch-0004.pt"],
        ["epoch-0002.pt", "epoch-0004.pt", "epoch-0005.pt"],
    ]
    assert there(run.folder) == [*seen[-1], "final.pt"]


def test_a_kept_file_holds_the_weights_of_its_epoch_and_no_optimizer(
    trained: tuple[Run, Any, dict[int, torch.Tensor]],
) -> None:
    run, _, weights = trained
    for name, epoch in (("epoch-0002", 2), ("epoch-0004", 4), ("epoch-0005", 5), ("final", 5)):
        state = load_checkpoint(run.folder / f"{name}.pt")
        assert torch.equal(state["weights"]["fc.weight"], weights[epoch])
        assert state["epoch"] == epoch
        assert state.keys() == load_checkpoint(run.best).keys()
        assert "optimizer" not in state
        assert (run.folder / f"{name}.pt").stat().st_size < 0.7 * run.last.stat().st_size
        rows = run.metrics_file.read_text().splitlines()
        assert rows[epoch].split(",")[rows[0].split(",").index("val_accuracy")] == str(state["val_accuracy"])


@pytest.mark.parametrize("saves", [2, 3])
def test_killed_after_any_save_and_resumed_leaves_the_same_files(
    trained: tuple[Run, Any, Any], saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = keeps(keep_every=2, keep_last=2, keep_final=True)
    train_until_save(config, tmp_path / "run", saves, monkeypatch)
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert there(tmp_path / "run") == there(trained[0].folder)
    for name in there(tmp_path / "run"):
        assert (tmp_path / "run" / name).read_bytes() == (trained[0].folder / name).read_bytes()


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_killed_around_a_kept_file_loses_none_and_leaves_none_too_many(
    trained: tuple[Run, Any, Any], moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At epoch 4: before its file is written, between that and the removal of an older one, and after both."""
    config, folder = keeps(keep_every=2, keep_last=2, keep_final=True), tmp_path / "run"

    def killed(run: Run, engine: Engine, epoch: int, content: dict[str, Any]) -> None:
        if epoch < 4:
            return keep_epoch(run, engine, epoch, content)
        if moment == "between":
            save_checkpoint(run.kept_file(epoch), content)
        elif moment == "after":
            keep_epoch(run, engine, epoch, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cifar_small.training.checkpointing.keep_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder, quiet=True)
    left = {"before": ["0002", "0003"], "between": ["0002", "0003", "0004"], "after": ["0002", "0003", "0004"]}
    assert there(folder) == [f"epoch-{epoch}.pt" for epoch in left[moment]]
    assert load_checkpoint(folder / "last.pt")["epoch"] == 3
    train(config, folder, resume=True, quiet=True)
    assert there(folder) == there(trained[0].folder)


@pytest.mark.parametrize("counted", [False, True])
def test_weights_of_an_epoch_that_the_run_does_not_count_are_not_its_best(
    counted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in epoch 2's saving, before or after last.pt counts it; trained again, as on a GPU, the epoch turns out worse."""
    config, folder = keeps(), tmp_path / "run"

    def killed(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
        if path.name == "last.pt" and state["epoch"] == 2:
            if counted:
                save_checkpoint(path, state, previous)
            raise KeyboardInterrupt
        save_checkpoint(path, state, previous)

    with monkeypatch.context() as patched:
        patched.setattr("cifar_small.training.checkpointing.save_checkpoint", killed)
        patched.setattr(Trainer, "_evaluate", lambda self: (1.0, 0.5 + 0.1 * self.state.epoch))
        with pytest.raises(KeyboardInterrupt):
            train(config, folder, quiet=True)
    assert load_checkpoint(folder / "best.pt")["epoch"] == 1
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_evaluate", lambda self: (1.0, 0.1))
        summary = train(config, folder, resume=True, quiet=True)
    assert summary.selected_epoch == load_checkpoint(folder / "best.pt")["epoch"] == (2 if counted else 1)
    assert not Run(folder).next_best.exists()


def test_weights_of_a_first_epoch_that_was_killed_are_not_those_of_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start, perhaps of another config, stops within its first epoch."""
    folder = tmp_path / "run"

    def killed(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
        if path.name == "last.pt":
            raise KeyboardInterrupt
        save_checkpoint(path, state, previous)

    with monkeypatch.context() as patched:
        patched.setattr("cifar_small.training.checkpointing.save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train(keeps(), folder, quiet=True)
    assert Run(folder).next_best.exists()
    train_until_save(keeps(checkpoint_steps=1), folder, 1, monkeypatch)
    assert load_checkpoint(folder / "last.pt")["epoch"] == 0
    assert not (folder / "best.pt").exists()
    assert not Run(folder).next_best.exists()


@pytest.mark.parametrize("begun", [True, False])
def test_a_resumed_run_needs_no_space_for_what_it_has(begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = keeps(keep_every=2, keep_last=2, keep_final=True), Run(tmp_path / "run")
    train_until_save(config, run.folder, 3, monkeypatch)
    size = sum(tensor.numel() * tensor.element_size() for tensor in load_checkpoint(run.best)["weights"].values())
    needed = (17 + copies_kept(config.engine, 5)) * size
    free = needed - run.checkpoints_size()
    assert 5 * size < free < needed
    monkeypatch.setattr("cifar_small.runs.directory.shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    if begun:
        assert train(config, run.folder, resume=True, quiet=True).epochs == 5
    else:
        with pytest.raises(DiskError, match=r"MB free; checkpoints need .* MB; free some space"):
            train(config, tmp_path / "fresh", quiet=True)


def test_going_back_to_an_earlier_checkpoint_drops_the_files_of_later_epochs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("last.pt", "summary.json"):
        (run.folder / name).unlink()  # previous.pt is of epoch 4
    (run.folder / "epoch-0007.pt").write_bytes(b"of a longer run that went wrong")
    train(keeps(keep_every=2, keep_last=2, keep_final=True), run.folder, resume=True, quiet=True)
    assert there(run.folder) == ["epoch-0002.pt", "epoch-0004.pt", "epoch-0005.pt", "final.pt"]


def test_a_full_disk_keeps_what_was_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: dict[str, Any]) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(keeping, "save_checkpoint", full)
    before = there(run.folder)
    with pytest.raises(OSError, match="No space"):
        keep_epoch(run, Engine(keep_last=1), 6, {})
    assert there(run.folder) == before


def test_files_of_others_are_left_alone(run: Run) -> None:
    names = ["epoch-notes.pt", "epoch-00003.pt", "epoch-3.pt", "xepoch-0003.pt", "epoch-0003.pt.bak"]
    for name in names:
        (run.folder / name).write_text("mine")
    keep_epoch(run, Engine(keep_every=3), 5, {})
    assert run.kept_epochs() == []  # of 2, 4, 5: none is a multiple of 3
    assert all((run.folder / name).read_text() == "mine" for name in names)
    (run.folder / "epoch-12345.pt").write_text("")
    assert run.kept_epochs() == [12345]


def test_settings_are_free_to_change_and_without_any_nothing_is_removed(run: Run) -> None:
    train(keeps(6), run.folder, resume=True, quiet=True)
    assert there(run.folder) == ["epoch-0002.pt", "epoch-0004.pt", "epoch-0005.pt"]  # final.pt was of the shorter run
    train(keeps(7, keep_every=3, keep_last=1), run.folder, resume=True, quiet=True)
    assert there(run.folder) == ["epoch-0007.pt"]


def test_they_are_no_part_of_the_recipe() -> None:
    plain, keeping_some = keeps(), keeps(keep_every=2, keep_last=1, keep_final=True)
    assert recipe_hash(plain) == recipe_hash(keeping_some)
    assert config_hash(plain) == config_hash(keeps(keep_every=None, keep_last=None, keep_final=False))
    assert "keep_every" not in plain.model_dump()["engine"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": {"keep_final": True}, "selection": "last"}, "engine.keep_final has no effect with selection: last"),
        ({"engine": {"keep_every": 3}}, "engine.keep_every 3 never comes within 2 epochs"),
        ({"engine": {"keep_last": 0}}, r"engine\.keep_last: .*greater than or equal to 1"),
    ],
)
def test_settings_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(tiny_raw(**changes))


# ------------------------------------------------------------------------------------------------------ what is done with it


def test_predict_names_the_weights_in_file_meta_and_reading(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(run.folder), "--split", "test", "--checkpoint", "epoch-0002"]
    assert main(command) == 0
    assert "360 images, weights epoch-0002, views none" in capsys.readouterr().out
    assert main([*command, "--views", "flip"]) == 0
    predictions = load_predictions(run.predictions / "test_epoch-0002.npz")
    assert load_predictions(run.predictions / "test_epoch-0002_flip.npz").meta.checkpoint == "epoch-0002"
    assert (predictions.meta.checkpoint, predictions.meta.epoch) == ("epoch-0002", 2)
    net = load_net(run, "epoch-0002")
    assert predictions.meta.weights_sha256 == net.facts.weights_sha256 != load_net(run).facts.weights_sha256
    assert [one.checkpoint for one in run.test_readings()] == ["epoch-0002", "epoch-0002"]
    assert run.test_readings()[0].accuracy == predictions.accuracy
    best = predict(run, "test")[1]
    assert best.meta.checkpoint == "best"
    assert not np.array_equal(best.logits, predictions.logits)


@pytest.mark.parametrize("name", ["epoch-0003", "../run/best", "last", "2", ""])
def test_weights_that_are_not_there_are_answered_with_those_that_are(run: Run, name: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"has no checkpoint .*; expected one of best, final, epoch-0002, epoch-0004, epoch-"
    ):
        predict(run, "val", checkpoint=name)
    assert not run.test_readings()


def test_the_results_table_takes_readings_of_the_selected_weights_alone(run: Run, tmp_path: Path) -> None:
    predict(run, "test", checkpoint="epoch-0002")
    write_record(run, tmp_path / "records" / "one")
    assert "| read once with other weights or forms |" in render_results(tmp_path / "records")
    accuracy = predict(run, "test")[1].accuracy
    write_record(run, tmp_path / "records" / "one", overwrite=True)
    assert f"| {100 * accuracy:.2f} [" in render_results(tmp_path / "records")
    assert "(read 2 times)" in render_results(tmp_path / "records")


def test_a_submission_is_checked_against_the_weights_that_made_it(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "nolabel.pkl"
    write_unlabelled(file, load_test(keeps().data).images, np.arange(360))
    predictions = predict(run, "submit", file=file, checkpoint="epoch-0004")[1]
    record = submit(predictions, tmp_path / "mine" / "submission.csv", run=run)
    assert record.predictions.checkpoint == "epoch-0004"
    assert json.loads((tmp_path / "mine" / "submission.json").read_text())["predictions"]["epoch"] == 4
    shutil.copy(run.folder / "epoch-0005.pt", run.folder / "epoch-0004.pt")
    with pytest.raises(CheckpointError, match=r"was predicted with other weights than .*epoch-0004\.pt now holds"):
        submit(predictions, tmp_path / "again" / "submission.csv", run=run)
    (run.folder / "epoch-0004.pt").unlink()
    with pytest.raises(CheckpointError, match="has no checkpoint epoch-0004"):
        submit(predictions, tmp_path / "again" / "submission.csv", run=run)

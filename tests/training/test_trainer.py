"""Training runs of seconds: what they learn, write, resume and refuse."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.kill_resume import CONFIG as EVERYTHING
from benchmarks.kill_resume import fingerprint
from conftest import tiny_raw, train_until_save
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

import cifar_small.data
import cifar_small.data.datamodule
import cifar_small.training.build as build
import cifar_small.training.signals as signals
import cifar_small.training.train as whole_run
import cifar_small.training.trainer as train_module
from cifar_small.config.hashing import config_dict, dump_config
from cifar_small.config.loading import parse_config
from cifar_small.config.phases import Phase, compilations, resolve_phases
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config, PhaseSettings
from cifar_small.data.datamodule import load_datamodule
from cifar_small.errors import CheckpointError, ConfigError, DataError, DivergedError, Terminated, UserError
from cifar_small.models import build_model
from cifar_small.models.counting import count_parameters
from cifar_small.optim.schedulers import learning_rate
from cifar_small.reporting.timeline import draw_config
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.locks import locked
from cifar_small.runs.predictions import load_predictions
from cifar_small.runs.records import extension_of
from cifar_small.training.averaging import ExponentialAverage
from cifar_small.training.batches import Batch
from cifar_small.training.build import build_trainer
from cifar_small.training.summary import epoch_line
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer

Tiny = Callable[..., Config]


def everything(**changes: Any) -> Config:
    return parse_config(
        {**EVERYTHING, "phases": [{**EVERYTHING["phases"][0], "epochs": 2}, EVERYTHING["phases"][1]], **changes}
    )


def metrics(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(everything(), folder, quiet=True)
    return folder


@pytest.mark.usefixtures("pictures")
def test_learns_and_leaves_a_whole_run_directory(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(phases=[{"epochs": 6}], data={"source": "digits", "val_size": 200}, views="shift")
    summary = train(config, tmp_path / "run", command="the command")
    run = Run(tmp_path / "run")
    assert summary.val_accuracy > 0.9
    assert summary == run.summary()
    assert {path.name for path in run.folder.iterdir()} == {
        ".lock", "config.yaml", "env.json", "metrics.csv", "last.pt", "previous.pt", "best.pt", "summary.json", "curves.png",
        "confusion.png", "predictions",
    }  # fmt: skip
    predictions = load_predictions(run.predictions / "val.npz")
    assert predictions.accuracy == summary.val_accuracy
    assert predictions.meta.weights_sha256 == summary.weights_sha256
    assert run.config() == config
    assert run.sessions()[0].command == "the command"
    rows = metrics(run.folder)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert max(float(row["val_accuracy"]) for row in rows) == summary.val_accuracy_plain
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("epoch")]) == 6  # not a terminal: a line per epoch
    assert "selected by: the best epoch on val" in lines[-1]


def test_same_seed_same_bits_other_seed_other_bits(undisturbed: Path, tmp_path: Path) -> None:
    train(everything(), tmp_path / "again", quiet=True)
    train(everything(seed=1), tmp_path / "other", quiet=True)
    assert fingerprint(tmp_path / "again") == fingerprint(undisturbed)
    assert fingerprint(tmp_path / "other") != fingerprint(undisturbed)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Do something after the number-th optimizer step."""
    original, calls = Trainer.step, 0

    def step(self: Trainer, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        bad = original(self, *arguments)
        if calls == number:
            action()
        return bad

    monkeypatch.setattr(Trainer, "step", step)


# 8 steps an epoch: the first step, within an epoch, the last step of an epoch, of a phase, and of the run.
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (1, signal.SIGTERM),
        (11, signal.SIGINT),
        (8, signal.SIGUSR2),
        (10, signal.SIGUSR1),
        (12, signal.SIGHUP),
        (16, signal.SIGTERM),
    ],
)
def test_signal_saves_and_resume_is_exact(
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    number: int,
    kind: signal.Signals,
) -> None:
    folder, handler = tmp_path / "run", signal.getsignal(kind)
    if handler == signal.SIG_IGN:  # these tests run under nohup, which training respects
        handler = signal.SIG_DFL
        request.addfinalizer(partial(signal.signal, kind, signal.signal(kind, handler)))
    with monkeypatch.context() as patched:
        interrupt_at(patched, number, lambda: os.kill(os.getpid(), kind))
        with pytest.raises(Terminated, match=f"stopped by {kind.name}; the run is saved in .* and can be resumed"):
            train(everything(), folder, quiet=True)
    assert signal.getsignal(kind) is handler
    state = load_checkpoint(folder / "last.pt")
    assert 8 * state["epoch"] + state["step"] == number
    train(everything(), folder, resume=True, quiet=True)
    assert fingerprint(folder) == fingerprint(undisturbed)
    assert len(metrics(folder)) == 5
    assert len(Run(folder).sessions()) == 2


def stopped_after(steps: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patched:
        interrupt_at(patched, steps, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Terminated):
            train(everything(), folder, quiet=True)
    return folder


@pytest.mark.parametrize("part", ["optimizer", "average", "totals"])
def test_forgetting_any_part_of_the_state_shows(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The control: what the exactness tests compare does depend on each part being restored."""
    folder = stopped_after(11, tmp_path / "run", monkeypatch)
    state = load_checkpoint(folder / "last.pt")
    if part == "optimizer":
        for entry in state[part].values():
            entry["momentum_buffer"].zero_()
    elif part == "average":
        state[part] = {key: value if "n_averaged" in key else value * 0 for key, value in state[part].items()}
    else:
        state[part].zero_()
    save_checkpoint(folder / "last.pt", state)
    train(everything(), folder, resume=True, quiet=True)
    assert fingerprint(folder) != fingerprint(undisturbed)


def test_damaged_last_falls_back_to_previous(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped_after(13, tmp_path / "run", monkeypatch)
    raw = bytearray((folder / "last.pt").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "last.pt").write_bytes(raw)
    with monkeypatch.context() as patched:  # the next save must not put the damaged file in the place of the good one
        interrupt_at(patched, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Terminated):
            train(everything(), folder, resume=True, quiet=True)
    assert "damaged" in capsys.readouterr().out
    load_checkpoint(folder / "previous.pt")
    train(everything(), folder, resume=True, quiet=True)
    assert fingerprint(folder) == fingerprint(undisturbed)


def test_resume_refuses_another_config_and_takes_more_epochs(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    short = train(tiny(), folder, quiet=True)
    with pytest.raises(UserError, match="already holds a run"):
        train(tiny(), folder, quiet=True)
    with pytest.raises(ConfigError, match=r"optim.lr: 0.1 -> 0.2; seed: 0 -> 5"):
        train(tiny(optim={"lr": 0.2}, seed=5), folder, resume=True, quiet=True)
    with pytest.raises(ConfigError, match=r"phases.0.epochs: 2 -> 1"):
        train(tiny(phases=[{"epochs": 1}]), folder, resume=True, quiet=True)
    assert train(tiny(), folder, resume=True, quiet=True) == short  # complete: nothing to do
    longer = train(tiny(phases=[{"epochs": 3}]), folder, resume=True, quiet=True)
    assert (short.epochs, longer.epochs) == (2, 3)


def test_resume_refuses_other_data(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    train(tiny(), folder, quiet=True)
    original = cifar_small.data.datamodule.load_train

    def changed(data: Any, side: int) -> Any:
        images = original(data, side)
        pixels = images.images.copy()
        pixels[0, 0, 0, 0] ^= 1
        return cifar_small.data.Images(pixels, images.labels, images.ids, images.classes, images.source)

    def fewer(data: Any, side: int) -> Any:
        return original(data, side).take(np.arange(440))

    limited = {"source": "digits", "val_size": 200}
    train(tiny(data=limited), tmp_path / "all", quiet=True)
    (count,) = {len(original(tiny().data, 32)) - 200}
    for make, data, run, said in (
        (changed, {**limited, "train_limit": 256}, folder, "other images or labels; 256 images to train on now, 256 then"),
        (
            fewer,
            limited,
            tmp_path / "all",
            "other images or labels, other ones of them to train on, other ones of them held out for val; 240 images to train "
            f"on now, {count:,} then",
        ),
    ):
        monkeypatch.setattr(cifar_small.data.datamodule, "load_train", make)
        with pytest.raises(CheckpointError) as caught:
            train(tiny(data=data, phases=[{"epochs": 3}]), run, resume=True, quiet=True)
        assert str(caught.value) == (
            f"{run} was trained on other data than digits holds now: {said}, and 200 of val; put back the files as they were, "
            "or give their place as data.root; to train on the data of now, begin a new run"
        )
        assert caught.value.remedy == ("data_root", "output")


def test_signals_that_belong_to_the_first_do_not_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: clock[0])
    received: list[int] = []
    with signals.collected_signals(received):
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):  # a terminal's, torchrun's, a scheduler's
            signal.raise_signal(number)
        clock[0] += 30
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    told_by_another_rank = [int(signal.SIGTERM)]
    with signals.collected_signals(told_by_another_rank):
        signal.raise_signal(signal.SIGINT)  # ours comes a little later
        assert told_by_another_rank == [signal.SIGTERM]


def test_a_handler_that_was_there_before_gets_the_signal_once_all_is_saved() -> None:
    """Submitit's has the job queued again; nohup's deafness for SIGHUP stays."""
    told, received = list[int](), list[int]()
    before = signal.signal(signal.SIGUSR2, lambda number, frame: told.append(number))
    deaf = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.collected_signals(received):
            signal.raise_signal(signal.SIGHUP)
            assert received == []
            signal.raise_signal(signal.SIGUSR2)
            assert (received, told) == ([signal.SIGUSR2], [])
        assert told == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)
        signal.signal(signal.SIGHUP, deaf)


def test_a_signal_while_the_summary_is_made_is_honored_after_it(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = whole_run._finish

    def finish(trainer: Trainer) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer)

    monkeypatch.setattr(whole_run, "_finish", finish)
    with pytest.raises(Terminated, match=r"stopped by SIGTERM; the run in .*run is finished") as stopped:
        train(tiny(phases=[{"epochs": 1}]), tmp_path / "run", quiet=True)
    assert stopped.value.finished
    assert Run(tmp_path / "run").finished() is not None


def test_before_a_rank_leaves_within_an_epoch_all_know_that_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchrun stops every rank when one leaves, also rank 0 at its checkpoint: so the ranks meet after it."""
    calls: list[str] = []

    def noted(name: str) -> None:
        whole = getattr(Trainer, name)

        def call(trainer: Trainer) -> Any:
            calls.append(name)
            return whole(trainer)

        monkeypatch.setattr(Trainer, name, call)

    noted("_save")
    noted("_asked_to_stop")
    stopped_after(11, tmp_path / "run", monkeypatch)
    assert calls[-2:] == ["_save", "_asked_to_stop"]


def test_second_process_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with locked(run.folder), pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on"):
        train(tiny(), run.folder, quiet=True)
    assert not run.folder.exists()  # a lock alone leaves nothing behind


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_finite_stops_before_the_update_and_names_the_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder, original, calls = tmp_path / "run", train_module.clip_and_check, 0
    weights: list[torch.Tensor] = []

    def poisoned(optimizer: torch.optim.SGD, loss: torch.Tensor, *rest: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 7:  # the third of epoch 2
            parameter = optimizer.param_groups[0]["params"][0]
            weights.extend([parameter, parameter.detach().clone()])
            if what == "loss":
                loss.fill_(torch.nan)
            else:
                parameter.grad[0, 0, 0, 0] = torch.inf
        return original(optimizer, loss, *rest)

    monkeypatch.setattr(train_module, "clip_and_check", poisoned)
    with pytest.raises(DivergedError, match=r"not finite at epoch 2, step 3 of 4 \(lr 0.0[0-9]+\)"):
        train(tiny(), folder, quiet=True)
    assert torch.equal(weights[0], weights[1])
    assert load_checkpoint(folder / "last.pt")["epoch"] == 1


def test_not_finite_on_val_is_never_selected(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_evaluate", lambda self: (float("nan"), 0.1))
        with pytest.raises(DivergedError, match=r"loss on val is not finite after epoch 1 .*nothing was kept"):
            train(tiny(), folder, quiet=True)
    assert not (folder / "best.pt").exists()
    # Nothing was completed, so the advice (another learning rate) can be followed in the same folder.
    assert train(tiny(optim={"lr": 0.05}), folder, quiet=True).epochs == 2


def test_once_stopped_no_later_step_has_an_effect() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=True)
    weight.grad = torch.ones(3)
    bad = train_module.clip_and_check(optimizer, torch.tensor(1.0), None, torch.tensor(True))
    optimizer.step()
    assert not bad
    assert torch.equal(weight, torch.ones(3))


def test_a_folder_of_other_files_is_refused_and_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    files = {".notes.tmp": "mine", ".draft.new": "mine", "metrics.csv": "mine"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for resume in (False, True):
        with pytest.raises(UserError, match=r"is not empty and is not a run directory"):
            train(tiny(), tmp_path, resume=resume, quiet=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != ".lock"} == files
    (tmp_path / "config.yaml").write_text(dump_config(tiny()))  # as a record has it, or a folder that one works in
    (tmp_path / "final.pt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and is not a run directory \(contains \.draft\.new, \.\.\.\)"):
        train(tiny(), tmp_path, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {*files, "config.yaml", "final.pt"}


def test_a_start_that_was_cut_off_can_be_made_again(tiny: Tiny, tmp_path: Path) -> None:
    """`config.yaml` is written first, `env.json` last."""
    (tmp_path / "config.yaml").write_text(dump_config(tiny()))
    assert train(tiny(), tmp_path, quiet=True).epochs == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("name: mine  # by hand")
    with pytest.raises(UserError, match="is not a run directory"):
        train(tiny(), tmp_path / "other", quiet=True)


def test_a_finished_run_without_its_checkpoints_is_still_complete(tiny: Tiny, tmp_path: Path) -> None:
    summary = train(tiny(), tmp_path / "run", quiet=True)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "run" / name).unlink()
    assert train(tiny(), tmp_path / "run", resume=True, quiet=True) == summary
    with pytest.raises(CheckpointError, match=r"has ended, and there is no last\.pt to go on from; start a new run"):
        train(tiny(phases=[{"epochs": 3}]), tmp_path / "run", resume=True, quiet=True)


def test_what_a_small_val_can_tell_is_said(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "the first of those equal on 10 images, of which one is 10.0 points: raise data.val_size, or set selection: last"
    for selection, size in (("best", 10), ("last", 10), ("best", 200)):
        data = {"source": "digits", "val_size": size, "train_limit": 128}
        train(tiny(selection=selection, data=data, phases=[{"epochs": 1}]), tmp_path / f"{selection}{size}")
        assert (said in capsys.readouterr().out) == ((selection, size) == ("best", 10))


def test_a_longer_run_drops_the_summary_of_the_shorter_and_says_so(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    train(tiny(), folder, quiet=True)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        interrupt_at(patched, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Terminated):
            train(tiny(phases=[{"epochs": 4}]), folder, resume=True)
    # Half a cosine from 0.1: of 8 steps the last, then of 16 the ninth (half of 0.1) and the last.
    assert (
        "extended from 2 to 4 epochs: the schedule now spans all of them, so the learning rate goes on from 0.05, after "
        "0.00381, and ends at 0.000961"
    ) in capsys.readouterr().out
    assert not (folder / "summary.json").exists()
    rates, original = [], train_module.clip_and_check

    def watched(optimizer: Any, *arguments: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return original(optimizer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(train_module, "clip_and_check", watched)
        train(tiny(phases=[{"epochs": 4}]), folder, resume=True)
    cosine = [0.1 * (1 + math.cos(math.pi * step / 16)) / 2 for step in range(16)]
    assert rates == pytest.approx(cosine[9:])  # the first of the longer run's steps was taken before the signal
    assert "extended" not in capsys.readouterr().out
    assert extension_of(Run(folder).sessions()) == "extended on the way, planned for 2 then 4 epochs"
    assert [session.epochs_planned for session in Run(folder).sessions()] == [2, 4, 4]


def test_a_run_goes_on_in_the_precision_it_was_begun_in(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cifar_small.environment._cpu_facts", lambda: ("a", frozenset({"amx_bf16"})))
    config = tiny(engine={"device": "cpu", "threads": 1})
    with monkeypatch.context() as patched:
        interrupt_at(patched, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Terminated):
            train(config, tmp_path / "run", quiet=True)
    monkeypatch.setattr("cifar_small.environment._cpu_facts", lambda: ("a", frozenset({"avx2"})))
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert "this run was started in bf16; continuing in bf16 (this machine's default is fp32)" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run" / "last.pt")["precision"] == "bf16"


def test_over_budget_is_refused_before_data_is_read(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar_small.data.datamodule, "load_train", lambda *_: pytest.fail("data was read"))
    count = count_parameters(build_model(tiny().model, 10))
    with pytest.raises(ConfigError, match=rf"{count:,} trainable parameters, 1 over the budget of {count - 1:,}; widest that"):
        train(tiny(rules={"max_params": count - 1}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_over_budget_by_the_classes_of_a_folder_is_refused_before_a_picture_is_read(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("ant", "bee", "cat"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        (tmp_path / "data" / "train" / name / "1.png").write_bytes(b"no picture")
    count = count_parameters(build_model(tiny().model, 3))
    changed = {"rules": {"max_params": count - 1}, "data": {"source": "folder", "root": str(tmp_path / "data")}}
    with pytest.raises(ConfigError, match=rf"{count:,} trainable parameters, 1 over the budget of {count - 1:,}"):
        train(tiny(**changed), tmp_path / "run", quiet=True)
    with pytest.raises(DataError, match=r"1\.png"):
        train(tiny(**{**changed, "rules": {"max_params": count}}), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 300}, DataError, "batch_size 300 is above the 256 training images"),
        ({"data": {"source": "digits", "val_size": 1437}}, DataError, "1437|1,437"),
        ({"engine": {"device": "cuda"}}, UserError, "engine.device is cuda but no GPU was found"),
    ],
)
def test_refusals_leave_nothing_behind(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    if "engine" in changes and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(error, match=message):
        train(tiny(**changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_training_never_reads_the_test_split(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar_small.inference.predict, "load_test", lambda *_: pytest.fail("test was read"))
    monkeypatch.setattr(cifar_small.data, "load_test", lambda *_: pytest.fail("test was read"))
    train(tiny(), tmp_path / "run", quiet=True)
    assert Run(tmp_path / "run").test_readings() == []


def test_val_is_the_plain_images(tiny: Tiny) -> None:
    config = tiny(augment={"crop": 4, "flip": "random", "cutout": 8})
    datamodule = load_datamodule(config)
    assert np.array_equal(datamodule.val_images.permute(0, 2, 3, 1).numpy(), datamodule.val.images)
    everything_read = cifar_small.data.load_train(config.data)
    by_id = {int(number): row for number, row in zip(everything_read.ids, everything_read.images, strict=True)}
    assert all(
        np.array_equal(by_id[int(number)], row) for number, row in zip(datamodule.val.ids, datamodule.val.images, strict=True)
    )


def test_average_counts_and_is_not_the_model(undisturbed: Path) -> None:
    last, best = load_checkpoint(undisturbed / "last.pt"), load_checkpoint(undisturbed / "best.pt")
    average = {key.removeprefix("module."): value for key, value in last["average"].items() if key != "n_averaged"}
    assert int(last["average"]["n_averaged"]) == 5 * 8
    assert not torch.equal(average["conv1.weight"], last["model"]["conv1.weight"])
    assert best["averaged"] == 8 * best["epoch"]
    kept = load_checkpoint(undisturbed / "epoch-0005.pt")
    assert torch.equal(kept["weights"]["conv1.weight"], average["conv1.weight"])


@pytest.mark.parametrize("warmup", [False, True])
def test_average_by_hand(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warmup: bool) -> None:
    history: list[torch.Tensor] = []
    original = Trainer.step

    def step(self: Trainer, *arguments: Any) -> Any:
        bad = original(self, *arguments)
        history.append(self.state.model.fc.weight.detach().clone())
        return bad

    monkeypatch.setattr(Trainer, "step", step)
    train(tiny(ema_decay=0.3, ema_warmup=warmup, phases=[{"epochs": 1}]), tmp_path / "run", quiet=True)
    expected = history[0]  # torch starts the average with the first weights
    # min(0.3, (1 + n) / (10 + n)) for n = 1, 2, 3
    for weights, decay in zip(history[1:], (2 / 11, 3 / 12, 0.3) if warmup else (0.3, 0.3, 0.3), strict=True):
        expected = decay * expected + (1 - decay) * weights
    average = load_checkpoint(tmp_path / "run" / "last.pt")["average"]["module.fc.weight"]
    torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"ema_decay": 0.9},
            "48% of the averaged weights, .* of the first step; .* or ema_decay to 0.52 or less",
        ),  # 0.9^7
        ({"ema_decay": 0.9, "ema_warmup": True}, ""),
        ({"ema_decay": 0.6}, ""),  # 0.6^7 is 3 %
        ({"phases": [{"epochs": 2, "swa": {}}]}, "one of its 2 sets of weights is of the first epochs, hardly"),
        ({"phases": [{"epochs": 1}, {"epochs": 2, "swa": {}}]}, ""),
        ({"lookahead": {}}, ""),
    ],
)
def test_an_average_that_keeps_much_of_the_first_weights_is_said_at_the_start(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], warning: str
) -> None:
    config = tiny(**changes)
    build_trainer(resolve_config(config), Run(tmp_path))
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(found) == bool(warning)
    assert re.search(warning, "".join(found))


def test_a_warm_up_without_an_average_is_refused_and_the_hash_of_a_config_without_it_stands(tiny: Tiny) -> None:
    assert "ema_warmup" not in config_dict(tiny(ema_decay=0.9))
    with pytest.raises(ConfigError, match="ema_warmup has no effect"):
        tiny(ema_warmup=True)


def scripted(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> None:
    values = iter(accuracies)
    monkeypatch.setattr(Trainer, "_evaluate", lambda self: (1.0, next(values)))


@pytest.mark.parametrize(("selection", "epoch"), [("best", 2), ("last", 4)])
def test_selection_rule(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selection: str, epoch: int) -> None:
    scripted(monkeypatch, [0.3, 0.6, 0.6, 0.5])  # a tie keeps the earlier epoch
    summary = train(tiny(phases=[{"epochs": 4}], selection=selection), tmp_path / "run", quiet=True)
    assert summary.selected_epoch == epoch
    assert load_checkpoint(tmp_path / "run" / "best.pt")["epoch"] == epoch


def test_patience_ends_a_run_and_says_so(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, [0.6, 0.3, 0.3, 0.3, 0.5, 0.9, 0.8])
    config = tiny(phases=[{"epochs": 3}, {"epochs": 4}], patience=2)
    summary = train(config, tmp_path / "run")
    # Three epochs without a better one were in the first phase, which the second was to follow; it had patience of its own.
    assert (summary.epochs, summary.epochs_planned, summary.selected_epoch) == (5, 7, 1)
    assert Run(tmp_path / "run").summary().ended == "patience"
    warning, closing = capsys.readouterr().out.splitlines()[-2:]
    said = "ended by patience after epoch 5 of 7"
    assert warning.startswith(f"warning: {said}: no better accuracy on val for 2 epochs; to train on, resume it with")
    assert f"; {said}; " in closing
    assert train(config, tmp_path / "run", resume=True) == summary
    assert said in capsys.readouterr().out

    longer = tiny(phases=[{"epochs": 3}, {"epochs": 9}], patience=2)
    with pytest.raises(ConfigError, match=f"run {said}, so 12 epochs would change nothing but"):
        train(longer, tmp_path / "run", resume=True)
    assert Run(tmp_path / "run").config() == config
    more = train(tiny(phases=[{"epochs": 3}, {"epochs": 4}], patience=4), tmp_path / "run", resume=True)
    assert (more.epochs, more.selected_epoch, more.ended_early) == (7, 6, "")


def test_a_run_that_went_on_with_more_patience_is_the_one_that_had_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, patiences in (("whole", [None]), ("resumed", [1, 2, None])):
        with monkeypatch.context() as patch:
            scripted(patch, [0.6, 0.3, 0.3, 0.9])
            for patience in patiences:
                summary = train(
                    tiny(phases=[{"epochs": 4}], patience=patience), tmp_path / folder, resume=folder == "resumed", quiet=True
                )
        assert summary.epochs == 4
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "resumed")


def test_a_resumed_run_remembers_its_best_epoch_and_its_seconds(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.6, 0.3, 0.4, 0.5])
    train(tiny(phases=[{"epochs": 4}], patience=1), tmp_path / "run", quiet=True)  # ends after its second epoch
    last = tmp_path / "run" / "last.pt"
    save_checkpoint(last, {**load_checkpoint(last), "seconds": 5000.0})
    summary = train(tiny(phases=[{"epochs": 4}]), tmp_path / "run", resume=True, quiet=True)
    assert summary.epochs == 4
    assert summary.selected_epoch == load_checkpoint(tmp_path / "run" / "best.pt")["epoch"] == 1
    assert 5000 < summary.seconds < 6000


def test_the_gradients_norm_is_the_mean_over_the_steps_of_an_epoch(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms, original = [], train_module.clip_and_check

    def watched(optimizer: Any, *arguments: Any) -> Any:
        gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm()))
        return original(optimizer, *arguments)

    monkeypatch.setattr(train_module, "clip_and_check", watched)
    train(tiny(phases=[{"epochs": 2}]), tmp_path / "run", quiet=True)
    assert len(norms) == 8
    found = [float(row["gradient_norm"]) for row in metrics(tmp_path / "run")]
    assert found == pytest.approx([np.mean(norms[:4]), np.mean(norms[4:])], rel=1e-4)


def test_a_run_that_is_not_cut_short_says_nothing_of_patience(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.3, 0.3, 0.3])
    summary = train(tiny(phases=[{"epochs": 3}], patience=3), tmp_path / "run", quiet=True)
    assert (summary.epochs, summary.ended_early, "ended" in summary.plain()) == (3, "", False)


def test_micro_batches_give_the_gradient_of_the_batch(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BatchNorm, whose statistics are of the slice, accumulated slices and the whole batch are the same step."""
    monkeypatch.setattr(build, "build_model", lambda model, classes: nn.Sequential(nn.Flatten(), nn.Linear(3072, classes)))
    weights = []
    for size in (64, 16, 32):
        config = tiny(engine={"device": "cpu", "precision": "fp32", "micro_batch_size": size}, optim={"lr": 0.01})
        trainer = build_trainer(resolve_config(config), Run(tmp_path), quiet=True)
        monkeypatch.setattr(Trainer, "_end_epoch", lambda self, *a: pytest.fail("only steps are run"))
        with pytest.raises(pytest.fail.Exception):
            trainer.fit()
        weights.append(trainer.state.model[1].weight.detach())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights[2], weights[0], rtol=1e-5, atol=1e-6)
    # A step of fewer images, as those that `select` leaves, is their mean too, whatever its number of slices.
    images, targets = torch.rand(48, 3, 32, 32), torch.eye(10)[torch.arange(48) % 10]
    linear = trainer.state.model[1]
    linear.weight.grad = None
    trainer.backward(images, targets, trainer.resolved.phases[0].settings, 0)
    found = linear.weight.grad.clone()
    (expected,) = torch.autograd.grad(F.cross_entropy(trainer.state.model(images), targets), linear.weight)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_phases_change_what_they_name(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(
        phases=[
            {"epochs": 1, "mixup_alpha": 0.4, "dropout": 0.5},
            {"epochs": 2, "mixup_alpha": 0.0, "optim": {"lr": 0.02, "momentum": 0.5}, "schedule": {"name": "constant"}},
        ]
    )
    seen: list[tuple[float, float, float, bool]] = []
    original = Trainer.step

    def step(self: Trainer, *arguments: Any) -> Any:
        optimizer = self.state.optimizer
        group, fresh = optimizer.param_groups[0], not any(s["momentum_buffer"].any() for s in optimizer.state.values())
        seen.append((self.state.model.dropout.p, group["lr"], group["momentum"], fresh))
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "step", step)
    train(config, tmp_path / "run", quiet=True)
    first = resolve_phases(config)[0].settings
    assert [entry[0] for entry in seen] == [0.5] * 12  # dropout is inherited
    assert [entry[1] for entry in seen[:4]] == [learning_rate(first.schedule, 0.1, step, 4, 4) for step in range(4)]
    assert [entry[1:3] for entry in seen[4:]] == [(0.02, 0.5)] * 8
    assert [entry[3] for entry in seen] == [True] + [False] * 11  # momentum is carried over the boundary
    rows = metrics(tmp_path / "run")
    assert [row["train_targets"] for row in rows] == ["mixed", "hard", "hard"]


def test_an_epoch_uses_each_image_at_most_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[list[int]] = []
    original = Trainer.step

    def step(self: Trainer, phase: Any, batch: Batch, stopped: torch.Tensor) -> Any:
        chosen.append(batch.chosen.tolist())
        return original(self, phase, batch, stopped)

    monkeypatch.setattr(Trainer, "step", step)
    train(tiny(batch_size=100), tmp_path / "run", quiet=True)  # 256 images: two batches an epoch, 56 left out
    epochs = [chosen[0] + chosen[1], chosen[2] + chosen[3]]
    assert [len(chosen), len(set(epochs[0])), len(set(epochs[1]))] == [4, 200, 200]
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])


# A CPU takes long for a pass in fp16.
NARROW = {
    "model": {"family": "resnet", "widths": [4, 4, 8], "blocks": [1, 1, 1], "strides": [2, 2, 2]},
    "data": {"source": "digits", "val_size": 50, "train_limit": 256},
}


def test_fp16_has_the_losses_of_fp32(tiny: Tiny, tmp_path: Path) -> None:
    """Ten bits of mantissa: the losses of few steps agree to two digits, and the factor of the loss is taken out again."""
    losses = {}
    for precision in ("fp32", "fp16"):
        train(tiny(engine={"device": "cpu", "precision": precision}, **NARROW), tmp_path / precision, quiet=True)
        losses[precision] = [float(row["train_loss"]) for row in metrics(tmp_path / precision)]
    assert losses["fp16"] == pytest.approx(losses["fp32"], abs=0.02)
    assert losses["fp16"] != losses["fp32"]
    assert Run(tmp_path / "fp16").sessions()[0].precision == "fp16"
    assert load_checkpoint(tmp_path / "fp16" / "last.pt")["scaling"].tolist() == [2.0**16, 8.0]  # no step overflowed


def test_gradients_that_overflow_in_fp16_cost_their_steps_and_halve_the_factor(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FIRST_SCALE", 2.0**127)  # which fp32 holds and fp16 does not
    config = tiny(engine={"device": "cpu", "precision": "fp16"}, phases=[{"epochs": 1}], **NARROW)
    train(config, tmp_path / "run", quiet=True)
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    assert saved["scaling"].tolist() == [2.0**123, 0.0]
    torch.manual_seed(config.seed)
    fresh = build_model(config.model, 10).state_dict()
    weights = [name for name, _ in build_model(config.model, 10).named_parameters()]
    assert all(torch.equal(saved["model"][name], fresh[name]) for name in weights)


def test_an_fp16_run_goes_on_with_its_factor(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FIRST_SCALE", 2.0**26)  # the first steps overflow, the later ones do not
    config = tiny(engine={"device": "cpu", "precision": "fp16", "checkpoint_steps": 3}, **NARROW)
    train(config, tmp_path / "whole", quiet=True)
    train_until_save(config, tmp_path / "cut", 1, monkeypatch)
    train(config, tmp_path / "cut", resume=True, quiet=True)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    factor, steps = load_checkpoint(tmp_path / "whole" / "last.pt")["scaling"].tolist()
    assert factor < 2.0**26
    assert 0 < steps < 8


def test_bf16_and_record_of_the_machine(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(engine={"device": "cpu", "precision": "bf16"}), tmp_path / "run", quiet=True)
    text = (tmp_path / "run" / "env.json").read_text()
    session = json.loads(text)["sessions"][0]
    assert session["precision"] == "bf16"
    assert session["packages"]["torch"] == torch.__version__
    assert str(Path.home()) not in text
    assert str(Path(__file__).resolve().parents[2]) not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # inductor's own import of it
def test_compiled_training_has_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two resolutions, in micro-batches. Fused kernels round otherwise: some 1e-6 of a loss, amplified by steps."""
    raw = tiny_raw(phases=[{"epochs": 1}, {"epochs": 1, "resolution": 24}])
    raw["engine"] |= {"precision": "fp32", "layout": "contiguous", "micro_batch_size": raw["batch_size"] // 2}
    train(parse_config(raw), tmp_path / "plain", quiet=True)
    compile_net, modes = torch.compile, []

    def seen(model: torch.nn.Module, **options: Any) -> Any:
        modes.append(options)
        return compile_net(model, **options)

    monkeypatch.setattr(torch, "compile", seen)
    raw["engine"]["compile"] = True
    train(parse_config(raw), tmp_path / "compiled", quiet=True)
    assert modes == [{"mode": None, "dynamic": False}] * 2
    losses = [[row["train_loss"] for row in metrics(tmp_path / name)] for name in ("plain", "compiled")]
    assert [float(one) for one in losses[1]] == pytest.approx([float(one) for one in losses[0]], abs=2e-3)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # torch on that one release
def test_the_net_is_compiled_once_for_phases_of_one_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by a backend of ours; torch's own choice would compile a convolution again for other sizes of the batch."""
    phases = [{"epochs": 1}, {"epochs": 1, "label_smoothing": 0.1}, {"epochs": 1, "resolution": 24}, {"epochs": 1}]
    raw = tiny_raw(phases=phases, data={"source": "digits", "val_size": 70, "train_limit": 150})
    raw["engine"] |= {"compile": True, "micro_batch_size": 32}
    compile_net, graphs = torch.compile, []

    def counted(model: torch.nn.Module, dynamic: bool, **_: Any) -> Any:
        def backend(graph: Any, inputs: Any) -> Any:
            graphs.append([tuple(each.shape) for each in inputs if each.ndim == 4 and each.shape[1] == 3 and each.shape[2] > 3])
            return graph.forward

        return compile_net(model, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", counted)
    config = parse_config(raw)
    train(config, tmp_path / "run", quiet=True)
    assert graphs == [[(32, 3, 32, 32)], [(32, 3, 24, 24)]]
    assert compilations(resolve_config(config).phases) == len(graphs)
    said = draw_config(config, 2, tmp_path / "schedule.png").splitlines()[-1]
    assert said.startswith("engine.compile: the net is compiled 2 times, at the start and where a phase changes resolution")


def test_weights_are_drawn_alike_for_every_memory_order(tmp_path: Path) -> None:
    """torch fills memory as it lies: weights drawn in channels_last would be those of another seed."""
    drawn = []
    for layout in ("contiguous", "channels_last"):
        raw = tiny_raw()
        raw["engine"] |= {"layout": layout}
        (tmp_path / layout).mkdir()
        drawn.append(build_trainer(resolve_config(parse_config(raw)), Run(tmp_path / layout), quiet=True).state.model)
    first, second = (model.state_dict() for model in drawn)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["conv1.weight"].stride() != second["conv1.weight"].stride()


def test_graphs_are_refused_beside_accumulated_gradients() -> None:
    raw = tiny_raw()
    raw["engine"] |= {"compile": "reduce-overhead", "micro_batch_size": raw["batch_size"] // 2}
    with pytest.raises(ConfigError, match=r"engine\.compile reduce-overhead uses CUDA graphs, in which torch cannot"):
        parse_config(raw)
    raw["engine"]["micro_batch_size"] = raw["batch_size"]
    assert parse_config(raw).engine.compile == "reduce-overhead"


@pytest.mark.parametrize("terminal", [False, True])
def test_every_epoch_leaves_a_line_also_beside_a_bar(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setattr(Trainer, "_progress_bar", lambda self: tqdm(disable=not terminal, file=io.StringIO()))
    train(tiny(optim={"lr": 0.00002}, schedule={"name": "constant"}), tmp_path / "run")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.partition("  train loss")[0] for line in lines] == ["epoch   1/2  lr 2e-05", "epoch   2/2  lr 2e-05"]


def test_the_time_left_goes_beyond_a_day() -> None:
    row = {"epoch": 10, "phase": 0, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5, "train_targets": "hard"}
    row |= {"val_loss": 1.0, "val_accuracy": 0.5, "images_per_second": 100.0}
    last = Phase(0, 0, 20, 0, 20, PhaseSettings(epochs=20))
    assert epoch_line(row, [last], 0.6, 3 * 3600.0).endswith("best 60.00%  100 img/s  30:00:00 left")
    # A phase on a frozen backbone's features takes seconds an epoch, the next one minutes: its time cannot be told from them.
    first, second = Phase(0, 0, 12, 0, 12, PhaseSettings(epochs=12)), Phase(1, 12, 20, 12, 20, PhaseSettings(epochs=8))
    assert epoch_line(row, [first, second], 0.6, 4.0).endswith("100 img/s  00:08 left in phase 1")
    assert epoch_line(row | {"epoch": 12}, [first, second], 0.6, 4.0).endswith("100 img/s")
    assert epoch_line(row | {"epoch": 18, "phase": 1}, [first, second], 0.6, 4.0).endswith("100 img/s  00:08 left")


def test_integer_buffers_of_the_average_are_the_models() -> None:
    """torch's own average leaves BatchNorm's counter at 1; see docs/surprises.md."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    average = ExponentialAverage(net, 0.9)
    for _ in range(5):
        net(torch.randn(2, 3, 8, 8))
        average.update_parameters(net)
    assert int(average.module[1].num_batches_tracked) == int(net[1].num_batches_tracked) == 5


def test_a_weight_at_two_places_is_averaged_once_a_step() -> None:
    """timm's averages go over the state dict, which has it twice, so that its decay is squared; see docs/surprises.md."""
    shared = torch.nn.Conv2d(3, 3, 3, bias=False)
    net = torch.nn.Sequential(shared, shared, torch.nn.Conv2d(3, 3, 3, bias=False))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        average = ExponentialAverage(net, 0.9)
        average.update_parameters(net)
        for parameter in net.parameters():
            parameter.fill_(1)
        for _ in range(5):
            average.update_parameters(net)
    assert average.module[0] is average.module[1]
    for place in (0, 2):
        assert average.module[place].weight.mean().item() == pytest.approx(1 - 0.9**5)


def test_the_machine_that_ends_a_run_predicts_val_with_its_own_engine(tmp_path: Path, tiny: Tiny) -> None:
    """The selected weights may have been written where there was a GPU, in a session before."""
    run = Run(tmp_path / "run")
    train(tiny(), run.folder, quiet=True)
    before = run.summary()
    content = load_checkpoint(run.best)
    content["config"]["engine"]["device"] = "cuda"
    save_checkpoint(run.best, content)
    run.summary_file.unlink()
    train(tiny(), run.folder, resume=True, quiet=True)
    after = run.summary()
    assert before is not None
    assert after is not None
    assert after.val_accuracy == before.val_accuracy

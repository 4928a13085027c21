"""The table of runs, and removing runs that nothing needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import tiny_raw, train_until_save

from cifar_small.cli import runs as commands
from cifar_small.config.loading import parse_config
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.files import write_json
from cifar_small.reporting.run_list import find_runs, status_of
from cifar_small.runs.directory import Run
from cifar_small.runs.locks import locked
from cifar_small.runs.recording import write_record
from cifar_small.training.train import train

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, quick_runs: None) -> Path:
    """A folder with a finished run and one that was killed after the first of two epochs."""
    folder = tmp_path_factory.mktemp("runs")
    train(parse_config(tiny_raw(phases=[{"epochs": 1}])), folder / "done", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        train_until_save(parse_config(tiny_raw()), folder / "deeper" / "killed", 1, patch)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def test_the_table(place: Path, said: Said) -> None:
    done, killed = Run(place / "done"), Run(place / "deeper" / "killed")
    assert [run.folder for run in find_runs(place)] == [killed.folder, done.folder]
    summary, status = done.summary(), status_of(killed)
    assert summary is not None
    assert (status.state, status.epoch, status.epochs, status.parameters) == ("stopped", 1, 2, summary.parameters)
    lines = [line.split() for line in said("runs")[1].splitlines()]
    assert lines[1][:3] == ["runs/deeper/killed", "stopped", "1/2"]
    assert lines[1][-4:] == ["cifar-small", "train", "--resume", "runs/deeper/killed"]
    assert lines[2][:4] == ["runs/done", "finished", "1/1", f"{100 * summary.val_accuracy:.2f}"]
    assert lines[2][4:] == [f"{summary.parameters:,}", f"{status_of(done).size / 1e6:.1f}"]
    assert status_of(done).size == sum(path.stat().st_size for path in done.folder.rglob("*") if path.is_file())
    assert said("train", "--resume", "runs/deeper/killed")[0] == 0  # the command of the row
    assert status_of(killed).state == "finished"


def test_states(place: Path, said: Said) -> None:
    with locked(place / "deeper" / "killed"):
        assert status_of(Run(place / "deeper" / "killed")).state == "training"
    (place / "done" / "summary.json").write_text("{")
    assert status_of(Run(place / "done")).state.startswith("damaged: runs/done/summary.json is damaged")
    assert said("runs")[0] == 0
    assert said("runs", "nowhere")[::2] == (
        2,
        "cifar-small: error: nowhere does not exist: train a run first, or name the folder that holds some\n",
    )


def test_what_a_sweep_gave_up_is_not_said_to_be_waiting(place: Path, said: Said) -> None:
    run = Run(place / "deeper" / "killed")
    write_json(run.folder / "failed.json", {"reason": "the loss is not finite", "exit_code": 5})
    assert (status_of(run).state, status_of(run).to_go_on) == ("failed: the loss is not finite", "")
    (run.folder / "failed.json").rename(run.folder / "pruned.json")
    assert status_of(run).state == "pruned by its sweep"
    assert "--resume" not in said("runs")[1]


def test_watch_draws_until_interrupted(place: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(commands.time, "sleep", sleep)
    code, out, _ = said("runs", "--watch")
    assert (code, out.count("runs/done"), len(looks)) == (0, 3, 3)


def test_a_mistyped_name_among_several_removes_none(place: Path, said: Said) -> None:
    code, _, line = said("remove", place / "done", place / "dnoe")
    assert (code, "dnoe does not exist" in line) == (4, True)
    assert (place / "done").is_dir()


def test_what_nothing_needs_is_removed(place: Path, said: Said) -> None:
    size = status_of(Run(place / "done")).size
    told = f"runs/done removed, {size / 1e6:,.1f} MB freed (there were no records to look at)\n"
    assert said("remove", place / "done") == (0, told, "")
    assert [path.name for path in place.iterdir()] == ["deeper"]


def test_what_an_interrupted_removal_left_is_no_hindrance(place: Path, said: Said) -> None:
    (place / ".done.removed").mkdir()
    (place / ".done.removed" / "best.pt").write_bytes(b"half")
    assert said("remove", place / "done")[0] == 0
    assert not (place / ".done.removed").exists()


def test_what_is_needed_stays(place: Path, said: Said) -> None:
    run = Run(place / "done")

    def refused(reason: str, code: int = 2) -> None:
        before = sorted(run.folder.rglob("*"))
        got, _, line = said("remove", run.folder)
        assert (got, reason in line) == (code, True), line
        assert sorted(run.folder.rglob("*")) == before

    write_record(run, Path("submissions/mine"))
    refused("runs/done is needed: submissions/mine/record.json is a record of its weights; add --force")
    shutil.rmtree("submissions")
    student = {**tiny_raw(), "phases": [{"epochs": 1, "distill": {"teachers": ["runs/done"]}}]}
    picky = {**tiny_raw(), "phases": [{"epochs": 1, "select": {"share": 0.5, "proxy": "runs/done"}}]}
    anywhere = tiny_raw(select={"share": 0.5, "proxy": "runs/done"})
    for raw in (
        student,
        picky,
        anywhere,
        tiny_raw(weights="runs/done", rules={"max_params": 100_000, "rows": 360, "pretrained": True}),
    ):
        (place / "deeper" / "killed" / "config.yaml").write_text(dump_yaml(raw))
        refused("runs/deeper/killed starts or learns from it")
    shutil.rmtree(place / "deeper")
    with locked(run.folder):
        refused("is in training; stop it first", 4)
    told = {"command": "", "views": "none", "images": 2, "accuracy": 0.5, "predictions": "test.npz"}
    run.append_test_reading(**told, predictions_sha256="0" * 64)
    refused("it alone knows of 1 reading of the test split")
    assert said("remove", run.folder, "--force")[0] == 0
    assert not run.folder.exists()


@pytest.mark.parametrize(("here", "name"), [("runs", "done"), ("runs/done", "."), ("runs/deeper", "../done")])
def test_what_is_needed_stays_wherever_one_stands(
    here: str, name: str, place: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(Run(place / "done"), Path("submissions/mine"))
    student = {**tiny_raw(), "phases": [{"epochs": 1, "distill": {"teachers": ["runs/done"]}}]}
    (place / "deeper" / "killed" / "config.yaml").write_text(dump_yaml(student))
    monkeypatch.chdir(here)
    code, _, line = said("remove", name)
    assert (code, "submissions/mine/record.json is a record of its weights" in line) == (2, True)
    assert "killed starts or learns from it" in line
    assert said("remove", name, "--force")[0] == 0


def test_a_damaged_neighbor_is_a_reason_that_can_be_overruled(place: Path, said: Said) -> None:
    (place / "deeper" / "killed" / "config.yaml").write_text("name: [")
    code, _, line = said("remove", place / "done")
    assert (code, "runs/deeper/killed may start or learn from it, which cannot be told: runs/deeper" in line) == (2, True), line
    assert "add --force" in line
    (place / "done" / "test_readings.jsonl").write_text("{]}\n")
    assert "how often it read the test split cannot be told: " in said("remove", place / "done")[2]
    assert said("remove", place / "done", "--force")[0] == 0
    assert not (place / "done").exists()


def test_records_are_looked_for_in_several_folders(place: Path, said: Said) -> None:
    write_record(Run(place / "done"), Path("mine/first"))
    Path("entry").mkdir()
    code, _, line = said("remove", place / "done", "--records", "entry", "--records", "mine")
    assert (code, "mine/first/record.json is a record of its weights" in line) == (2, True)
    code, _, line = said("remove", place / "done", "--records", "minne")
    assert (code, "minne is no folder; expected one that holds records" in line) == (2, True)
    assert said("remove", place / "done", "--records", "entry")[0] == 0


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text.replace(",", ";"), "it has no column val_accuracy"),
        (lambda text: text.rpartition(",")[0] + ",\n", "could not convert string to float: ''"),
        (lambda text: text.rpartition(",")[0] + "\n", "must be a string or a real number, not 'NoneType'"),
        (lambda text: text + "1,2", "must be a string or a real number, not 'NoneType'"),
        (lambda text: text.rstrip() + ",5\n", "must be a string or a real number, not 'list'"),
    ],
)
def test_metrics_that_a_spreadsheet_saved_are_said_to_be_damaged(
    damage: Callable[[str], str], says: str, place: Path, said: Said
) -> None:
    metrics = Run(place / "done").metrics_file
    metrics.write_text(damage(metrics.read_text()))
    state = status_of(Run(place / "done")).state
    assert state.startswith("damaged: runs/done/metrics.csv is damaged (")
    assert says in state
    code, out, _ = said("runs")
    assert (code, "runs/deeper/killed" in out) == (0, True)


def test_a_file_that_vanishes_while_sizes_are_taken_counts_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, walk = status_of(Run(place / "done")).size, os.walk
    monkeypatch.setattr(
        os, "walk", lambda top: ((folder, inner, [*names, ".last.pt.tmp"]) for folder, inner, names in walk(top))
    )
    assert status_of(Run(place / "done")).size == size


def test_no_run_is_not_removed(place: Path, said: Said) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "file").write_text("")
    assert said("remove", place / "mine")[0] == 4
    write_record(Run(place / "done"), place / "record")
    (place / "mine" / "config.yaml").write_text("name: mine")
    for folder in ("mine", "record"):  # both of which hold a config.yaml
        code, _, line = said("remove", place / "done", place / folder, "--force")
        assert (code, "holds a config.yaml, and neither env.json nor a checkpoint of a run" in line) == (4, True), line
    assert (place / "mine" / "file").exists()
    assert (place / "done").exists()


def test_a_run_is_removed_by_a_link_and_from_within(place: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "link").symlink_to((place / "done").resolve())
    shutil.copytree(place / "done", place / "copy")
    assert said("remove", place / "link", "--force")[0] == 0
    assert not any((place / name).exists() or (place / name).is_symlink() for name in ("link", "done", ".done.removed"))
    here = Path.cwd()
    monkeypatch.chdir(place / "copy")
    assert said("remove", ".", "--force")[0] == 0
    monkeypatch.chdir(here)
    assert not (place / "copy").exists()

"""The command line: exit codes, one line for every error of the user, and nothing half-written."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import tiny_raw

from cifar_small import __version__
from cifar_small.cli import param_count
from cifar_small.cli.main import ALL, main
from cifar_small.config.loading import parse_config
from cifar_small.data import load_test, load_unlabelled
from cifar_small.reporting.results import BEGIN, END
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import load_predictions

ROOT = Path(__file__).resolve().parents[2]
VERBS = (
    *("demo", "train", "slurm", "preview", "schedule", "sweep", "predict", "unlabelled", "evaluate", "tta", "uncertainty"),
    *("ensemble", "soup", "compare", "diff", "diagnose", "submit", "check", "record", "results", "audit", "report"),
    *("onnx", "quantize", "bench", "export", "push"),
)
RAW = tiny_raw(phases=[{"epochs": 1}])
Said = Callable[..., tuple[int, str, str]]


class Place:
    """A folder, with a space and Unicode in its name, in which every verb has been used once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "tiny é.yaml"
        self.config.write_text(yaml.safe_dump(RAW), encoding="utf-8")
        self.run = folder / "runs" / "первый run"
        self.file = folder / "no label.pkl"
        self.predictions = self.run / "predictions" / "submit.npz"
        self.csv = folder / "sub missions" / "mine" / "submission.csv"
        self.ensemble = folder / "ensemble.npz"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("cli") / "with space é"
    folder.mkdir()
    place = Place(folder)
    plain, other = folder / "plain.npz", folder / "runs" / "other"
    for command in (
        ["train", "--config", place.config, "--output", place.run],
        ["unlabelled", "--config", place.config, "--output", place.file],
        ["predict", place.run, "--split", "submit", "--file", place.file],
        ["train", "--config", place.config, "--output", other, "--seed", "1", "--phases", "[{epochs: 1}]"],
        ["predict", other, "--split", "submit", "--file", place.file, "--views", "shift", "--output", plain],
        ["ensemble", place.predictions, plain, "--output", place.ensemble],
        ["submit", place.predictions, "--output", place.csv],
        ["record", place.run, "--output", folder / "sub missions" / "record"],
    ):
        assert main([str(part) for part in command]) == 0, command
    return place


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with this exit code and exactly one line on stderr; returns the line."""

    def run(code: int, *arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("cifar-small: error: ")
        assert "Traceback" not in captured.out
        return line

    return run


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_teaches(verb: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"] if verb else ["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "exit codes: 0 done; 1 a check found faults, or param_count a net over the budget; 2 usage" in shown
    if verb is None:
        assert all(re.search(rf"^  {name}( |$)", shown, re.MULTILINE) for name in VERBS)
        assert "cifar-small train --config resnet_hour " in shown
    if verb in {command.name for command in ALL if command.overrides}:
        first = "LADDER" if verb == "levels" else "CONFIG"
        assert shown.startswith(f"usage: cifar-small {verb} {first} [options] [--SETTING VALUE ...]\n")
    for example in re.findall(r"configs/[\w./-]+\.yaml", shown):
        assert (ROOT / example).exists(), f"{example} of the help is not there"


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "cifar_small", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"cifar-small {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND missing; see cifar-small --help"),
        (["trian"], "unknown command trian; did you mean train?"),
        (["results", "--recrods", "x"], "unknown option --recrods; did you mean --records?"),
        (["results", "--rec", "x"], "unknown option --rec; did you mean --records?"),
        (["results", "x"], "unexpected argument 'x'; see cifar-small results --help"),
        (["predict", "run", "--split", "val", "--foo"], "unknown option --foo; see cifar-small predict --help"),
        (["predict", "run", "--split", "tset"], "--split tset: expected one of train, val, test, submit; did you mean test?"),
        (
            ["predict", "run", "--split", "submit", "--allow-rows", "many"],
            "--allow-rows many: expected a whole number; see cifar-",
        ),
        (["predict", "run", "--split", "val", "--views", "all"], "--views: expected one of none, flip, shift"),
        (["predict", "run", "--split", "val", "--views", "flip@2"], "--views: "),
        (["predict", "run", "--split"], "--split needs a value"),
        (["compare", "a", "--plot-seeds"], "--plot-seeds needs a value"),
        (["sweep", "a.yaml", "--list", "--table"], "--table and --list exclude each other; give one of them"),
        (["check"], "CSV, --file missing; see cifar-small check --help"),
        (["train", "a.yaml", "--seed", "1", "--dry-rnu"], "unknown option --dry-rnu; did you mean --dry-run?"),
        (["train", "--learning-rate", "1", "a.yaml"], "unknown option --learning-rate; did you mean --optim.lr?"),
        (["schedule", "a.yaml", "--epoch", "1"], "unknown option --epoch; did you mean --"),
        (
            ["preview", "a.yaml", "--dry-run"],
            "unknown option --dry-run; settings are overridden by their own names: for example --optim.lr 0.2",
        ),
        (["train", "a.yaml", "--optm.lr", "1"], "unknown option --optm.lr; did you mean --optim.lr?"),
        (
            ["train", "a.yaml", "--set", "optim.lr=0.2"],
            "unknown option --set; settings are overridden by their own names: --optim.lr",
        ),
        (["train", "--cfg-options=model.stem=a b", "a.yaml"], "settings are overridden by their own names: --model.stem 'a b'"),
        (["train", "a.yaml", "seed=1"], "unexpected argument 'seed=1'; settings are overridden by their own names: --seed 1"),
        (["train", "a.yaml", "-lr", "0.1"], "unknown option -lr; did you mean --optim.lr?"),
        (["train", "a.yaml", "--gpus", "2"], "unknown option --gpus; did you mean --engine.device cuda?"),
        (["train", "a.yaml", "--num-workers", "2"], "unknown option --num-workers; did you mean --engine.workers?"),
        (["train", "a.yaml", "--mixup", "0.2"], "unknown option --mixup; did you mean --mixup_alpha?"),
        (["train", "a.yaml", "--pretrained"], "unknown option --pretrained; did you mean --weights imagenet?"),
        (["train", "a.yaml", "--amp"], "unknown option --amp; did you mean --engine.precision?"),
        (["train", "a.yaml", "--work-dir", "x"], "unknown option --work-dir; did you mean --output?"),
        (["train", "a.yaml", "--zzz", "x"], "unknown option --zzz; settings are overridden by their own names: for example"),
        (["predict", "a", "--split", "val", "--set", "a=1"], "unknown option --set; this command has no settings to override"),
        (["train", "configs/smok.yaml"], "there is no config configs/smok.yaml; did you mean configs/smoke.yaml?"),
        (["train", "resnet_hou"], "there is no config resnet_hou; did you mean resnet_hour?"),
        (
            ["train", "configs/smoke.yaml", "--model", "resnet18"],
            "--model: is a section, not one value; set what it holds, such as",
        ),
        (["train", "a.yaml", "--autoaugment"], "did you mean --augment '{engine: torchvision, policy: autoaugment_cifar10}'?"),
        (["levels", "resnet18_ladder", "--smoek"], "unknown option --smoek; did you mean --smoke?"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cifar-small: error: {message}") or message in line.partition("; ")[2]


# ------------------------------------------------------------------------------------------------------------- every verb


def test_place_holds_what_the_verbs_say(place: Place) -> None:
    images, _ = load_unlabelled(place.file, rows=360)
    expected = load_test(parse_config(RAW).data)
    assert images.ids.tolist() == list(range(360))
    assert np.array_equal(images.images, expected.images)
    first = load_predictions(place.predictions)
    assert first.meta.command.startswith("cifar-small predict ")
    lines = place.csv.read_text().splitlines()
    assert lines[0] == "ID,Labels"
    assert lines[1:] == [f"{image},{label}" for image, label in enumerate(first.predicted)]
    joined = load_predictions(place.ensemble)
    assert joined.meta.parameters == 2 * first.meta.parameters
    assert sorted(path.name for path in place.csv.parent.iterdir()) == [
        "config.yaml",
        "confusion.png",
        "metrics.csv",
        "submission.csv",
        "submission.json",
    ]
    assert (place.folder / "sub missions" / "record" / "record.json").exists()
    session = Run(place.run).sessions()[0]
    assert session.command == f"cifar-small train --config '{place.config}' --output '{place.run}'"


def test_predict_prints_accuracy_with_its_interval(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(place.run), "--split", "val", "--output", str(tmp_path / "val.npz")]) == 0
    accuracy = load_predictions(tmp_path / "val.npz").accuracy
    shown = capsys.readouterr().out
    assert re.search(rf"val accuracy {accuracy:.2%} of 200 images, 95 % interval [\d.]+% to [\d.]+%", shown)


def test_print_config_shows_overrides_and_writes_nothing(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--config", str(place.config), "--print_config", "--optim.lr", "1e-2", "--seed=7"]
    assert main([*arguments, "--phases.0.epochs", "3"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["optim"]["lr"], shown["seed"], shown["phases"][0]["epochs"]) == (0.01, 7, 3)
    assert not list(tmp_path.iterdir())


def test_check_passes_a_good_csv_and_names_the_faults_of_a_bad_one(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ["--file", str(place.file), "--config", str(place.config)]
    assert main(["check", str(place.csv), *check]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{place.csv}: valid, 360 rows"
    bad = tmp_path / "bad é.csv"
    bad.write_text(place.csv.read_text().replace("ID,Labels", "ID,Label").replace("\n7,", "\n007,"))
    assert main(["check", str(bad), *check]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 4
    assert "'ID,Label'; expected 'ID,Labels'" in lines[0]
    assert "'007," in lines[1]
    assert "1 of 360 ids, first [7]" in lines[2]
    assert lines[3] == f"{bad}: 3 faults"
    assert captured.err == ""


def test_check_without_config_or_record_expects_ten_thousand_rows_unless_told(
    place: Place, tmp_path: Path, fails: Callable[..., str]
) -> None:
    assert main(["check", str(place.csv), "--file", str(place.file)]) == 0  # as the record beside it says
    alone = shutil.copy(place.csv, tmp_path)
    assert "--allow-rows 360" in fails(3, "check", alone, "--file", place.file)
    assert main(["check", str(alone), "--file", str(place.file), "--allow-rows", "360"]) == 0


def test_check_says_what_an_empty_file_and_another_competition_are(place: Place, tmp_path: Path, said: Said) -> None:
    empty = tmp_path / "empty.csv"
    for content in ("", "\n", " \n\n"):
        empty.write_text(content)
        code, out, _ = said("check", empty, "--file", place.file, "--config", place.config)
        assert (code, out.splitlines()[0]) == (1, f"{empty}: is empty; expected the header ID,Labels and 360 rows")
    code, _, err = said("check", empty, "--file", place.file, "--allow-rows", 360)
    assert (code, err) == (
        1,
        "note: checked by the classes of CIFAR-10; for another competition, name its config by --config\n",
    )


def test_predict_submit_without_a_file_names_the_option(place: Place, fails: Callable[..., str]) -> None:
    assert fails(2, "predict", place.run, "--split", "submit").endswith("; name the unlabelled file with --file")


def test_predictions_of_an_unfinished_run_carry_a_note(place: Place, tmp_path: Path, said: Said) -> None:
    run = tmp_path / "run"
    shutil.copytree(place.run, run)
    assert "has not finished" not in said("predict", run, "--split", "val", "--output", tmp_path / "a.npz")[2]
    (run / "summary.json").unlink()
    code, _, err = said("predict", run, "--split", "val", "--output", tmp_path / "b.npz")
    assert (code, err.splitlines()[0].partition(";")[0]) == (
        0,
        f"note: {run} has not finished: these are the weights of epoch 1 of 1, the best so far",
    )


def test_resume_takes_the_run_alone(place: Place, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "moved run"
    shutil.copytree(place.run, run)
    monkeypatch.chdir(tmp_path)
    code, out, err = said("train", "--resume", run)
    assert (code, err, f"{run} is already complete: 1 epoch, val" in out) == (0, "", True)
    assert said("train", "--resume", run, "--phases.0.epochs", 2)[0] == 0
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    assert [session.command for session in Run(run).sessions()][1:] == [
        f"cifar-small train --resume '{run}' --phases.0.epochs 2"
    ]
    code, out, err = said("train", "--resume", run, "--seed", 5)
    assert (code, "seed: 0 -> 5" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


def test_resume_of_nothing(place: Place, tmp_path: Path, said: Said, fails: Callable[..., str]) -> None:
    assert "none does not exist: expected a run directory" in fails(4, "train", "--resume", tmp_path / "none")
    assert "two run directories" in fails(2, "train", "--resume", tmp_path / "a", "--output", tmp_path / "b")
    code, _, err = said("train", place.config, "--resume", tmp_path / "new")
    assert (code, err) == (0, f"note: {tmp_path / 'new'} holds nothing to resume; training starts from the beginning\n")
    assert said("train", "--resume", place.config, "--output", tmp_path / "new")[2] == ""  # the config, not a run


def test_a_config_stands_with_and_without_its_option_everywhere(
    place: Place, tmp_path: Path, said: Said, fails: Callable[..., str]
) -> None:
    for number, given in enumerate((["--config", place.config], [place.config])):
        assert said("unlabelled", *given, "--output", tmp_path / f"{number}.pkl")[0] == 0
    assert "expected one YAML file" in fails(
        2, "unlabelled", place.config, "--config", place.config, "--output", tmp_path / "x"
    )
    assert "expected one YAML file" in fails(2, "unlabelled", "--output", tmp_path / "x")
    sweep = tmp_path / "s.yaml"
    sweep.write_text(yaml.safe_dump({"name": "s", "config": str(place.config), "cells": [{"label": "a"}], "seeds": [0]}))
    for arguments in (["--config", sweep], [sweep]):
        assert "0 of 1 runs done" in said("sweep", *arguments, "--list", "--output", tmp_path / "out")[1]
    assert "is a sweep" in fails(2, "train", sweep)
    assert param_count.main(["--config", str(place.config)]) == 0


# ------------------------------------------------------------------------------------------------------------- exit codes


def test_wrong_configs_exit_with_2(place: Place, tmp_path: Path, fails: Callable[..., str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump({**RAW, "batchsize": 3, "seed": -1}))
    line = fails(2, "train", "--config", bad, "--output", tmp_path / "run")
    assert "2 problems" in line
    assert "did you mean 'batch_size'?" in line
    assert "seed" in line
    assert "none.yaml" in fails(2, "train", "--config", tmp_path / "none.yaml")
    assert "two lines.yaml" in fails(2, "train", "--config", tmp_path / "two\nlines.yaml")
    bad.write_bytes(b"name: \xff")
    assert "bad.yaml" in fails(2, "train", "--config", bad)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--optim.lrr", "0.2"], "--optim.lrr: unknown key; did you mean --optim.lr?"),
        (["--outptu", "x"], "unknown option --outptu; did you mean --output?"),
        (["--optim.lr"], "--optim.lr needs a value"),
        (["--phases.1.epochs", "3"], "error: --phases.1.epochs: phases is a list of 1"),
        (["extra"], "unexpected argument 'extra'"),
        (["--optim.lr", "-0.1"], "error: --optim.lr: input should be greater than 0, got -0.1"),
        (["--optim.lr", "-0.1", "--seed", "-1"], "error: 2 problems: --optim.lr: input should be"),
        (["--optim.lr", "["], "error: --optim.lr: line 1, column 2"),
        (["--optim.lr", "nan"], "optim.lr: "),
        (["--seed", "1", "--batch_size", "many"], "batch_size: "),
    ],
)
def test_wrong_overrides_exit_with_2(
    overrides: list[str], message: str, place: Place, tmp_path: Path, fails: Callable[..., str]
) -> None:
    assert message in fails(2, "train", "--config", place.config, "--output", tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()


def test_existing_output_exits_with_2_and_stays(place: Place, fails: Callable[..., str]) -> None:
    before = tree(place.folder)
    for arguments in (
        ("train", "--config", place.config, "--output", place.run),
        ("unlabelled", "--config", place.config, "--output", place.file),
        ("predict", place.run, "--split", "submit", "--file", place.file),
        ("ensemble", place.predictions, place.folder / "plain.npz", "--output", place.ensemble),
        ("submit", place.predictions, "--output", place.csv),
        ("record", place.run, "--output", place.folder / "sub missions" / "record"),
    ):
        line = fails(2, *arguments)
        assert "exists already" in line or "already holds a run" in line
        assert "--overwrite" in line or "--resume" in line
    assert tree(place.folder) == before


def test_wrong_data_files_exit_with_3(place: Place, tmp_path: Path, fails: Callable[..., str]) -> None:
    bad = tmp_path / "bad.pkl"
    bad.write_text("<html>404</html>")
    missing = tmp_path / "missing"
    for arguments in (
        ("check", place.csv, "--file", bad),
        ("check", place.csv, "--file", missing),
        ("check", missing, "--file", place.file, "--config", place.config),
        ("predict", place.run, "--split", "submit", "--file", bad, "--output", tmp_path / "out"),
        ("ensemble", bad, place.predictions, "--output", tmp_path / "out"),
        ("ensemble", place.predictions, "--output", tmp_path / "out"),
        ("submit", bad, "--output", tmp_path / "out.csv"),
        ("submit", missing, "--output", tmp_path / "out.csv"),
        ("submit", place.run / "predictions" / "val.npz", "--output", tmp_path / "out.csv"),
        ("unlabelled", "--config", _npz_config(tmp_path), "--output", tmp_path / "out"),
        ("train", "--config", _npz_config(tmp_path), "--output", tmp_path / "out"),
    ):
        fails(3, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pkl", "npz.yaml"]


def _npz_config(folder: Path) -> Path:
    """A config whose data is nowhere."""
    path = folder / "npz.yaml"
    path.write_text(yaml.safe_dump({**RAW, "data": {"source": "npz", "root": str(folder / "nowhere.npz"), "val_size": 9}}))
    return path


def test_missing_runs_exit_with_4(place: Place, tmp_path: Path, fails: Callable[..., str]) -> None:
    for arguments in (
        ("predict", tmp_path / "none", "--split", "val"),
        ("predict", tmp_path, "--split", "val"),
        ("record", tmp_path / "none", "--output", tmp_path / "out"),
    ):
        assert "expected a run directory" in fails(4, *arguments)
    assert not list(tmp_path.iterdir())


def test_over_budget_is_refused_before_data_is_looked_for(tmp_path: Path, fails: Callable[..., str]) -> None:
    config = tmp_path / "wide.yaml"
    data = {"source": "cifar10", "root": str(tmp_path / "nowhere")}
    model = {"family": "wideresnet", "depth": 28, "widen_factor": 4}
    config.write_text(yaml.safe_dump({**RAW, "data": data, "model": model, "rules": {}}))
    line = fails(2, "train", "--config", config, "--output", tmp_path / "run")
    assert "5,849,050 trainable parameters, 849,050 over the budget of 5,000,000" in line
    assert "widen_factor 3" in line
    assert "nowhere" not in line
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------------- broken places


def writers(place: Place, output: Path) -> Iterator[tuple[object, ...]]:
    """Every verb that writes, with its output under `output`."""
    yield "train", "--config", place.config, "--output", output / "run"
    yield "predict", place.run, "--split", "val", "--output", output / "val.npz"
    yield "ensemble", place.predictions, place.folder / "plain.npz", "--output", output / "ensemble.npz"
    yield "submit", place.predictions, "--output", output / "submission.csv"
    yield "record", place.run, "--output", output / "record"
    yield "unlabelled", "--config", place.config, "--output", output / "file.pkl"


@pytest.mark.parametrize("number", range(6))
def test_a_file_where_a_folder_is_needed(number: int, place: Place, tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("precious")
    arguments = list(writers(place, tmp_path / "file"))[number]
    before = tree(place.folder)
    assert str(tmp_path / "file") in fails(2, *arguments)
    assert tree(tmp_path) == {"file": b"precious"}
    assert tree(place.folder) == before


@pytest.mark.parametrize("number", range(6))
def test_a_new_folder_is_made(number: int, place: Place, tmp_path: Path) -> None:
    arguments = list(writers(place, tmp_path / "new" / "deeper"))[number]
    if number:  # training is known to do so
        assert main([str(argument) for argument in arguments]) == 0
        assert tree(tmp_path)


@pytest.mark.parametrize("number", range(6))
def test_a_full_disk_leaves_nothing_half_written(
    number: int, place: Place, tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = list(writers(place, tmp_path))[number]
    before = tree(place.folder)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in fails(2, *arguments)
    assert tree(tmp_path) == {}
    assert tree(place.folder) == before


@pytest.mark.parametrize("number", range(1, 6))
def test_a_name_that_is_too_long(number: int, place: Place, tmp_path: Path, fails: Callable[..., str]) -> None:
    arguments = list(list(writers(place, tmp_path))[number])
    arguments[-1] = tmp_path / f"{'n' * 300}{Path(str(arguments[-1])).suffix}"
    assert "too long" in fails(2, *arguments)
    assert tree(tmp_path) == {}


def test_a_readme_that_cannot_be_written_keeps_its_text(place: Place, tmp_path: Path, fails: Callable[..., str]) -> None:
    readme = tmp_path / "README.md"
    text = f"precious\n{BEGIN}\n{END}\n"
    readme.write_text(text)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, old[1]))  # every longer file fails as on a full disk
    try:
        line = fails(2, "results", "--records", place.folder / "sub missions", "--write", readme)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "README.md" in line
    assert readme.read_text() == text


# ---------------------------------------------------------------------------------------------------------------- results


def test_results_are_printed_and_put_between_the_markers(
    place: Place, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    records = place.folder / "sub missions"
    assert main(["results", "--records", str(records)]) == 0
    printed = capsys.readouterr().out
    assert "| tiny | digits, 256 images |" in printed
    readme = place.folder / "README.md"  # links in it start from its folder
    assert "README.md" in fails(2, "results", "--records", records, "--write", readme)
    readme.write_text(f"é\n{BEGIN}\n{END}\nend\n", encoding="utf-8")
    assert main(["results", "--records", str(records), "--write", str(readme)]) == 0
    assert readme.read_text(encoding="utf-8") == f"é\n{BEGIN}\n{printed}{END}\nend\n"
    readme.write_text("no markers")
    assert "once, in this order" in fails(3, "results", "--records", records, "--write", readme)


def test_results_into_a_file_that_is_not_text(place: Place, tmp_path: Path, fails: Callable[..., str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes(b"\xff")
    assert "README.md" in fails(3, "results", "--records", place.folder / "sub missions", "--write", readme)

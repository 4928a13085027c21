"""A submission CSV is right to the byte, or it is refused and nothing is written; and every fault of any CSV is named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import NAMES, made, reading_of, session_of, summary_of

from cifar_small.cli.main import main
from cifar_small.config import own_code
from cifar_small.config.hashing import config_dict, config_hash, dump_config
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Rules
from cifar_small.data import write_unlabelled
from cifar_small.errors import CheckpointError, ConfigError, DataError, DiskError, UserError
from cifar_small.files import sha256_bytes, sha256_file, write_atomic
from cifar_small.inference.ensemble import combine
from cifar_small.models import build_model
from cifar_small.models.counting import count_parameters, trainable_parameters
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions
from cifar_small.runs.recording import write_record
from cifar_small.submission import submission_file
from cifar_small.submission.csv_form import rules_of_sample
from cifar_small.submission.submission_file import check_rules, find_faults, read_csv, render_csv, submit, submit_file
from cifar_small.training.train import train

RULES, BY_NAME = Rules(), Rules(submission="id,label")
IMAGENET = "r18, trained on imagenet"
GOOD = b"ID,Labels\n0,3\n1,1\n2,4\n"
FAULTLESS_ROWS = "0,3\n1,1\n2,4\n"


def faults_of(content: bytes | str, ids: Any = (0, 1, 2), rules: Rules = RULES) -> list[str]:
    return find_faults(content.encode() if isinstance(content, str) else content, np.array(ids), NAMES, rules)


def finished_run(folder: Path, **rules: Any) -> Run:
    """A run directory that has ended, with weights as they were at random."""
    run = Run(folder)
    config = parse_config(tiny_raw(rules={"max_params": 100_000, **rules}))
    model = build_model(config.model, 10)
    save_checkpoint(
        run.best,
        {
            "weights": model.state_dict(),
            "config": config_dict(config),
            "classes": list(NAMES),
            "mean": [0.5] * 3,
            "std": [0.2] * 3,
            "parameters": count_parameters(model),
            "epoch": 1,
            "val_accuracy": 0.5,
            "selection": "best",
            "data": {"source": "digits"},
            "lineage": [],
        },
    )
    run.config_file.write_text(dump_config(config))
    run.metrics_file.write_text("epoch,lr\n1,0.1\n")
    run.summary_file.write_text(json.dumps(summary_of(weights_sha256=sha256(run.best))))
    run.env_file.write_text(json.dumps({"sessions": [session_of()]}))
    run.append_test_reading(**reading_of(0.25))
    return run


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------------------------------------------------------- writing


def test_class_names_that_are_numbers_are_the_labels() -> None:
    months = tuple(str(month) for month in range(1, 13))
    predictions = made([3, 1, 11], classes=months)
    content = render_csv(predictions, RULES)
    assert content == b"ID,Labels\n0,4\n1,2\n2,12\n"
    assert read_csv(content, predictions.ids, months, RULES) == ({0: 3, 1: 1, 2: 11}, [])
    faults = find_faults(content.replace(b",4", b",0"), predictions.ids, months, RULES)
    assert "has 1 row whose label is not the number of a class, first in line 2: '0,0'" in faults


def test_bytes_of_class_indices() -> None:
    assert render_csv(made([3, 1, 4]), RULES) == b"ID,Labels\n0,3\n1,1\n2,4\n"


def test_bytes_of_class_names() -> None:
    assert render_csv(made([3, 1, 4]), BY_NAME) == b"id,label\n0,cat\n1,automobile\n2,deer\n"


def test_ids_stand_as_given_and_in_file_order() -> None:
    assert render_csv(made([9, 0, 2], [4711, 3, 1000]), RULES) == b"ID,Labels\n4711,9\n3,0\n1000,2\n"


def test_submit_writes_csv_and_record(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    predictions = made([3, 1, 3], [7, 5, 6], weights_sha256=sha256(run.best))
    output = tmp_path / "new folder é" / "mine.csv"
    returned = submit(predictions, output, run=run, command="cifar-small submit x")
    content = output.read_bytes()
    assert content == b"ID,Labels\n7,3\n5,1\n6,3\n"
    record = json.loads((output.parent / "mine.json").read_text())
    assert record == returned.plain()
    assert record["submission"] == "mine.csv"
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["rows"] == 3
    assert record["command"] == "cifar-small submit x"
    assert record["class_counts"] == {**dict.fromkeys(NAMES, 0), "cat": 2, "automobile": 1}
    assert record["predictions"] == predictions.meta.plain()
    assert record["run"]["summary"]["val_accuracy"] == 0.5
    assert record["run"]["sessions"] == [session_of()]
    assert [reading["accuracy"] for reading in record["run"]["test_readings"]] == [0.25]
    written = sorted(path.name for path in output.parent.iterdir())
    assert written == ["config.yaml", "metrics.csv", "mine.csv", "mine.json"]
    assert (output.parent / "config.yaml").read_bytes() == run.config_file.read_bytes()


def test_record_of_an_ensemble_has_no_run(tmp_path: Path) -> None:
    members = [{"name": "a", "parameters": 5}, {"name": "b", "parameters": 6}]
    record = submit(made(members=members, parameters=11), tmp_path / "a.csv").plain()
    assert "run" not in record
    assert record["predictions"]["members"] == members


def test_parameters_are_counted_again_wherever_the_predictions_lie(tmp_path: Path) -> None:
    config = parse_config(tiny_raw())
    count = trainable_parameters(config.model, 10)
    net = {"name": "tiny", "config": config_dict(config), "parameters": count}
    submit(made(**net), tmp_path / "right.csv")
    with pytest.raises(DataError, match=f"says that tiny .* has 7 parameters; its net has {count:,}; predict again"):
        submit(made(**{**net, "parameters": 7}), tmp_path / "a.csv")
    members = [net, {**net, "parameters": 8}]
    with pytest.raises(DataError, match=f"says that tiny has 8 parameters; its net has {count:,}"):
        submit(made(members=members, parameters=count + 8), tmp_path / "b.csv")
    with pytest.raises(DataError, match=rf"says 9 parameters; its members have {2 * count:,}"):
        submit(made(members=[net, net], parameters=9), tmp_path / "c.csv")
    assert [path.name for path in tmp_path.glob("*.csv")] == ["right.csv"]


def test_exactly_the_budget_passes_and_one_more_does_not(tmp_path: Path) -> None:
    submit(made(parameters=5_000_000), tmp_path / "exact.csv")
    with pytest.raises(ConfigError, match=r"5,000,001 trainable parameters, 1 over the budget of 5,000,000"):
        submit(made(parameters=5_000_001), tmp_path / "over" / "a.csv")
    assert not (tmp_path / "over").exists()


def test_sum_of_an_ensemble_counts(tmp_path: Path) -> None:
    joined = made(parameters=5_000_001, members=[{"name": "a", "parameters": 5_000_000}, {"name": "b", "parameters": 1}])
    with pytest.raises(ConfigError, match="1 over the budget"):
        submit(joined, tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


CLEAN_AND_NOT = [{"name": "clean", "parameters": 5, "lineage": []}, {"name": "net", "parameters": 5, "lineage": [IMAGENET]}]


@pytest.mark.parametrize("members", [[], CLEAN_AND_NOT])
def test_pretrained_needs_rules_that_allow_it(members: list[Any], tmp_path: Path) -> None:
    facts: dict[str, Any] = {"members": members, "parameters": 10} if members else {"lineage": [IMAGENET]}
    with pytest.raises(ConfigError, match=r"net started from other weights \(r18, trained on imagenet\).*pretrained: false"):
        submit(made(**facts), tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())
    submit(made(**facts, rules={"pretrained": True}), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").exists()


@pytest.mark.parametrize(
    ("predictions", "name", "message"),
    [
        (made(labels=[3, 1, 4], split="val"), "a.csv", "labelled split"),
        (made(), "a.txt", r"a\.txt; expected a name ending in \.csv"),
        (made(), "a", r"expected a name ending in \.csv"),
        (made(classes=("=cmd()", *NAMES[1:]), rules={"submission": "id,label"}), "a.csv", r"class name '=cmd\(\)'"),
        (made(classes=("a,b", *NAMES[1:]), rules={"submission": "id,label"}), "a.csv", "class name 'a,b'"),
        (made(classes=('a"', *NAMES[1:]), rules={"submission": "id,label"}), "a.csv", "class name"),
        (made(classes=("a\nb", *NAMES[1:]), rules={"submission": "id,label"}), "a.csv", "class name"),
        (made(classes=("-1", *NAMES[1:]), rules={"submission": "id,label"}), "a.csv", "class name '-1'"),
        (made(classes=("", *NAMES[1:]), rules={"submission": "id,label"}), "a.csv", "class name ''"),
        (
            made(classes=("cat", *NAMES[1:]), rules={"submission": "id,label"}, predicted=[0, 1, 3]),
            "a.csv",
            "two classes have one name",
        ),
    ],
)
def test_refused_and_nothing_written(predictions: Predictions, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        submit(predictions, tmp_path / "deep" / name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_index_format_does_not_mind_the_names(tmp_path: Path) -> None:
    submit(made(classes=("=cmd()", *NAMES[1:])), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == GOOD


@pytest.mark.parametrize("existing", ["a.csv", "a.json"])
def test_existing_output_stays_unless_overwritten(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).write_text("precious")
    with pytest.raises(UserError, match=rf"{existing} exists already"):
        submit(made(), tmp_path / "a.csv")
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"
    submit(made(), tmp_path / "a.csv", overwrite=True)
    assert (tmp_path / "a.csv").read_bytes() == GOOD
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == 3


def test_unfinished_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    run.summary_file.unlink()
    with pytest.raises(CheckpointError, match="has not finished"):
        submit(made(weights_sha256=sha256(run.best)), tmp_path / "out" / "a.csv", run=run)
    assert not (tmp_path / "out").exists()


def test_failed_overwrite_keeps_the_earlier_submission(tmp_path: Path) -> None:
    output = tmp_path / "a.csv"
    submit(made(), output)
    with pytest.raises(DataError):
        submit(made(ids=[-1, 0, 1]), output, overwrite=True)
    assert output.read_bytes() == GOOD


def test_run_whose_weights_are_others_by_now_is_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"a\.npz .*other weights than .*best\.pt now holds; predict again"):
        submit(made(weights_sha256="before it was resumed", file="a.npz"), tmp_path / "out" / "a.csv", run=run)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_leaves_no_csv_without_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path / "run")
    predictions = made(weights_sha256=sha256(run.best))
    for successes in range(30):
        folder, left = tmp_path / str(successes), iter(range(successes))

        def fill(descriptor: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fill)
        try:
            submit(predictions, folder / "a.csv", run=run)
            finished = True
        except UserError:
            finished = False
        names = {path.name for path in folder.iterdir()}
        assert names <= {"config.yaml", "metrics.csv", "a.csv", "a.json"}
        if "a.csv" in names:
            assert (folder / "a.csv").read_bytes() == GOOD
            assert json.loads((folder / "a.json").read_text())["sha256"] == sha256(folder / "a.csv")
        if finished:
            break
    assert successes == 8  # two for each file: its content and its name


def test_files_beside_the_csv_are_never_replaced_silently(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"config.yaml exists already"):
        submit(made(weights_sha256=sha256(run.best)), tmp_path / "a.csv", run=run)
    assert (tmp_path / "config.yaml").read_text() == "mine"
    assert not (tmp_path / "a.csv").exists()
    assert not (tmp_path / "a.json").exists()


OWN_MODEL = {"family": "my_net.py:Net", "sha256": hashlib.sha256(b"as trained").hexdigest()}


def run_of_own_net(folder: Path, monkeypatch: pytest.MonkeyPatch, **summary: Any) -> Run:
    """A finished run of a net of the user's own, whose weights are not loaded again."""
    run = finished_run(folder)
    run.config_file.write_text(dump_config(config := parse_config(tiny_raw(model=OWN_MODEL))))
    (folder / "my_net.py").write_text("as trained")
    monkeypatch.setattr(own_code, "KEPT", folder / "kept")
    for text in ("as trained", "another"):
        write_atomic(own_code._kept(sha256_bytes(text.encode())), text.encode())
    facts = {"weights_sha256": sha256(run.best), "config_sha256": config_hash(config), **summary}
    run.summary_file.write_text(json.dumps(summary_of(**facts)))
    monkeypatch.setattr(submission_file, "_check_weights", lambda *_: None)
    return run


@pytest.mark.parametrize("name", ["my_net.py", "config.yaml", "metrics.csv"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_work_beside_the_csv_is_not_replaced_though_asked_to(
    name: str, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of_own_net(tmp_path / "run", monkeypatch)
    (tmp_path / name).write_text("edited since")
    with pytest.raises(
        UserError, match=rf"{name} exists already, differs from .*run/{name}, and no record beside it"
    ) as caught:
        submit(made(weights_sha256=sha256(run.best)), tmp_path / "a.csv", run=run, overwrite=overwrite)
    assert caught.value.remedy == ("output",)
    assert (tmp_path / name).read_text() == "edited since"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["run", name])
    with pytest.raises(UserError, match="no record beside it names it"):
        write_record(run, tmp_path, overwrite=overwrite)


def test_what_a_record_names_is_replaced_by_that_of_a_longer_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of_own_net(tmp_path / "run", monkeypatch)
    run.summary_file.write_text(
        json.dumps({**json.loads(run.summary_file.read_text()), "metrics_sha256": sha256(run.metrics_file)})
    )
    target = write_record(run, tmp_path / "mine").parent
    run.metrics_file.write_text("epoch,lr\n1,0.1\n2,0.1\n")
    other = {**OWN_MODEL, "sha256": hashlib.sha256(b"another").hexdigest()}
    run.config_file.write_text(dump_config(parse_config(tiny_raw(model=other))))
    (run.folder / "my_net.py").write_text("another")
    write_record(run, target, overwrite=True)
    for name in ("config.yaml", "metrics.csv", "my_net.py"):
        assert (target / name).read_bytes() == (run.folder / name).read_bytes()


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_another_record_in_the_folder_are_not_replaced(overwrite: bool, tmp_path: Path) -> None:
    first, other = finished_run(tmp_path / "first"), finished_run(tmp_path / "other")
    for run, seed in ((first, 0), (other, 1)):
        run.config_file.write_text(dump_config(config := parse_config(tiny_raw(seed=seed))))
        facts = {"weights_sha256": sha256(run.best), "config_sha256": config_hash(config)}
        run.summary_file.write_text(json.dumps(summary_of(**facts)))
    folder = tmp_path / "mine"
    submit(made(weights_sha256=sha256(first.best)), folder / "a.csv", run=first)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"mine/config\.yaml is of the record a\.json beside it and differs from .*other"):
        submit(made(weights_sha256=sha256(other.best)), folder / "b.csv", run=other, overwrite=overwrite)
    with pytest.raises(UserError, match=r"mine/config\.yaml is of the record a\.json"):
        write_record(other, folder, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    submit(made([1, 2, 3], weights_sha256=sha256(first.best)), folder / "b.csv", run=first)  # of the same run
    (folder / "b.json").unlink()
    if overwrite:  # the record that is replaced may lose its files
        submit(made(weights_sha256=sha256(other.best)), folder / "a.csv", run=other, overwrite=True)
        assert (folder / "config.yaml").read_bytes() == other.config_file.read_bytes()


def test_a_csv_that_cannot_be_written_takes_nothing_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of_own_net(tmp_path / "run", monkeypatch)
    (tmp_path / "my_net.py").write_text("as trained")
    (tmp_path / "a.json").write_text("of an earlier submission")
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*a\.csv"):
        submit(made(weights_sha256=sha256(run.best)), tmp_path / "a.csv", run=run, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json", "my_net.py", "run"]
    assert (tmp_path / "a.json").read_text() == "of an earlier submission"


def test_a_csv_that_cannot_be_written_leaves_the_earlier_entry_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of_own_net(tmp_path / "run", monkeypatch, metrics_sha256=sha256(finished_run(tmp_path / "first").metrics_file))
    submit(made(weights_sha256=sha256(run.best)), tmp_path / "mine" / "a.csv", run=run)
    (tmp_path / "mine" / "a.csv").write_text("an earlier one")
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    run.metrics_file.write_text("epoch,lr\n1,0.1\n2,0.1\n")
    write = submission_file.write_atomic

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".csv":
            raise DiskError(f"cannot write {path}: the disk is full")
        write(path, content)

    monkeypatch.setattr(submission_file, "write_atomic", full)
    with pytest.raises(DiskError):
        submit(made(weights_sha256=sha256(run.best)), tmp_path / "mine" / "a.csv", run=run, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


def test_a_run_of_somebody_else_plants_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of_own_net(tmp_path / "run", monkeypatch)
    (run.folder / "my_net.py").write_text("edited since")
    write_record(run, tmp_path / "mine")
    assert (tmp_path / "mine" / "my_net.py").read_text() == "as trained"
    monkeypatch.setattr(own_code, "KEPT", tmp_path / "another_machine")
    with pytest.raises(ConfigError, match=r"my_net\.py .* is code that has not been used on this machine; read it"):
        write_record(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_weights_are_counted_again_whatever_the_file_says(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", max_params=100)
    with pytest.raises(ConfigError, match="over the budget of 100"):
        submit(made(parameters=99, weights_sha256=sha256(run.best)), tmp_path / "out" / "a.csv", run=run)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("budget", "lineage", "message"),
    [
        (100, [], "over the budget of 100"),
        (100_000, [IMAGENET], r"tiny started from other weights \(r18, trained on imagenet\)"),
    ],
)
def test_checkpoints_of_an_ensembles_members_are_counted_and_judged_whatever_its_file_says(
    budget: int, lineage: list[str], message: str, tmp_path: Path
) -> None:
    run = finished_run(tmp_path / "run", max_params=budget)
    save_checkpoint(run.best, {**load_checkpoint(run.best), "lineage": lineage})
    member = made(parameters=50, name="a", seed=1).with_meta(weights_sha256=sha256(run.best))
    joined = combine([member, made(parameters=49, name="b", seed=2)])
    with pytest.raises(ConfigError, match=message):
        submit(joined, tmp_path / "out" / "a.csv", runs=[run])
    assert not (tmp_path / "out").exists()
    assert submit(joined, tmp_path / "a.csv").uncounted == ["a (seed 1)", "b (seed 2)"]


def test_lineage_survives_an_ensemble_of_ensembles() -> None:
    inner = combine([made(seed=1, name="imagenet net", lineage=[IMAGENET]), made(seed=2)])
    with pytest.raises(ConfigError, match="imagenet"):
        check_rules(combine([inner, made(seed=3)]))


def test_another_number_of_images_than_the_rules_name_is_refused_unless_allowed(tmp_path: Path) -> None:
    """Predicted under rules that name none, submitted under those of a competition."""
    three = made()
    with pytest.raises(DataError, match=r"is of 3 images; the rules expect 10,000 \(if that is right, predict again"):
        submit(three, tmp_path / "a.csv", rules=Rules(rows=10_000))
    assert not list(tmp_path.iterdir())
    assert submit(three.with_meta(allowed_rows=3), tmp_path / "a.csv", rules=Rules(rows=10_000)).rows == 3


def test_a_config_two_folders_above_makes_no_run(tmp_path: Path) -> None:
    """A working folder with a config of one's own, and predictions in a folder of it."""
    (tmp_path / "config.yaml").write_text("name: mine\n")
    made().save(tmp_path / "preds" / "submit.npz")
    _, record = submit_file(tmp_path / "preds" / "submit.npz", tmp_path / "out" / "a.csv")
    assert record.run is None


# ---------------------------------------------------------------------------------------------------------------- reading


def test_a_csv_that_reads_back_as_other_labels_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission_file, "render_csv", lambda *_: b"ID,Labels\n0,1\n1,1\n2,4\n")
    with pytest.raises(DataError, match="reads back as other labels; nothing was written"):
        submit(made([3, 1, 4]), tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_good_csv_has_no_faults() -> None:
    assert faults_of(GOOD) == []
    assert read_csv(GOOD, np.arange(3), NAMES, RULES) == ({0: 3, 1: 1, 2: 4}, [])
    assert faults_of("id,label\n0,cat\n1,dog\n2,cat\n", rules=BY_NAME) == []


H, LABEL, ID = "ID,Labels\n", "whose label is not an integer from 0 to 9", "whose id is not a plain integer"
MISSING = "gives no valid label for"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("ImageID,Label\n" + FAULTLESS_ROWS, ["has the header 'ImageID,Label'; expected 'ID,Labels'"]),
        ("ID,Category\n" + FAULTLESS_ROWS, ["has the header 'ID,Category'; expected 'ID,Labels'"]),
        ("ID,Label\n" + FAULTLESS_ROWS, ["has the header 'ID,Label'; expected 'ID,Labels'"]),
        ("id,labels\n" + FAULTLESS_ROWS, ["has the header 'id,labels'; expected 'ID,Labels'"]),
        ("ID, Labels\n" + FAULTLESS_ROWS, ["has the header 'ID, Labels'; expected 'ID,Labels'"]),
        ("Labels,ID\n" + FAULTLESS_ROWS, ["has the header 'Labels,ID'; expected 'ID,Labels'"]),
        ("ID;Labels\n" + FAULTLESS_ROWS, ["has the header 'ID;Labels'; expected 'ID,Labels'"]),
        (FAULTLESS_ROWS, ["has the header '0,3'; expected 'ID,Labels'", f"{MISSING} 1 of 3 ids, first [0]"]),
        (b"\xef\xbb\xbf" + GOOD, ["starts with a byte order mark"]),
        (GOOD.replace(b"\n", b"\r\n"), ["has 4 carriage returns"]),
        (GOOD.replace(b"\n", b"\r"), ["has 4 carriage returns"]),
        (H + '"0","3"\n1,1\n2,4\n', ["has 4 quotation marks"]),
        (H + "00000,3\n1,1\n2,4\n", [f"has 1 row {ID}", "line 2: '00000,3'", f"{MISSING} 1 of 3 ids, first [0]"]),
        (H + "0,3\n1.0,1\n2,4\n", [f"has 1 row {ID}", "line 3: '1.0,1'", f"{MISSING} 1 of 3 ids, first [1]"]),
        (H + "-0,3\n1,1\n2,4\n", [f"has 1 row {ID}", f"{MISSING} 1 of 3"]),
        (H + "0,3\n1,1\n2,4\n-1,4\n", [f"has 1 row {ID}", "line 5: '-1,4'"]),
        (H + " 0,3\n1,1\n2,4\n", [f"has 1 row {ID}", f"{MISSING} 1 of 3"]),
        (H + "0,3\n1,1\n1,1\n2,4\n", ["has 1 row with an id that was given before", "line 4: '1,1'"]),
        (H + "0,3\n2,4\n", [f"{MISSING} 1 of 3 ids, first [1]"]),
        (H, [f"{MISSING} 3 of 3 ids, first [0, 1, 2]"]),
        (H + "0,3\n1,1\n2,4\n3,4\n", ["has 1 row whose id is not in the file", "line 5: '3,4'"]),
        (H + "0,3\n1,1\n7,4\n", ["has 1 row whose id is not in the file", f"{MISSING} 1 of 3 ids, first [2]"]),
        (H + f"0,3\n1,1\n2,4\n{10**30},4\n", [f"has 1 row {ID}"]),
        (H + "0,3\n1,10\n2,4\n", [f"has 1 row {LABEL}", "line 3: '1,10'", f"{MISSING} 1 of 3 ids, first [1]"]),
        (H + "0,3\n1,-1\n2,4\n", [f"has 1 row {LABEL}", f"{MISSING} 1 of 3"]),
        (H + "0,3\n1,1.0\n2,4\n", [f"has 1 row {LABEL}", f"{MISSING} 1 of 3"]),
        (H + "0,3\n1,01\n2,4\n", [f"has 1 row {LABEL}", f"{MISSING} 1 of 3"]),
        (H + "0,3\n1,\n2,4\n", [f"has 1 row {LABEL}", f"{MISSING} 1 of 3"]),
        (H + "0,3\n1,\u0661\n2,4\n", [f"has 1 row {LABEL}", f"{MISSING} 1 of 3"]),
        (H + "0,cat\n1,dog\n2,cat\n", [f"has 3 rows {LABEL}", "line 2: '0,cat'", f"{MISSING} 3 of 3"]),
        (H + "0,3\n1,=1+1\n2,4\n", [f"has 1 row {LABEL}", f"{MISSING} 1 of 3"]),
        (
            ",ID,Labels\n0,0,3\n1,1,1\n2,2,4\n",
            ["has the header ',ID,Labels'", "has 3 rows without exactly two values", f"{MISSING} 3 of 3"],
        ),
        (H + "0\t3\n1\t1\n2\t4\n", ["has 3 rows without exactly two values", f"{MISSING} 3 of 3"]),
        (H + "2,4\n0,3\n1,1\n", ["in another order"]),
        (H + FAULTLESS_ROWS + "\n", ["has 1 row without exactly two values"]),
        (H + FAULTLESS_ROWS + "total 3\n", ["has 1 row without exactly two values", "line 5: 'total 3'"]),
        (H + FAULTLESS_ROWS + "2,4", ["does not end with a line end", "with an id that was given before"]),
        (H + "0,3\n1,1\n2,4", ["does not end with a line end"]),
        (H + "0,3\n1,1\n2,", ["does not end with a line end", f"has 1 row {LABEL}", f"{MISSING} 1 of 3"]),
        (b"", ["is empty; expected the header ID,Labels and 3 rows"]),
        (b"\0" * 100, ["contains NUL bytes"]),
        (GOOD + b"\0", ["contains NUL bytes", "does not end"]),
        (b"ID,Labels\n0,3\n1,\xff\n2,4\n", ["is not UTF-8: byte 0xff at offset 16"]),
        (GOOD.decode().encode("utf-16"), ["is not UTF-8"]),
    ],
)
def test_each_fault_is_named(content: bytes | str, expected: list[str]) -> None:
    faults = faults_of(content)
    shown = "; ".join(faults)
    for part in expected if "NUL" not in expected[0] else expected[:1]:
        assert part in shown
    assert len(faults) <= len(expected), f"more than there is: {faults}"


def test_names_where_indices_belong_and_the_other_way_round() -> None:
    (fault, missing) = faults_of("id,label\n0,cat\n1,3\n2,Cat\n", rules=BY_NAME)
    assert fault == ("has 2 rows whose label is not a class name (airplane, automobile, bird, ...), first in line 3: '1,3'")
    assert missing == f"{MISSING} 2 of 3 ids, first [1, 2]"


def test_one_label_for_all_is_a_fault_from_a_hundred_images_on() -> None:
    def same(count: int) -> str:
        return H + "".join(f"{image},7\n" for image in range(count))

    assert faults_of(same(99), range(99)) == []
    (fault,) = faults_of(same(100), range(100))
    assert fault == "gives every image the same label, horse: a broken model?"


def test_all_faults_are_named_at_once() -> None:
    content = '\ufeffID,Label\r\n00,3\r\n"1",1\r\n2,99\r\n3,1\r\n3,1\r\n77,1\r\n4,4,4\r\n5,2'
    shown = "; ".join(faults_of(content, range(8)))
    for part in (
        "byte order mark",
        "8 carriage returns",
        "2 quotation marks",
        "does not end with a line end",
        "header 'ID,Label'",
        f"1 row {ID}",
        f"1 row {LABEL}",
        "1 row with an id that was given before",
        "1 row whose id is not in the file",
        "1 row without exactly two values",
        f"{MISSING} 5 of 8 ids, first [0, 2, 4, 6, 7]",
    ):
        assert part in shown


def test_other_order_is_named_beside_other_faults() -> None:
    shown = "; ".join(faults_of("ID,Label\n2,4\n0,3\n1,1\n"))
    assert "header" in shown
    assert "order" in shown


def test_a_stray_quotation_mark_in_a_long_file_is_a_fault_and_no_crash() -> None:
    ids = range(20_000)
    content = 'ID,Labels\n0,"3\n' + "".join(f"{image},3\n" for image in ids[1:])
    shown = "; ".join(faults_of(content, ids))
    assert "1 quotation marks" in shown


# ------------------------------------------------------------------------------------------------------------ random input


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One to three random edits, of the kinds that editors, spreadsheets, disks and scripts make."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place, lines = rng.randrange(len(content) + 1), content.split(b"\n")
        row = rng.randrange(len(lines))
        kind = rng.randrange(9)
        if kind == 0 and place < len(content):
            content = content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        elif kind == 1:
            content = content[:place] + bytes([rng.choice(b'0123456789,\n\r" \t.-+;eE\0\xef')]) + content[place:]
        elif kind == 2:
            content = content[:place] + content[place + rng.randrange(1, 4) :]
        elif kind == 3:
            content = content[:place] or b"\n"
        elif kind == 4:
            content = b"\n".join(lines[:row] + lines[row : row + 1] + lines[row:])
        elif kind == 5:
            content = b"\n".join(lines[:row] + lines[row + 1 :]) or b"\n"
        elif kind == 6:
            other = rng.randrange(len(lines))
            lines[row], lines[other] = lines[other], lines[row]
            content = b"\n".join(lines)
        elif kind == 7:
            content = content.replace(*rng.choice(((b"\n", b"\r\n"), (b",", b";"), (b",", b", "), (b"Labels", b"Label"))))
        else:
            lines[row] = rng.choice((b"%s.0", b'"%s"', b"0%s", b" %s", b"%s ", b"%s,0")) % lines[row]
            content = b"\n".join(lines)
    return content


def test_mutants_never_crash_the_reader_and_never_pass_with_other_answers() -> None:
    """A mutant without a fault is, byte for byte, what the writer writes for the answers read; so its ids, rows and order are
    the original's, and its answers too unless the edit made one valid label another."""
    rng, ids = random.Random(20_24), np.array([5, 1, 12, 3, 8, 90, 91, 7])
    original = made([3, 1, 4, 1, 5, 9, 2, 6], ids)
    good = render_csv(original, RULES)
    truth = dict(zip(ids.tolist(), original.predicted.tolist(), strict=True))
    passed = relabelled = 0
    for _ in range(10_000):
        mutant = mutate(good, rng)
        answers, faults = read_csv(mutant, ids, NAMES, RULES)
        assert answers.keys() <= truth.keys()
        assert all(0 <= label <= 9 for label in answers.values())
        if faults:
            continue
        passed += 1
        assert mutant == b"ID,Labels\n" + b"".join(b"%d,%d\n" % (image, answers[image]) for image in ids.tolist())
        changed = [image for image in truth if answers[image] != truth[image]]
        relabelled += bool(changed)
        if not changed:
            assert mutant == good
        else:  # only digits of labels differ
            assert len(mutant) == len(good)
            differing = [at for at, (new, old) in enumerate(zip(mutant, good, strict=True)) if new != old]
            assert len(differing) == len(changed)
            assert all(good[at - 1 : at] == b"," and good[at + 1 : at + 2] == b"\n" for at in differing)
    assert 0 < relabelled < passed < 1500  # the test sees both kinds, and most mutants are refused


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, 10**18 - 1), min_size=1, max_size=40, unique=True))
    predicted = data.draw(st.lists(st.integers(0, 9), min_size=len(ids), max_size=len(ids)))
    rules = data.draw(st.sampled_from((RULES, BY_NAME)))
    content = render_csv(made(predicted, ids), rules)
    answers, faults = read_csv(content, np.array(ids), NAMES, rules)
    assert faults == []
    assert list(answers.items()) == list(zip(ids, predicted, strict=True))
    assert re.fullmatch(rb"(ID,Labels|id,label)\n(\d+,[a-z0-9]+\n)+", content)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_fault_and_no_exception(content: bytes) -> None:
    assert content == GOOD or faults_of(content)


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet='0123,\n\r"', max_size=60))
def test_any_rows_pass_only_as_the_writer_writes_them(rows: str) -> None:
    content = (H + rows).encode()
    answers, faults = read_csv(content, np.arange(3), NAMES, RULES)
    if not faults:
        assert content == render_csv(made([answers[image] for image in range(3)]), RULES)


# ------------------------------------------------------------------------------------------------------- other competitions


def test_any_header_form_of_ids_and_kind_of_labels() -> None:
    rules = Rules(submission="Id,Category", labels="names", ids="img_000.png")
    content = render_csv(made([3, 1, 4], [7, 1000, 12]), rules)
    assert content == b"Id,Category\nimg_007.png,cat\nimg_1000.png,automobile\nimg_012.png,deer\n"
    assert read_csv(content, np.array([7, 1000, 12]), NAMES, rules) == ({7: 3, 1000: 1, 12: 4}, [])
    for wrong in ("7", "img_7.png", "img_0007.png", "img_007", "img_007.PNG", "img_-07.png", "img_\u0667\u0667\u0667.png"):
        assert rules.id_number(wrong) is None, wrong
    (fault, _) = faults_of(content.replace(b"img_007.png", b"7"), [7, 1000, 12], rules)
    assert fault.startswith("has 1 row whose id is not written as img_000.png, img_001.png, ..., first in line 2")
    with pytest.raises(ValueError, match="does not say what labels are: set labels to numbers or names"):
        Rules(submission="Id,Category")
    assert "labels" not in RULES.model_dump()  # so that the hashes of recorded configs stand
    assert "ids" not in RULES.model_dump()


def test_ids_of_19_digits_are_submitted() -> None:
    largest = 2**63 - 1
    content = render_csv(made([3], [largest]), RULES)
    assert read_csv(content, np.array([largest]), NAMES, RULES) == ({largest: 3}, [])


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("Id,Category\n00001.png,cat\n00002.png,cat\n00010.png,cat\n", ("Id,Category", "names", "00000.png")),
        ("ID,Label\n1,0\n2,0\n10,0\n", ("ID,Label", "numbers", "0")),
        ("id,label\r\n01,dog\r\n02,dog\r\n10,dog\r\n", ("id,label", "names", "00")),
        ("file,class\ntest_1,3\ntest_2,3\ntest_10,3\n", ("file,class", "numbers", "test_0")),
        ("Id,Category\nimg-1.png,cat\nimg-2.png,cat\nimg-10.png,cat\n", ("Id,Category", "names", "img-0.png")),
        ("Id,y\ncifar10/t2_001,1\ncifar10/t2_002,1\ncifar10/t2_010,1\n", ("Id,y", "numbers", "cifar10/t2_000")),
    ],
)
def test_a_sample_submission_says_how_a_csv_is_written(sample: str, expected: tuple[str, str, str]) -> None:
    rules, order = rules_of_sample(sample.encode(), np.array([1, 2, 10]), NAMES, RULES, "sample.csv")
    assert (rules.submission, rules.labels, rules.ids) == expected
    assert order.tolist() == [1, 2, 10]
    written = render_csv(made([3, 1, 4], [1, 2, 10]), rules).decode()
    pairs = zip(sample.splitlines(), written.splitlines(), strict=True)
    assert all(theirs.split(",")[0] == ours.split(",")[0] for theirs, ours in pairs)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("Id,Category\n1,cat\n2,cat\n", "is for other images than the unlabelled file: it lacks 1 id of the file, first 10"),
        (
            "Id,Category\n1,cat\n2,cat\n11,cat\n",
            "other images .*: it lacks 1 id of the file, first 10; it has 1 id that the file lacks, first 11",
        ),
        (
            "Id,Category\n1,cat\n2,cat\n2,cat\n10,cat\n",
            "other images than the unlabelled file: it has 1 id twice, first 2",
        ),
        ("Id,Category\n0,cat\n1,cat\n9,cat\n", "its ids are 0 to 9, those of the file 1 to 10; expected the same$"),
        (
            "Id,Category\n1,cow\n2,cat\n10,cat\n",
            r"such as 'cat', neither numbers \(0 to 9\) nor names of the 10 classes, the first",
        ),
        ("Id,p0,p1\n1,0.5,0.5\n", "it has a row of 3 values, 'Id,p0,p1'; expected .* two values, an id and a label$"),
        ("Id;Category\n1;cat\n", "has a row of 1 value, 'Id;Category'; .*, with a comma between them; it has semicolons"),
        (",Id,Category\n0,1,cat\n", "its first column counts the rows, as pandas writes it: save it with index=False"),
        ("Id,Category\n", "is not a sample submission: it has no row but its header"),
        (
            "Id,Category\n1,1\n2,9\n10,10\n",
            r"labels such as '1', neither numbers \(0 to 9\) nor names .*; it counts them from 1: write",
        ),
        (
            "Id" + ",c" * 10 + "\n1" + ",0.1" * 10 + "\n",
            "probabilities of each class, as it seems to want them, are not",
        ),
        (
            "Id,Category\na-1-b,cat\na-2-b,cat\na-10-b,cat\n",
            "has ids such as 'a-1-b'; expected the number of an image, alone or",
        ),
        ("Id,Category\n-1,cat\n-2,cat\n-10,cat\n", "has ids such as '-1'; expected the number of an image"),
        (
            "Id,Category\nimg1,cat\nval2,cat\nimg10,cat\n",
            "has the ids 'img1' and 'val2'; expected all of one form, such as img1",
        ),
        ("=1,Category\n1,cat\n2,cat\n10,cat\n", "has the header '=1,Category'; expected two names"),
        ("", "is not a sample submission"),
    ],
)
def test_a_sample_of_another_kind_is_refused(sample: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rules_of_sample(sample.encode(), np.array([1, 2, 10]), NAMES, RULES, "sample.csv")


def test_a_sample_that_counts_from_1_says_how_a_file_without_ids_gets_them() -> None:
    with pytest.raises(DataError, match=r"its ids are 1 to 2, those of the file 0 to 1; .* without ids is numbered from 0"):
        rules_of_sample(b"id,label\n1,cat\n2,cat\n", np.array([0, 1]), NAMES, RULES, "sample.csv")


def test_submit_and_check_take_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run" / "predictions"
    made([3, 1, 4], [5, 6, 7]).with_meta(split="submit").save(folder / "submit.npz")
    write_unlabelled(tmp_path / "test.pkl", np.arange(3 * 3072).astype(np.uint8).reshape(3, 32, 32, 3), np.array([5, 6, 7]))
    sample, csv = tmp_path / "sample_submission.csv", tmp_path / "mine" / "submission.csv"
    sample.write_text("Id,Category\n005.png,0\n006.png,0\n007.png,0\n")
    assert main(["submit", str(folder / "submit.npz"), "--output", str(csv), "--sample", str(sample)]) == 0
    assert "labels are 0 airplane, 1 automobile, 2 bird," in capsys.readouterr().out
    assert csv.read_text() == "Id,Category\n005.png,3\n006.png,1\n007.png,4\n"
    record = json.loads(csv.with_suffix(".json").read_text())
    assert record["labels"]["cat"] == "3"
    assert record["rules"]["ids"] == "000.png"
    check = ["check", str(csv), "--file", str(tmp_path / "test.pkl"), "--layout", "HWC", "--allow-rows", "3"]
    assert main([*check, "--sample", str(sample)]) == 0
    assert main(check) == 0  # the record beside it says how
    csv.with_suffix(".json").unlink()
    assert main(check) == 1


def test_a_sample_gives_its_order_and_the_predictions_follow_their_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / "predictions"
    made([3, 1, 4], [5, 6, 7]).with_meta(split="submit").save(folder / "submit.npz")
    write_unlabelled(tmp_path / "test.pkl", np.arange(3 * 3072).astype(np.uint8).reshape(3, 32, 32, 3), np.array([5, 6, 7]))
    sample, csv = tmp_path / "sample.csv", tmp_path / "mine" / "submission.csv"
    sample.write_text("Id,Category\n7,0\n5,0\n6,0\n")
    assert main(["submit", str(folder / "submit.npz"), "--output", str(csv), "--sample", str(sample)]) == 0
    assert csv.read_text() == "Id,Category\n7,4\n5,3\n6,1\n"
    order = json.loads(csv.with_suffix(".json").read_text())["order"]
    assert order == {"file": "sample.csv", "sha256": sha256_file(sample)}
    check = ["check", str(csv), "--file", str(tmp_path / "test.pkl"), "--layout", "HWC", "--allow-rows", "3"]
    assert main([*check, "--sample", str(sample)]) == 0
    assert main(check) == 1
    assert "note: the record says that the rows have the order of sample.csv; name it by --sample" in capsys.readouterr().err
    sample.write_text("Id,Category\n5,0\n6,0\n7,0\n")
    assert main([*check, "--sample", str(sample)]) == 1


def kaggle_stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, says: str = "uploaded") -> Path:
    """A program named kaggle that writes down its arguments, says something and ends with a code."""
    folder.mkdir(exist_ok=True)
    program, seen = folder / "kaggle", folder / "seen"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{seen}"\necho "{says}"\necho 403 >&2\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return seen


def test_a_submission_goes_to_kaggle_by_its_own_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    npz, csv = tmp_path / "predictions" / "submit.npz", tmp_path / "my entry" / "submission.csv"
    made([3, 1, 4], [5, 6, 7]).with_meta(split="submit").save(npz)
    command = ["submit", str(npz), "--output", str(csv), "--overwrite"]
    whole = [*command, "--kaggle", "cifar-10", "--message", "two words"]
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert main(whole) == 0
    said = capsys.readouterr().out
    assert f"kaggle competitions submit -c cifar-10 -f '{csv}' -m 'two words'" in said
    seen = kaggle_stand_in(tmp_path / "bin", monkeypatch, 0)
    assert main(whole) == 0
    assert capsys.readouterr().out.endswith("kaggle: uploaded\n")
    assert seen.read_text().splitlines() == ["competitions", "submit", "-c", "cifar-10", "-f", str(csv), "-m", "two words"]
    kaggle_stand_in(tmp_path / "bin", monkeypatch, 3)
    assert main(whole) == 2
    assert "kaggle did not take" in (err := capsys.readouterr().err)
    assert "(exit code 3: 403); the CSV is written; try again with: kaggle competitions submit" in err
    assert csv.exists()
    assert main([*command, "--message", "two words"]) == 2
    for says in ("Could not find competition - please enter a valid one", "Could not submit to competition"):
        kaggle_stand_in(tmp_path / "bin", monkeypatch, 0, says)
        assert main(whole) == 2
        out, err = capsys.readouterr()
        assert f"(exit code 0: {says}); the CSV is written; try again with: kaggle competitions submit" in err
        assert "kaggle:" not in out


def test_ids_in_the_order_of_text_are_recognized() -> None:
    ids = np.arange(12)
    rows = [f"{number},{number % 10}" for number in sorted(range(12), key=str)]
    assert any(
        "has all ids in the order of text (0, 1, 10, 100, ...), not of the file" in fault
        for fault in faults_of("\n".join(["ID,Labels", *rows, ""]), ids)
    )


@pytest.mark.parametrize("name", ["Speed limit (20km/h)", "fusée", "C++", "cat & dog", "it's", "apple/pie", "猫", "x"])
def test_a_class_may_have_any_name_that_stands_unquoted(name: str) -> None:
    predictions = made([0, 1, 0], classes=(name, "dog"))
    answers, faults = read_csv(render_csv(predictions, BY_NAME), predictions.ids, (name, "dog"), BY_NAME)
    assert (list(answers.values()), faults) == ([0, 1, 0], [])


@pytest.mark.parametrize(
    "name", ["a,b", 'the "cat"', "=1+1", "-x", "+x", "@x", " cat", "cat ", "a\nb", "a\x85b", "a\u2028b", "\t"]
)
def test_a_class_that_a_csv_would_misread_is_refused_before_training(name: str, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot stand in a CSV of names"):
        render_csv(made([0, 1, 0], classes=(name, "dog")), BY_NAME)
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    arrays = {"train_images": images, "train_labels": np.arange(40) % 2, "classes": np.array([name, "dog"])}
    np.savez(tmp_path / "a.npz", **arrays)
    data = {"source": "npz", "root": str(tmp_path / "a.npz"), "val_size": 8}
    config = tiny(data=data, rules={"submission": "id,label"}, batch_size=16)
    with pytest.raises(ConfigError, match="cannot stand in a CSV of names"):
        train(config, tmp_path / "run", quiet=True)


def test_a_run_beside_the_one_that_predicted_is_refused(tmp_path: Path) -> None:
    run, other = finished_run(tmp_path / "a"), finished_run(tmp_path / "b")
    made([0, 1, 0]).save(run.predictions / "submit.npz")
    with pytest.raises(UserError, match=r"lies in the run that predicted it, .*a; .*b has no effect: drop it"):
        submit_file(run.predictions / "submit.npz", tmp_path / "x" / "x.csv", runs=[other.folder])

"""Records are typed: all of this repository load, former formats are upgraded, a newer one is refused in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cifar_small.cli.main import main
from cifar_small.errors import DataError
from cifar_small.evaluation.compare import compare
from cifar_small.evaluation.entries import load_entries
from cifar_small.inference.predict import predict
from cifar_small.reporting.results import render_results
from cifar_small.runs.directory import Run
from cifar_small.runs.formats import FORMAT, upgrade
from cifar_small.runs.predictions import load_predictions
from cifar_small.runs.records import (
    DataFacts,
    Record,
    RunRecord,
    SoupMember,
    SubmissionRecord,
    load_record,
    parse,
    recipe_of,
)
from cifar_small.submission.audit import audit, gather

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [path for path in sorted((ROOT / "submissions").rglob("*.json")) if load_record(path) is not None]


def one() -> RunRecord:
    record = load_record(ROOT / "submissions" / "entries" / "resnet_hour" / "submission.json")
    assert isinstance(record, SubmissionRecord)
    assert record.run is not None
    return record.run


def test_all_records_of_this_repository_load_and_lose_nothing() -> None:
    assert len(RECORDS) >= 30
    for path in RECORDS:
        record = load_record(path)
        assert record is not None
        assert record.plain() == upgrade(json.loads(path.read_text()))


def test_a_newer_format_is_one_line_with_file_and_formats(tmp_path: Path) -> None:
    plain = json.loads(RECORDS[0].read_text())
    path = tmp_path / "record.json"
    for changed in ({**plain, "format": 7}, {"run": {**plain["run"], "summary": {**plain["run"]["summary"], "format": 7}}}):
        path.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=rf"^{path} has format 7; this version reads formats up to {FORMAT}: update cifar_"):
            load_record(path)


def test_a_wrong_type_names_its_key_and_an_unknown_key_is_kept() -> None:
    plain = one().plain()
    with pytest.raises(
        DataError, match=r"here is not what cifar-small writes \(summary\.epochs: input should be a valid integer"
    ):
        parse(RunRecord, {**plain, "summary": {**plain["summary"], "epochs": "20"}}, "here")
    plain["summary"]["carbon"] = 3.5
    assert parse(RunRecord, plain, "here").plain() == plain


def test_runs_that_were_extended_or_had_several_processes_are_no_seeds_of_the_plain_recipe() -> None:
    run = one()
    (session,) = run.sessions
    other_seed = run.updated(summary=run.summary.updated(seed=1))
    assert recipe_of(other_seed) == recipe_of(run)
    assert recipe_of(run).startswith(run.summary.recipe_sha256)
    two_processes = run.updated(sessions=[session.updated(processes=2)])
    extended = run.updated(sessions=[session.updated(epochs_planned=10), session.updated(epochs_planned=20)])
    resumed = run.updated(sessions=[session.updated(epochs_planned=20), session.updated(epochs_planned=20)])
    assert len({recipe_of(run), recipe_of(two_processes), recipe_of(extended)}) == 3
    assert recipe_of(resumed) == recipe_of(run)
    data = [run.summary.data.updated(sha256=digest, train_sha256="indices") for digest in "ab"]
    on_other_images = [run.updated(summary=run.summary.updated(data=one)) for one in data]
    assert len({recipe_of(each) for each in on_other_images}) == 2
    member = {"name": "a", "parameters": 1, "epoch": 1, "val_accuracy": 0.5, "weights_sha256": "w", "config_sha256": "c"}
    soups = [
        [SoupMember.model_validate({**member, "lineage": [], "taken": taken}) for taken in members]
        for members in ([True, True], [True, False], [True, True, True])
    ]
    of_soups = [run.updated(summary=run.summary.updated(soup=soup)) for soup in soups]
    assert len({recipe_of(each) for each in (run, *of_soups)}) == 4
    assert extended.extended
    assert not resumed.extended


def test_an_ensemble_of_format_1_learns_its_method() -> None:
    assert upgrade({"name": "mean of logits: a, b", "members": [{"name": "a"}]})["method"] == "logits"
    assert "method" not in upgrade({"name": "vote: a, b", "members": [{"name": "a"}]})


def test_former_names_are_upgraded_wherever_they_stand() -> None:
    found = upgrade({"run": {"summary": {"name": "r3_resnet_4443", "views": "r3"}, "test_readings": [{"views": "r3"}]}})
    assert found["run"]["summary"] == {"name": "resnet_4443_two_runs", "views": "flips_shift_blur"}
    assert found["run"]["test_readings"] == [{"views": "flips_shift_blur"}]


def test_records_are_frozen_and_equal_by_value() -> None:
    assert DataFacts(source="a") == DataFacts(source="a", train_limit=None)
    with pytest.raises(ValueError, match="frozen"):
        DataFacts(source="a").source = "b"  # type: ignore[misc]
    assert Record(run=one()).plain() == {"run": one().plain()}


FORMAT_1 = ROOT / "tests" / "data_of_format_1"


def unlabelled_of_format_1(path: Path) -> None:
    """The file that the submissions of format 1 answer."""
    numbers = np.arange(24 * 32 * 32 * 3, dtype=np.uint64) * np.uint64(2654435761)
    images = (numbers >> np.uint64(13) & np.uint64(255)).astype(np.uint8).reshape(24, 32, 32, 3)
    np.savez(path, data=images, ids=np.arange(24))


@pytest.fixture
def format_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FORMAT_1, tmp_path, dirs_exist_ok=True)
    unlabelled_of_format_1(tmp_path / "images.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_format_1_is_resumed_and_predicted(format_1: Path) -> None:
    assert main(["train", "--config", "interrupted.yaml", "--output", "runs/interrupted", "--resume"]) == 0
    run = Run("runs/interrupted")
    summary = run.summary()
    assert summary is not None
    assert (summary.format, summary.epochs, len(run.sessions())) == (FORMAT, 4, 2)
    assert [teacher.label() for teacher in summary.teachers] == ["tiny (seed 1)"]
    assert summary.lineage == ["tiny seed 0, trained on digits"]
    assert main(["predict", "runs/interrupted", "--split", "submit", "--file", "images.npz"]) == 0
    assert main(["submit", "runs/interrupted/predictions/submit.npz", "--output", "out/a.csv"]) == 0
    card = audit(gather(Path("out/a.csv"), runs=[run.folder], file=Path("images.npz")))
    assert {finding.link for finding in card.of("fail")} <= {"commit", "commit of CSV"}, str(card)  # while files are edited


def test_submissions_of_format_1_pass_their_audits(format_1: Path) -> None:
    runs = [Path("runs/tiny-seed0"), Path("runs/tiny-seed1")]
    again = predict(Run(runs[0]), "submit", file=Path("images.npz"), output=Path("again.npz"))[1]
    assert again.predicted.tolist() == load_predictions("runs/tiny-seed0/predictions/submit.npz").predicted.tolist()
    single = audit(gather(Path("entry/submission.csv"), runs=runs[:1], file=Path("images.npz")))
    assert str(single).endswith("20 pass, 0 fail, 0 not checked"), str(single)
    joint = gather(Path("ensemble/submission.csv"), runs=runs, predictions=Path("ensemble.npz"), file=Path("images.npz"))
    assert str(card := audit(joint)).endswith("35 pass, 0 fail, 0 not checked"), str(card)


def test_results_and_compare_read_format_1(format_1: Path) -> None:
    table = render_results(format_1 / "entry")
    assert (
        "| tiny | digits, 256 images | 2,742 | 4 | 1 (0) | none | 18.00 (100, *best*) | 18.06 [14.43, 22.36] (read once)"
        in table
    )
    (group,) = compare(load_entries(["runs/tiny-seed0", "runs/tiny-seed1"])).groups
    assert [row.seed for row in group.rows] == [0, 1]

"""Every kind of tampering is found and named by the link it breaks; what is whole passes; what is missing is said to be."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cifar_small import environment
from cifar_small.cli.main import main
from cifar_small.config.hashing import config_hash, dump_config, recipe_hash
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.schema import Data
from cifar_small.data import load_test, load_train, load_unlabelled, write_unlabelled
from cifar_small.errors import UserError
from cifar_small.files import sha256_file
from cifar_small.inference import predict
from cifar_small.inference.blend import blend
from cifar_small.inference.ensemble import combine
from cifar_small.inference.predict import load_net
from cifar_small.metrics.classification import wilson_interval
from cifar_small.models import build_model
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.runs.records import PredictionsMeta, parse, plain_all
from cifar_small.submission import submission_file as submission
from cifar_small.submission.audit import Card, audit, chain, gather
from cifar_small.submission.audit.card import CheckResult, Finding
from cifar_small.submission.audit.repeat import compare_again
from cifar_small.submission.submission_file import submit
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {"commit": "c0ffee" + 34 * "0", "dirty": False}
LINKS = {
    *("csv", "rows", "labels", "predictions", "record", "weights", "config", "data", "split", "summary", "selection"),
    *("parameters", "from scratch", "test images", "test readings", "seed", "commit", "budget", "unlabelled file"),
    "commit of CSV",
}


class Place:
    """A folder in which one net, and an ensemble of two, went from data to a submission."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.file = folder / "data.npz", folder / "nolabel.pkl"
        self.run, self.other = Run(folder / "runs" / "tiny-seed0"), Run(folder / "runs" / "tiny-seed1")
        self.npz, self.joint_npz = self.run.predictions / "submit.npz", folder / "joint" / "both.npz"
        self.csv, self.joint_csv = folder / "single" / "mine.csv", folder / "joint" / "both.csv"

    def audit(self, **changes: Any) -> Card:
        given_ = {"runs": [self.run.folder], "file": self.file, "data_root": str(self.data)}
        repredict = changes.pop("repredict", False)
        return audit(gather(self.csv, **{**given_, **changes}), repredict=repredict)

    def audit_joint(self, **changes: Any) -> Card:
        given_ = {"predictions": self.joint_npz, "file": self.file, "data_root": str(self.data)}
        runs = [self.run.folder, self.other.folder]
        return audit(gather(self.joint_csv, **{**given_, "runs": runs, **changes}))

    def edit_record(self, change: Callable[[dict[str, Any]], Any]) -> None:
        edit_json(self.csv.with_suffix(".json"), change)


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_predictions(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change arrays or meta of a predictions file and save it as the toolkit would."""
    old = load_predictions(path)
    meta = {key: value for key, value in old.meta.plain().items() if key not in ("file", "sha256")}
    parts = {"ids": old.ids, "logits": old.logits, "labels": old.labels, "meta": meta}
    change(parts)
    meta = parse(PredictionsMeta, parts["meta"], "edited")
    Predictions(parts["ids"], parts["logits"], parts["labels"], old.classes, meta).save(path)


def edit_best(run: Run, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what is in best.pt, with a checksum that fits."""
    state = load_checkpoint(run.best)
    change(state)
    save_checkpoint(run.best, state)


def edit_data(place: Place, change: Callable[[dict[str, Any]], Any]) -> None:
    with np.load(place.data) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez(place.data, **arrays)


def failed(card: Card) -> set[str]:
    return {finding.link for finding in card.of("fail")}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Everything made once, from committed code as far as the records know."""
    place = Place(tmp_path_factory.mktemp("audit"))
    digits = Data(source="digits")
    parts = {"train": load_train(digits).take(np.arange(400)), "test": load_test(digits).take(np.arange(100))}
    arrays: dict[str, Any] = {f"{name}_images": images.images for name, images in parts.items()}
    arrays |= {f"{name}_labels": images.labels for name, images in parts.items()}
    np.savez(place.data, classes=np.array(parts["train"].classes), **arrays)
    write_unlabelled(place.file, load_test(digits).images[100:200], np.arange(100))
    with pytest.MonkeyPatch.context() as patch:
        for module in (environment, predict, submission):
            patch.setattr(module, "commit", lambda: CLEAN)
        for run, seed in ((place.run, 0), (place.other, 1)):
            data = {"source": "npz", "root": str(place.data), "val_size": 100}
            rules = {"max_params": 100_000, "rows": 100}
            train(parse_config(tiny_raw(seed=seed, data=data, rules=rules)), run.folder, quiet=True, command="train")
            predict.predict(run, "submit", file=place.file)
        predict.predict(place.run, "test")
        predict.predict(place.run, "test", views="flip")
        submit(load_predictions(place.npz), place.csv, run=place.run)
        members = [load_predictions(run.predictions / "submit.npz") for run in (place.run, place.other)]
        combine(members).save(place.joint_npz)
        submit(load_predictions(place.joint_npz), place.joint_csv)
    return place


@pytest.fixture
def place(original: Place, tmp_path: Path) -> Place:
    """A copy to tamper with."""
    return Place(shutil.copytree(original.folder, tmp_path / "copy"))


def test_what_is_whole_passes_every_link(place: Place) -> None:
    card = place.audit(repredict=True)
    assert {finding.link for finding in card.findings} == LINKS | {"repeated"}
    assert [str(finding) for finding in card.findings if finding.verdict != "pass"] == []
    (readings,) = (finding for finding in card.findings if finding.link == "test readings")
    assert readings.found.startswith("read 2 times: 20")
    assert readings.found.count("% of 100") == 2


def test_an_ensemble_under_the_rules_of_a_config_is_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members were trained under others."""
    for module in (environment, predict, submission):
        monkeypatch.setattr(module, "commit", lambda: CLEAN)
    rules = load_config(place.run.config_file, trusted=False).rules.model_copy(update={"max_params": 90_000})
    members = [load_predictions(run.predictions / "submit.npz") for run in (place.run, place.other)]
    combine(members, rules=rules).save(place.joint_npz)
    submit(load_predictions(place.joint_npz), place.joint_csv, overwrite=True)
    assert failed(place.audit_joint()) == set()


def test_a_run_that_takes_its_last_epoch_is_judged_by_that_rule(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.6, 0.3])
    with monkeypatch.context() as patch:
        for module in (environment, predict, submission):
            patch.setattr(module, "commit", lambda: CLEAN)
        patch.setattr(Trainer, "_evaluate", lambda self: (1.0, next(accuracies)))
        run, csv = Run(place.folder / "runs" / "last"), place.folder / "last" / "mine.csv"
        data = {"source": "npz", "root": str(place.data), "val_size": 100}
        raw = tiny_raw(data=data, rules={"max_params": 100_000, "rows": 100}, selection="last", phases=[{"epochs": 2}])
        train(parse_config(raw), run.folder, quiet=True, command="train")
        predict.predict(run, "submit", file=place.file)
        submit(load_predictions(run.predictions / "submit.npz"), csv, run=run)

    def selection() -> Finding:
        card = audit(gather(csv, runs=[run.folder], file=place.file, data_root=str(place.data)))
        (found,) = (finding for finding in card.findings if finding.link == "selection")
        return found

    assert (selection().verdict, selection().found) == ("pass", "epoch 2 of 2, the rule being: last")
    edit_json(run.summary_file, lambda summary: summary.update(selected_epoch=1))
    assert selection().verdict == "fail"


def test_predicting_the_test_images_as_an_unlabelled_file_leaves_the_readings_unchecked(place: Place, tmp_path: Path) -> None:
    """Their labels are at hand, so that scoring the CSV tells what a reading would, without one."""
    with np.load(place.data) as arrays:
        write_unlabelled(tmp_path / "test.pkl", arrays["test_images"], np.arange(100))
    predict.predict(place.run, "submit", file=tmp_path / "test.pkl", output=tmp_path / "again.npz")
    submit(load_predictions(tmp_path / "again.npz"), tmp_path / "mine.csv", run=place.run)
    evidence = {"runs": [place.run.folder], "file": tmp_path / "test.pkl", "data_root": str(place.data)}
    card = audit(gather(tmp_path / "mine.csv", predictions=tmp_path / "again.npz", **evidence))
    assert failed(card) <= {"commit", "commit of CSV"}
    (readings,) = card.of("not checked")
    assert readings.link == "test readings"
    assert "100 of 100 images of the unlabelled file are of the test split, whose labels are at hand" in readings.found


def test_data_without_a_labelled_test_part_leaves_nothing_unchecked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As competitions hand it out; the unlabelled file is compared all the same."""

    def test_images(**changes: Any) -> Finding:
        (found,) = (finding for finding in place.audit(**changes).findings if finding.link == "test images")
        return found

    monkeypatch.setattr("cifar_small.submission.audit.rules.has_test_part", lambda data: False)
    place.run.test_readings_file.unlink()
    found = test_images()
    assert found.verdict == "pass"
    assert re.fullmatch(r"its data has no labelled test part; 0 of [0-9]+ images of the unlabelled file are, .*", found.found)
    assert test_images(file=None).verdict == "not checked"
    predict.predict(place.run, "test", overwrite=True)
    assert "images of the test split are, pixel by pixel" in test_images().found  # which has been read: it must be somewhere


def test_a_checkpoint_is_counted_wherever_the_predictions_lie(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    away, csv = place.folder / "away.npz", place.folder / "away" / "mine.csv"
    shutil.copy(place.npz, away)
    command = ["submit", str(away), "--output", str(csv), "--overwrite"]
    assert main(command) == 0
    assert "parameters of tiny (seed 0) were counted by config alone" in capsys.readouterr().err
    assert json.loads(csv.with_suffix(".json").read_text())["uncounted"] == ["tiny (seed 0)"]
    assert main([*command, "--run", str(place.run.folder)]) == 0
    assert capsys.readouterr().err == ""
    joint = ["submit", str(place.joint_npz), "--output", str(csv), "--overwrite", "--run"]
    assert main([*joint, str(place.run.folder)]) == 0
    assert "parameters of tiny (seed 1) were counted by config alone" in capsys.readouterr().err
    assert main([*joint, str(place.run.folder), str(place.other.folder)]) == 0
    assert capsys.readouterr().err == ""


def test_a_net_that_was_given_its_normalization_passes(place: Place) -> None:
    config = parse_config(
        tiny_raw(
            name="given",
            data={"source": "npz", "root": str(place.data), "val_size": 100},
            rules={"max_params": 100_000, "rows": 100},
            input={"size": 40, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]},
            phases=[{"epochs": 1}],
        )
    )
    run, csv = Run(place.folder / "runs" / "given"), place.folder / "given" / "mine.csv"
    train(config, run.folder, quiet=True, command="train")
    predict.predict(run, "submit", file=place.file)
    submit(load_predictions(run.predictions / "submit.npz"), csv, run=run)
    card = audit(gather(csv, runs=[run.folder], file=place.file, data_root=str(place.data)), repredict=True)
    assert failed(card) <= {"commit", "commit of CSV"}, str(card)  # which this tree is not


def test_a_run_trained_on_from_its_own_weights_is_from_scratch_where_that_run_shows_it(place: Place) -> None:
    data, rules = {"source": "npz", "root": str(place.data), "val_size": 100}, {"max_params": 100_000, "rows": 100}
    first = place.run.folder
    config = parse_config(tiny_raw(name="longer", data=data, rules=rules, weights=str(first), phases=[{"epochs": 1}]))
    run, csv = Run(place.folder / "runs" / "longer"), place.folder / "longer" / "mine.csv"
    train(config, run.folder, quiet=True, command="train")
    predict.predict(run, "submit", file=place.file)
    submit(load_predictions(run.predictions / "submit.npz"), csv, run=run)

    def origin(*runs: Path) -> Finding:
        card = audit(gather(csv, runs=[run.folder, *runs], file=place.file, data_root=str(place.data)))
        assert failed(card) <= {"commit", "commit of CSV", "from scratch"}, str(card)  # this tree is not committed
        return next(finding for finding in card.findings if finding.link == "from scratch")

    assert origin().found == f"from scratch through tiny seed 0 in {first}, trained on the same images"  # where the config says
    moved = first.rename(place.folder / "moved")
    assert origin().verdict == "not checked"
    assert "started from tiny seed 0, trained on npz, whose run directory is not at hand: give it too" in origin().found
    assert origin(moved).verdict == "pass"
    with pytest.raises(UserError, match="made by one net"):
        origin(place.other.folder)

    def other_images(state: dict[str, Any]) -> None:
        state["data"]["train_sha256"] = "0" * 64

    edit_best(Run(moved), other_images)  # as if it had been trained on more, and its descendant lied
    lie = sha256_file(moved / "best.pt")
    edit_best(run, lambda state: state["ancestors"][0].update(weights_sha256=lie))
    edit_json(csv.with_suffix(".json"), lambda record: record["predictions"]["ancestors"][0].update(weights_sha256=lie))
    found = next(
        finding
        for finding in audit(gather(csv, runs=[run.folder, moved], data_root=str(place.data))).findings
        if finding.link == "from scratch"
    )
    assert found.verdict == "fail"
    assert "data of tiny seed 0: train_sha256" in found.expected


def test_the_card_says_what_became_of_the_plan(place: Place) -> None:
    """Patience ended the run of 12 planned epochs, which had been planned for 8."""
    epochs = place.run.summary().epochs

    def longer(state: dict[str, Any]) -> None:
        state["config"]["phases"][0]["epochs"] = 12

    edit_best(place.run, longer)
    edit_json(place.run.summary_file, lambda summary: summary.update(epochs_planned=12))
    edit_json(place.run.env_file, lambda env: env["sessions"].insert(0, {**env["sessions"][0], "epochs_planned": 8}))
    found = next(finding for finding in place.audit().findings if finding.link == "selection")
    assert f"of {epochs}, ended by patience after epoch {epochs} of 12, extended on the way, planned for 8 then" in found.found


def test_an_ensemble_that_is_whole_passes_every_link_of_every_member(place: Place) -> None:
    card = place.audit_joint()
    assert [str(finding) for finding in card.findings if finding.verdict != "pass"] == []
    members = {"member 1 (tiny, seed 0)", "member 2 (tiny, seed 1)"}
    assert {finding.member for finding in card.findings} == {"", *members}
    of_a_net = LINKS - {"csv", "rows", "labels", "record", "budget", "unlabelled file", "commit of CSV"}
    for member in members:
        assert {finding.link for finding in card.findings if finding.member == member} == of_a_net
    (budget,) = (finding for finding in card.findings if finding.link == "budget")
    count = Run(place.run.folder).summary().parameters  # type: ignore[union-attr]
    assert budget.found == f"{count:,} + {count:,} = {2 * count:,} of at most 100,000"


# -------------------------------------------------------------------------------------------------------------- tampering


def one_row(place: Place) -> None:
    lines = place.csv.read_text().splitlines()
    image, label = lines[40].split(",")
    lines[40] = f"{image},{(int(label) + 1) % 10}"
    place.csv.write_text("\n".join(lines) + "\n")


def one_row_and_its_hash(place: Place) -> None:
    before = [int(line.split(",")[1]) for line in place.csv.read_text().splitlines()[1:]]
    one_row(place)
    after = [int(line.split(",")[1]) for line in place.csv.read_text().splitlines()[1:]]
    counts = np.bincount(after, minlength=10).tolist()
    assert before != after
    place.edit_record(lambda record: record.update(sha256=sha256_file(place.csv)))
    place.edit_record(lambda record: record.update(class_counts=dict(zip(map(str, range(10)), counts, strict=True))))


def two_rows_exchanged_and_their_hash(place: Place) -> None:
    lines = place.csv.read_text().splitlines()
    lines[3], lines[4] = lines[4], lines[3]
    place.csv.write_text("\n".join(lines) + "\n")
    place.edit_record(lambda record: record.update(sha256=sha256_file(place.csv)))


def one_logit(place: Place) -> None:
    def change(parts: dict[str, Any]) -> None:
        parts["logits"][7, parts["logits"][7].argmin()] -= 0.001

    edit_predictions(place.npz, change)


def one_logit_that_decides(place: Place) -> None:
    def change(parts: dict[str, Any]) -> None:
        parts["logits"][7, parts["logits"][7].argmin()] += 100

    edit_predictions(place.npz, change)


def one_weight(place: Place) -> None:
    def change(state: dict[str, Any]) -> None:
        state["weights"]["fc.weight"][3, 5] += 0.01

    edit_best(place.run, change)


def one_bit_of_the_weights(place: Place) -> None:
    content = bytearray(place.run.best.read_bytes())
    content[len(content) // 2] ^= 1
    place.run.best.write_bytes(content)


def a_retrained_checkpoint(place: Place) -> None:
    shutil.copy(place.other.best, place.run.best)


def one_setting_in_the_run(place: Place) -> None:
    text = place.run.config_file.read_text()
    assert "batch_size: 64" in text
    place.run.config_file.write_text(text.replace("batch_size: 64", "batch_size: 32"))


def one_setting_beside_the_csv(place: Place) -> None:
    copy = place.csv.parent / "config.yaml"
    copy.write_text(copy.read_text().replace("batch_size: 64", "batch_size: 32"))


def one_setting_in_the_record(place: Place) -> None:
    place.edit_record(lambda record: record["predictions"]["config"]["optim"].update(lr=0.2))


def a_better_summary(place: Place) -> None:
    edit_json(place.run.summary_file, lambda summary: summary.update(val_accuracy=0.99))


def a_better_summary_in_the_record(place: Place) -> None:
    place.edit_record(lambda record: record["run"]["summary"].update(val_accuracy=0.99))


def better_labels_of_val_and_their_numbers(place: Place) -> None:
    path = place.run.predictions / "val.npz"
    edit_predictions(path, lambda parts: parts.update(labels=parts["logits"].argmax(1)))

    def change(summary: dict[str, Any]) -> None:
        interval = list(wilson_interval(100, 100))
        summary.update(val_accuracy=1.0, val_interval=interval, val_predictions_sha256=sha256_file(path))

    edit_json(place.run.summary_file, change)
    place.edit_record(lambda record: record["run"].update(summary=json.loads(place.run.summary_file.read_text())))


def a_better_epoch(place: Place) -> None:
    lines = place.run.metrics_file.read_text().splitlines()
    header, cells = lines[0].split(","), lines[1].split(",")
    cells[header.index("val_accuracy")] = "1.0"
    place.run.metrics_file.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")


def another_unlabelled_file(place: Place) -> None:
    images = load_test(Data(source="digits")).images[:100].copy()
    images[50, 16, 16, 0] ^= 1
    write_unlabelled(place.file, images, np.arange(100))


def another_data_set(place: Place) -> None:
    edit_data(place, lambda arrays: arrays["train_images"].__setitem__((0, 0, 0, 0), 200))


def another_label(place: Place) -> None:
    def change(arrays: dict[str, Any]) -> None:
        labels = arrays["train_labels"]
        first, second = 0, int(np.flatnonzero(labels != labels[0])[0])
        labels[[first, second]] = labels[[second, first]]

    edit_data(place, change)


def trained_on_test_images(place: Place) -> None:
    edit_data(place, lambda arrays: arrays.update(test_images=arrays["train_images"][:100]))


def another_test_image(place: Place) -> None:
    edit_data(place, lambda arrays: arrays["test_images"].__setitem__((0, 0, 0, 0), 200))


def other_validation_images(place: Place) -> None:
    path = place.run.predictions / "val.npz"
    edit_predictions(path, lambda parts: parts["ids"].__setitem__(0, 1000))
    edit_json(place.run.summary_file, lambda summary: summary.update(val_predictions_sha256=sha256_file(path)))
    place.edit_record(lambda record: record["run"].update(summary=json.loads(place.run.summary_file.read_text())))


def another_split_in_the_record(place: Place) -> None:
    place.edit_record(lambda record: record["run"]["summary"]["data"].update(val_sha256="0" * 64))


def a_reading_deleted_from_the_run(place: Place) -> None:
    lines = place.run.test_reading_lines()
    place.run.test_readings_file.write_text(lines[0] + "\n")


def a_reading_deleted_from_the_record(place: Place) -> None:
    place.edit_record(lambda record: record["run"]["test_readings"].pop())
    place.edit_record(lambda record: record.update(written="2099-01-01T00:00:00+00:00"))


def all_readings_deleted_but_not_the_predictions(place: Place) -> None:
    place.run.test_readings_file.unlink()
    place.edit_record(lambda record: record["run"]["test_readings"].clear())


def the_first_reading_deleted_everywhere(place: Place) -> None:
    place.run.test_readings_file.write_text(place.run.test_reading_lines()[1] + "\n")
    place.edit_record(lambda record: record["run"]["test_readings"].pop(0))
    (place.run.predictions / "test.npz").unlink()


def a_reading_before_training_ended(place: Place) -> None:
    later = {"finished": "2098-01-01T00:00:00+00:00"}
    edit_json(place.run.summary_file, lambda summary: summary.update(later))
    place.edit_record(lambda record: record["run"]["summary"].update(later))


def a_reading_during_a_training_that_names_no_end(place: Place) -> None:
    """As those of older versions: their one session ended no earlier than its start and all its seconds."""

    def older(summary: dict[str, Any]) -> None:
        del summary["finished"]
        summary["seconds"] = 3600.0

    edit_json(place.run.summary_file, older)
    place.edit_record(lambda record: older(record["run"]["summary"]))


def uncommitted_code_in_training(place: Place) -> None:
    edit_json(place.run.env_file, lambda env: env["sessions"][0].update(dirty=True))
    place.edit_record(lambda record: record["run"]["sessions"][0].update(dirty=True))


def uncommitted_code_in_predicting(place: Place) -> None:
    edit_predictions(place.npz, lambda parts: parts["meta"].update(dirty=True))
    place.edit_record(lambda record: record["predictions"].update(dirty=True, sha256=sha256_file(place.npz)))


def uncommitted_code_in_submitting(place: Place) -> None:
    place.edit_record(lambda record: record.update(dirty=True))


def another_seed_in_the_record(place: Place) -> None:
    place.edit_record(lambda record: record["predictions"].update(seed=3))


def another_count_in_the_record(place: Place) -> None:
    place.edit_record(lambda record: record["predictions"].update(parameters=1000))


def forge(place: Place, change: Callable[[dict[str, Any]], Any], **meta: Any) -> None:
    """Change best.pt, then rewrite every number and hash that hangs on it, as somebody might who knows them all.

    meta: what the predictions are made to say besides.
    """
    run = place.run
    edit_best(run, change)
    state = load_checkpoint(run.best)
    config = parse_config(state["config"])
    run.config_file.write_text(dump_config(config))
    hashes = {"weights_sha256": sha256_file(run.best), "config_sha256": config_hash(config)}
    said = {**hashes, "config": state["config"], "rules": config.rules.model_dump(), "lineage": state["lineage"], **meta}
    for path in run.predictions.glob("*.npz"):
        edit_predictions(path, lambda parts: parts["meta"].update(said))
    readings = [{**reading.plain(), "weights_sha256": hashes["weights_sha256"]} for reading in run.test_readings()]
    run.test_readings_file.unlink()
    for reading in readings:
        path = run.predictions / reading["predictions"]
        run.append_test_reading(**{**reading, "predictions_sha256": sha256_file(path)})
    val = {"val_predictions_sha256": sha256_file(run.predictions / "val.npz"), "max_params": config.rules.max_params}
    recipe = {"recipe_sha256": recipe_hash(config)}
    edit_json(run.summary_file, lambda summary: summary.update(hashes | val | recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, "commit", lambda: CLEAN)
        patch.setattr(submission, "check_count", lambda *_: None)
        patch.setattr(submission, "check_lineage", lambda *_: None)
        submit(load_predictions(place.npz), place.csv, run=run, overwrite=True)


def a_pretrained_net_hidden(place: Place) -> None:
    forge(place, lambda state: state.update(lineage=["resnet18 on imagenet"]), lineage=[])


def an_ancestor_left_out_of_the_lineage(place: Place) -> None:
    known = {"name": "resnet18", "data": {"source": "imagenet"}, "weights_sha256": "0"}
    forge(place, lambda state: state.update(ancestors=[known]))


def a_pretrained_teacher_left_out_of_the_lineage(place: Place) -> None:
    facts = {"parameters": 5, "weights_sha256": ["w"], "pretrained": True, "lineage": ["resnet18, trained on imagenet"]}
    forge(place, lambda state: state.update(teachers=[{"name": "big", "seed": 0, **facts}]))


def a_net_over_budget(place: Place) -> None:
    forge(place, lambda state: state["config"]["rules"].update(max_params=10_000))


def an_ancestor_that_saw_the_validation_images(place: Place) -> None:
    lineage = ["first seed 0, trained on npz"]

    def change(state: dict[str, Any]) -> None:
        data = {**state["data"], "val_sha256": "0" * 64}
        ancestor = {"name": "first seed 0", "data": data, "weights_sha256": "0" * 64}
        state.update(ancestors=[ancestor], lineage=lineage)
        state["config"]["rules"].update(pretrained=True)  # so that nothing else is wrong with it

    edit_json(place.run.summary_file, lambda summary: summary.update(lineage=lineage))
    forge(place, change)


def an_ancestor_left_out_that_the_config_names(place: Place) -> None:
    forge(place, lambda state: state["config"].update(weights="runs/first-seed0"))


def another_normalization(place: Place) -> None:
    forge(place, lambda state: state.update(mean=[0.1, *state["mean"][1:]]))


def training_images_in_the_unlabelled_file(place: Place) -> None:
    with np.load(place.data) as arrays:
        write_unlabelled(place.file, arrays["train_images"][:100], np.arange(100))
    with pytest.MonkeyPatch.context() as patch:
        for module in (predict, submission):
            patch.setattr(module, "commit", lambda: CLEAN)
        predict.predict(place.run, "submit", file=place.file, overwrite=True)
        submit(load_predictions(place.npz), place.csv, run=place.run, overwrite=True)


TAMPERINGS: list[tuple[Callable[[Place], None], set[str]]] = [
    (one_row, {"csv", "rows", "labels"}),
    (one_row_and_its_hash, {"labels"}),
    (two_rows_exchanged_and_their_hash, {"rows", "labels"}),
    (one_logit, {"predictions"}),
    (one_logit_that_decides, {"predictions", "labels"}),
    (one_weight, {"weights"}),
    (one_bit_of_the_weights, {"weights"}),
    (a_retrained_checkpoint, {"weights", "config", "summary", "selection", "seed"}),
    (one_setting_in_the_run, {"config"}),
    (one_setting_beside_the_csv, {"config"}),
    (one_setting_in_the_record, {"config", "record"}),
    (a_better_summary, {"summary", "record"}),
    (a_better_summary_in_the_record, {"record"}),
    (better_labels_of_val_and_their_numbers, {"split"}),
    (a_better_epoch, {"selection"}),
    (another_unlabelled_file, {"unlabelled file"}),
    (another_data_set, {"data"}),
    (another_label, {"data"}),
    (trained_on_test_images, {"test images"}),
    (another_test_image, {"test images"}),  # than the readings were made of
    (other_validation_images, {"split"}),
    (another_split_in_the_record, {"split", "record"}),
    (a_reading_deleted_from_the_run, {"test readings"}),
    (a_reading_deleted_from_the_record, {"test readings"}),
    (all_readings_deleted_but_not_the_predictions, {"test readings"}),
    (the_first_reading_deleted_everywhere, {"test readings"}),
    (a_reading_before_training_ended, {"test readings"}),
    (a_reading_during_a_training_that_names_no_end, {"test readings"}),
    (uncommitted_code_in_training, {"commit"}),
    (uncommitted_code_in_predicting, {"commit"}),
    (uncommitted_code_in_submitting, {"commit of CSV"}),
    (another_seed_in_the_record, {"seed", "record"}),
    (another_count_in_the_record, {"parameters", "budget", "record"}),
    (a_pretrained_net_hidden, {"from scratch", "summary"}),
    (an_ancestor_left_out_of_the_lineage, {"from scratch"}),
    (a_pretrained_teacher_left_out_of_the_lineage, {"from scratch"}),
    (a_net_over_budget, {"budget"}),
    (an_ancestor_that_saw_the_validation_images, {"from scratch"}),
    (an_ancestor_left_out_that_the_config_names, {"from scratch"}),
    (another_normalization, {"data"}),
    (training_images_in_the_unlabelled_file, {"test images"}),
]


@pytest.mark.parametrize(("tamper", "links"), TAMPERINGS, ids=[tamper.__name__ for tamper, _ in TAMPERINGS])
def test_tampering_is_found_and_named(tamper: Callable[[Place], None], links: set[str], place: Place) -> None:
    tamper(place)
    card = place.audit()
    assert failed(card) == links, str(card)


def test_the_finding_says_what_was_expected_and_what_was_found(place: Place) -> None:
    one_setting_in_the_run(place)
    (finding,) = place.audit().of("fail")
    assert "batch_size: 64 -> 32" in finding.found
    assert str(finding).startswith("FAIL         config           every copy ")
    one_row(place)
    (labels,) = (finding for finding in place.audit().of("fail") if finding.link == "labels")
    old = int(load_predictions(place.npz).predicted[39])
    assert (labels.expected, labels.found) == (
        f"line 41 to be '39,{old}'",
        f"'39,{(old + 1) % 10}', and 1 lines that differ in all",
    )


def a_member_retrained(place: Place) -> None:
    def change(state: dict[str, Any]) -> None:
        state["weights"]["fc.bias"][0] += 1

    edit_best(place.other, change)


def a_member_exchanged(place: Place) -> None:
    shutil.copy(place.npz, place.other.predictions / "submit.npz")


def a_logit_of_the_ensemble(place: Place) -> None:
    edit_predictions(place.joint_npz, lambda parts: parts["logits"].__setitem__((3, 2), parts["logits"][3, 2] + 0.01))


def a_member_left_out_of_the_record(place: Place) -> None:
    edit_json(place.joint_csv.with_suffix(".json"), lambda record: record["predictions"]["members"][1].update(parameters=1))


TWO = "member 2 (tiny, seed 1)"


@pytest.mark.parametrize(
    ("tamper", "links"),
    [
        (a_member_retrained, {(TWO, "weights")}),
        (a_member_exchanged, {(TWO, "predictions"), ("", "ensemble")}),
        (a_logit_of_the_ensemble, {("", "predictions"), ("", "ensemble")}),
        (a_member_left_out_of_the_record, {(TWO, "parameters"), ("", "record")}),
    ],
)
def test_tampering_with_an_ensemble_names_the_member(
    tamper: Callable[[Place], None], links: set[tuple[str, str]], place: Place
) -> None:
    tamper(place)
    card = place.audit_joint()
    assert {(finding.member, finding.link) for finding in card.of("fail")} == links, str(card)


@pytest.mark.parametrize("swapped", [0, 1])
def test_a_checkpoint_copied_into_another_members_run_is_that_runs_fault(place: Place, swapped: int) -> None:
    runs = (place.run, place.other)
    shutil.copy(runs[1 - swapped].best, runs[swapped].best)
    card = place.audit_joint()
    assert {finding.member for finding in card.of("fail") if finding.link == "weights"} == {
        f"member {swapped + 1} (tiny, seed {swapped})"
    }


def test_what_the_record_says_of_each_class_is_held_against_the_csv(place: Place) -> None:
    place.edit_record(lambda record: record["labels"].update({"0": "9", "9": "0"}))
    assert failed(place.audit()) == {"record"}
    place.edit_record(lambda record: record.update(labels={}, estimate={"file": "estimate.json", "estimate": 0.9}))
    (found,) = (finding for finding in place.audit().findings if finding.link == "record")
    assert found.verdict == "pass"
    assert "chosen by an estimate, of estimate.json, which is not compared" in found.found


def test_weights_of_an_ensemble_that_val_did_not_give_are_found(place: Place) -> None:
    runs = (place.run, place.other)
    members = [load_predictions(run.predictions / "submit.npz") for run in runs]
    val = [load_predictions(run.predictions / "val.npz") for run in runs]
    joined = combine(members, "weighted", val)
    chosen = [0.9, 0.1]
    assert np.abs(np.array([member.weight for member in joined.meta.members]) - chosen).max() > 0.01
    own = [member.updated(weight=weight) for member, weight in zip(joined.meta.members, chosen, strict=True)]
    logits = blend("weighted", np.stack([member.logits for member in members]), np.array(chosen))
    meta = joined.meta.updated(members=own)
    Predictions(joined.ids, logits, None, joined.classes, meta).save(place.joint_npz)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, "commit", lambda: CLEAN)
        submit(load_predictions(place.joint_npz), place.joint_csv, overwrite=True)
    card = place.audit_joint()
    assert failed(card) == {"ensemble"}, str(card)
    (found,) = card.of("fail")
    assert found.found == "[0.9, 0.1]"


def test_a_net_that_keeps_numbers_beside_those_counted_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*given_: Any) -> nn.Module:
        model = build_model(*given_)
        model.register_buffer("table", torch.zeros(5), persistent=False)  # of which the checkpoint shows nothing
        return model

    monkeypatch.setattr(predict, "build_model", build)
    card = place.audit()
    assert failed(card) == {"parameters"}, str(card)
    assert "the parameter count would miss numbers of this net: table" in str(card)


def test_rules_of_the_competition_count_instead_of_those_in_the_record(place: Place) -> None:
    text = place.run.config_file.read_text()
    strict = place.folder / "strict.yaml"
    strict.write_text(text.replace("max_params: 100000", "max_params: 10000").replace("rows: 100", "rows: 10000"))
    assert load_config(strict).rules.max_params == 10_000
    assert failed(place.audit(config=strict)) == {"budget", "rows"}


def test_only_a_new_prediction_finds_a_forger_who_rewrites_every_hash(place: Place) -> None:
    def change(state: dict[str, Any]) -> None:
        state["weights"]["fc.bias"][3] += 1

    forge(place, change)
    assert failed(place.audit()) == set()  # as the documentation says
    card = place.audit(repredict=True)
    assert failed(card) == {"repeated"}
    (finding,) = card.of("fail")
    assert "logits" in finding.expected


def test_repeated_selective_views_may_choose_another_image_at_the_border_but_have_no_other_logits(place: Place) -> None:
    """By rounding, the last image that is given all views may be another one on another machine."""
    net = load_net(place.run)
    images, _ = load_unlabelled(place.file, classes=net.classes, layout="auto", rows=100)
    made, plain, whole = (predict.predict_images(net, images, views) for views in ("flip@0.1", "none", "flip"))
    chosen = np.flatnonzero(np.abs(made.logits - plain.logits).max(axis=1) > 0)
    assert len(chosen) == 10
    logits = made.logits.copy()
    other = next(image for image in range(100) if image not in chosen)
    logits[chosen[0]], logits[other] = plain.logits[chosen[0]], whole.logits[other]

    def verdict(logits: Any) -> str:
        result = CheckResult()
        compare_again(Predictions(made.ids, logits, None, made.classes, made.meta), net, images, result)
        return result.settle("repeated", "", "").verdict

    assert not np.allclose(logits, made.logits, atol=0.05)
    assert verdict(made.logits) == verdict(logits) == "pass"
    logits[other] += np.eye(10, dtype=np.float32)[3]
    assert verdict(logits) == "fail"


@settings(deadline=None, max_examples=40)
@given(place_of=st.floats(0.05, 0.95), bit=st.integers(0, 7))
@pytest.mark.parametrize("what", ["weights", "predictions"])
def test_any_flipped_bit_in_the_middle_is_found(what: str, place_of: float, bit: int, original: Place) -> None:
    path = original.run.best if what == "weights" else original.npz
    content = path.read_bytes()
    broken = bytearray(content)
    broken[int(place_of * len(content))] ^= 1 << bit
    try:
        path.write_bytes(broken)
        evidence = gather(original.csv, runs=[original.run.folder])
        found = chain.weights(evidence.members[0]) if what == "weights" else chain.predictions(evidence.made)
        assert (found.link, found.verdict) == (what, "fail")
    finally:
        path.write_bytes(content)


# ---------------------------------------------------------------------------------------------------------- what is missing


def test_what_is_missing_is_neither_a_pass_nor_a_fault(place: Place) -> None:
    card = audit(gather(place.csv))
    verdicts = {finding.link: finding.verdict for finding in card.findings}
    assert {link for link, verdict in verdicts.items() if verdict == "pass"} == {
        *("csv", "config", "selection", "parameters", "seed", "commit", "budget", "commit of CSV"),
        *("data", "split", "test images"),  # where the config says that the data lay, they still lie
    }
    assert failed(card) == set()
    reasons = {finding.link: finding.found for finding in card.of("not checked")}
    assert reasons.keys() == {
        *("rows", "labels", "predictions", "record", "weights", "summary"),
        *("from scratch", "test readings", "unlabelled file"),
    }
    assert reasons["weights"] == "no run directory: give it (recorded as tiny-seed0)"
    assert reasons["unlabelled file"] == "no unlabelled file: give it"
    assert reasons["test readings"].startswith("recorded: read 2 times: ")
    assert str(card).endswith("11 pass, 0 fail, 9 not checked")
    assert "\nno full audit: nothing is known of rows, labels, predictions, record, weights, summary, " in str(card)


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("runs/tiny-seed0/predictions/val.npz", {"split", "summary"}),
        ("runs/tiny-seed0/predictions/submit.npz", {"labels", "predictions", "record"}),
        ("runs/tiny-seed0/summary.json", {"summary", "selection", "record", "test readings"}),  # when training ended
    ],
)
def test_a_file_that_is_gone_leaves_its_links_unchecked(name: str, links: set[str], place: Place) -> None:
    (place.folder / name).unlink()
    card = place.audit()
    assert {finding.link for finding in card.of("not checked")} == links, str(card)


def test_installed_code_passes_where_the_audit_has_the_same(place: Place) -> None:
    def installed(entry: dict[str, Any], code: str) -> None:
        entry.update(commit=None, dirty=None, code_sha256=code)

    for code, verdict in ((environment.code_sha256(), "pass"), ("c" * 64, "not checked")):
        place.edit_record(lambda record, code=code: installed(record, code))
        (found,) = (one for one in place.audit().findings if one.link == "commit of CSV")
        assert found.verdict == verdict
        assert code in found.found


def test_a_submission_in_the_order_of_a_sample_is_checked_against_the_sample(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, csv = tmp_path / "sample.csv", tmp_path / "mine" / "submission.csv"
    order = np.random.default_rng(0).permutation(100)
    sample.write_text("Id,Category\n" + "".join(f"{image:05d}.png,cat\n".replace("cat", "3") for image in order))
    monkeypatch.setattr(submission, "commit", lambda: CLEAN)
    submit(load_predictions(place.npz), csv, run=place.run, sample=sample)
    evidence = {"runs": [place.run.folder], "file": place.file, "data_root": str(place.data)}
    card = audit(gather(csv, sample=sample, **evidence))
    assert [str(finding) for finding in card.findings if finding.verdict != "pass"] == []
    (open_,) = audit(gather(csv, **evidence)).of("not checked")
    assert (open_.link, "which is not at hand" in open_.found) == ("rows", True)
    sample.write_text("Id,Category\n" + "".join(f"{image:05d}.png,3\n" for image in range(100)))
    assert failed(audit(gather(csv, sample=sample, **evidence))) == {"rows", "labels"}


def test_a_sample_that_the_record_does_not_name_is_held_against_the_csv_too(place: Place, tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    header, *lines = place.csv.read_text().splitlines()
    evidence = {"runs": [place.run.folder], "file": place.file, "data_root": str(place.data), "sample": sample}
    sample.write_text("\n".join([header, *lines]) + "\n")
    assert [str(one) for one in audit(gather(place.csv, **evidence)).of("fail")] == []
    sample.write_text("\n".join([header, *reversed(lines)]) + "\n")
    assert failed(audit(gather(place.csv, **evidence))) == {"rows", "labels"}
    sample.write_text("\n".join(["Id,Category", *lines]) + "\n")
    assert failed(audit(gather(place.csv, **evidence))) == {"rows"}


def test_an_old_record_without_the_newer_hashes_still_passes(place: Place) -> None:
    newer = ("val_predictions_sha256", "metrics_sha256")
    for key in newer:
        edit_json(place.run.summary_file, lambda summary, key=key: summary.pop(key))
    place.edit_record(lambda record: [record["run"]["summary"].pop(key) for key in newer])
    for reading in (readings := plain_all(place.run.test_readings())):
        reading.pop("previous_sha256")
    place.run.test_readings_file.write_text("".join(json.dumps(reading) + "\n" for reading in readings))
    place.edit_record(lambda record: [reading.pop("previous_sha256") for reading in record["run"]["test_readings"]])
    old = ("commit", "dirty", "config", "packages")
    edit_predictions(place.npz, lambda parts: [parts["meta"].pop(key) for key in old])
    place.edit_record(lambda record: [record["predictions"].pop(key) for key in old])
    place.edit_record(lambda record: record["predictions"].update(sha256=sha256_file(place.npz)))
    assert [str(finding) for finding in place.audit().findings if finding.verdict != "pass"] == []


def test_the_submission_in_this_repository_holds_as_far_as_it_goes() -> None:
    card = audit(gather(ROOT / "submissions" / "entries" / "resnet_hour" / "submission.csv"))
    assert failed(card) == set(), str(card)
    passed = {finding.link for finding in card.of("pass")}
    assert {"csv", "config", "selection", "parameters", "budget", "seed", "commit", "commit of CSV"} <= passed


@pytest.mark.real_data
def test_the_submission_in_this_repository_is_of_the_data_at_hand() -> None:
    root = os.environ.get("CIFAR_SMALL_DATA")
    if not root:
        pytest.skip("CIFAR_SMALL_DATA is not set")
    csv = ROOT / "submissions" / "entries" / "resnet_hour" / "submission.csv"
    card = audit(gather(csv, data_root=root))
    assert {"data", "split", "test images"} <= {finding.link for finding in card.of("pass")}, str(card)


# ---------------------------------------------------------------------------------------------------------- the command line


def test_the_command_prints_the_card_and_its_exit_code_tells(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    whole = ["audit", str(place.csv), "--run", str(place.run.folder), "--file", str(place.file), "--data-root", str(place.data)]
    assert main(whole) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"audit of {place.csv}: tiny"
    assert printed[-1] == "20 pass, 0 fail, 0 not checked"
    assert len(printed) == 22
    one_weight(place)
    assert main([*whole, "--json"]) == 1
    card = json.loads(capsys.readouterr().out)
    assert card["counts"] == {"pass": 19, "fail": 1, "not checked": 0}
    (finding,) = (one for one in card["findings"] if one["verdict"] == "fail")
    assert finding["link"] == "weights"
    assert sha256_file(place.run.best) in finding["found"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.csv"], 3, r"cannot read nowhere\.csv: .*; expected a CSV with the record"),
        (["{csv}", "--file", "nowhere.pkl"], 2, r"nowhere\.pkl does not exist"),
        (["{csv}", "--run", "{data}"], 4, r"data\.npz is a file; expected a run directory"),
        (["{csv}", "--run", "{run}", "{run}"], 2, "2 run directories; mine.csv was made by one net"),
        (["{joint}", "--run", "{run}", "{run}"], 2, "is no run of this ensemble, by weights or name"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], code: int, message: str, original: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"csv": original.csv, "joint": original.joint_csv, "run": original.run.folder, "data": original.data}
    assert main(["audit", *(argument.format(**names) for argument in arguments)]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


@pytest.mark.parametrize("content", ["{", "[]", '{"sha256": "a"}', '{"predictions": {}}'])
def test_a_record_that_is_none_is_refused(content: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.csv.with_suffix(".json").write_text(content)
    assert main(["audit", str(place.csv)]) == 3
    assert "expected the record that cifar-small submit writes" in capsys.readouterr().err


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_record_with_any_value_replaced_ends_in_a_card_or_one_error(data: st.DataObject, original: Place) -> None:
    """Whatever stands in the record, an audit says what is wrong; it does not break."""
    path = original.csv.with_suffix(".json")
    text = path.read_text()
    record = json.loads(text)
    node: Any = record
    while True:
        key = data.draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.integers(0, len(node) - 1))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(st.sampled_from([None, "text", 7, -1.5, [], {}, [1], {"a": 1}]))
    try:
        path.write_text(json.dumps(record))
        submission_ = gather(original.csv, runs=[original.run.folder])
        audit(submission_)
    except UserError:
        pass
    finally:
        path.write_text(text)

"""Comparisons: the facts of each entry, paired tests on the same images, seeds of one recipe, and what is not alike."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest, ttest_ind, ttest_rel

from cifar_small.cli.main import main
from cifar_small.config.hashing import config_dict, dump_config, recipe_hash
from cifar_small.config.loading import parse_config
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.evaluation.compare import Comparison, compare
from cifar_small.evaluation.entries import Entry, load_entries
from cifar_small.evaluation.evaluate import evaluate
from cifar_small.files import sha256_file
from cifar_small.inference.ensemble import combine
from cifar_small.metrics.classification import wilson_interval
from cifar_small.metrics.significance import holm, paired_difference
from cifar_small.models.counting import footprint
from cifar_small.reporting.comparison_tables import comparison_csv, comparison_tables, p_text
from cifar_small.reporting.evaluation_files import describe_evaluation
from cifar_small.reporting.tables import PAGE_WIDTH, Table, latex_escaped, to_latex
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions, load_predictions, note_seconds
from cifar_small.runs.records import DataFacts, OnnxFacts, PredictionsMeta, SoupMember
from tests.conftest import tiny_raw
from tests.synthetic import made, reading_of, session_of, summary_of

LABELS = np.arange(400) % 10
ONNX = {"file": "int8.onnx", "sha256": "0", "bytes": 1, "precision": "int8", "onnxruntime": "1", "threads": 1}


def answers(wrong: Any) -> np.ndarray:
    """Predictions of 400 images, wrong at these places."""
    predicted = LABELS.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    return predicted


def entry(name: str, wrong: Any, split: str = "val", **meta: Any) -> Entry:
    facts = {"split": split, "weights_sha256": name, **meta}
    return Entry(name, {split: made(answers(wrong), labels=LABELS, **facts)})


def make_run(
    folder: Path,
    wrong: Any = slice(0, 20),
    seed: int = 0,
    splits: tuple[str, ...] = ("val",),
    *,
    planned: tuple[int, ...] = (2,),
    processes: int = 1,
    readings: int = 0,
    images: str = "f",
    lineage: tuple[str, ...] = (),
    limit: int | None = 256,
    **config: Any,
) -> Run:
    """A run directory as train leaves it, but for its weights."""
    settings = parse_config(tiny_raw(seed=seed, **config))
    run = Run(folder)
    run.folder.mkdir(parents=True)
    run.config_file.write_text(dump_config(settings))
    weights = f"weights of {folder}"
    plain = config_dict(settings)
    epochs = sum(phase["epochs"] for phase in plain["phases"])
    facts = {"source": "digits", "train_sha256": f"train{limit}", "train_limit": limit}
    data = {key: value for key, value in facts.items() if value is not None}
    summary = summary_of(
        name=settings.name,
        seed=seed,
        epochs=epochs,
        views=settings.views,
        seconds=90.0,
        recipe_sha256=recipe_hash(settings),
        weights_sha256=weights,
    )
    run.summary_file.write_text(json.dumps(summary))
    sessions = [session_of(epochs_planned=epochs, processes=processes) for epochs in planned]
    run.env_file.write_text(json.dumps({"sessions": sessions}))
    if readings:
        run.test_readings_file.write_text((json.dumps(reading_of(0.5)) + "\n") * readings)
    for split in splits:
        meta = {
            "name": settings.name,
            "seed": seed,
            "parameters": 50_000,
            "rules": plain["rules"],
            "config": plain,
            "views": settings.views,
            "weights_sha256": weights,
            "run": folder.name,
            "data": data,
            "lineage": list(lineage),
            "images_sha256": split + images,
        }
        made(answers(wrong), labels=LABELS, **{**meta, "split": split}).save(run.predictions / f"{split}.npz")
    return run


def test_pairs_are_tested_on_the_same_images_and_corrected_together() -> None:
    entries = [entry("a", slice(0, 20)), entry("b", slice(0, 6)), entry("c", slice(18, 48)), entry("d", slice(0, 20))]
    found = compare(entries)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("a", "d")]
    better, worse, same = found.pairs
    assert (better.only_first, better.only_second) == (0, 14)
    assert better.p == pytest.approx(binomtest(0, 14).pvalue) == pytest.approx(2 / 2**14)
    assert (worse.only_first, worse.only_second) == (28, 18)
    assert worse.p == pytest.approx(binomtest(18, 46).pvalue)
    assert (same.only_first, same.only_second, same.p, same.difference) == (0, 0, 1.0, 0.0)
    assert better.difference == 14 / 400
    correct = [one.predictions["val"].correct for one in entries]
    assert (better.difference, better.low, better.high) == paired_difference(correct[0], correct[1])
    assert [pair.p_holm for pair in found.pairs] == holm([pair.p for pair in found.pairs])
    assert worse.p_holm == pytest.approx(2 * worse.p)
    every = compare(entries, all_pairs=True)
    assert len(every.pairs) == 6
    assert [pair.p_holm for pair in every.pairs] == holm([pair.p for pair in every.pairs])


def test_scores_carry_wilson_intervals() -> None:
    (row,) = compare([entry("a", slice(0, 25))]).rows
    assert row.scores["val"].accuracy == 0.9375
    assert row.scores["val"].interval == wilson_interval(375, 400)
    assert "93.75 [90.94, 95.73]" in comparison_tables(compare([entry("a", slice(0, 25))]))[1].rows[0]


def test_other_images_refuse_the_paired_test_and_say_so() -> None:
    first = entry("a", 0)
    other = entry("b", 1, images_sha256="0" * 64)
    half = made(LABELS[:200], labels=LABELS[:200], split="val", images_sha256="1" * 64)
    found = compare([first, other, Entry("half", {"val": half}), entry("d", 1, split="test")])
    assert found.pairs == ()
    assert found.refused == (
        "a and b: no paired test, their val images differ",
        "a and half: no paired test, their val images differ (400 and 200)",
        "a and d: no paired test, d has no val predictions",
    )
    assert "val images: 400 images ffffffff (a); 400 images 00000000 (b); 200 images 11111111 (half)" in found.unlike
    assert found.missing[0] == "a has no test predictions: give the file of its test predictions too"


def test_files_that_contradict_each_other_are_refused() -> None:
    turned = made(answers(0), np.arange(400)[::-1], labels=LABELS, split="val")
    with pytest.raises(DataError, match="a and b name the same val images but not the same ids and labels"):
        compare([entry("a", 0), Entry("b", {"val": turned})])


def test_what_is_not_like_with_like_is_named() -> None:
    single = entry("single", 0, data={"source": "cifar10", "train_sha256": "a" * 64})
    large = entry("large", 1, parameters=7_000_000, views="flip", lineage=["resnet18 of timm"])
    part = {"data": {"source": "cifar10", "train_sha256": "b" * 64, "train_limit": 1000}, "parameters": 10, "views": "none"}
    joined = entry(
        "joined",
        2,
        members=[{**part, "name": "x", "weights_sha256": "x"}, {**part, "name": "y", "weights_sha256": "y"}],
        views=None,
    )
    found = compare([single, large, joined])
    assert found.unlike == (
        "training images: cifar10 aaaaaaaa (single); cifar10, 1,000 images bbbbbbbb (joined)",
        "starting weights and teachers: from scratch (single, joined); resnet18 of timm (large)",
        "rules: kept (single, joined); broken: 2,000,000 over, pretrained not allowed (large)",
        "views: none (single, joined); flip (large)",
        "members: 1 (single, large); 2 (joined)",
    )
    assert [row.faults for row in found.rows] == [(), ("2,000,000 over", "pretrained not allowed"), ()]
    assert [row.legal for row in found.rows] == [True, False, True]


def test_where_most_agree_only_the_few_are_listed() -> None:
    found = compare([entry(name, at, views="flip" if name == "c" else "none") for at, name in enumerate("abcde")])
    assert found.unlike == ("views: none (the others); flip (c)",)


def test_an_ensembles_parameters_are_the_sum() -> None:
    members = [{"weights_sha256": name, "name": name, "parameters": 3_000_000, "views": "none"} for name in "xy"]
    joined = entry("joined", 0, parameters=6_000_000, members=members)
    large = entry("large", 0, parameters=9_000_000, members=[{**one, "parameters": 7_000_000} for one in members])
    assert [row.faults for row in compare([joined, large]).rows] == [
        ("sum 1,000,000 over, each within",),
        ("4,000,000 over",),
    ]


def test_an_ensemble_is_held_against_the_best_of_its_members() -> None:
    wrong = {"a": slice(0, 20), "b": slice(5, 20), "c": slice(30, 60)}
    members = {name: entry(name, at, views="flip", images_sha256="i") for name, at in wrong.items()}
    parts = [{"name": name, "weights_sha256": name, "parameters": 10, "views": "flip"} for name in "ab"]
    joined = entry("joined", slice(0, 8), views="flip", images_sha256="i", members=parts, parameters=20)
    found = compare([*members.values(), joined])
    (test,) = found.ensembles
    assert (test.first, test.second) == ("b", "joined")
    assert (test.only_first, test.only_second) == (5, 12)
    assert test.difference == pytest.approx(7 / 400)
    assert test.p == test.p_holm == pytest.approx(binomtest(5, 17).pvalue)
    (row,) = comparison_tables(found)[-1].rows
    assert row[:5] == ("joined", "2", "20", "98.00 [96.10, 98.98]", "b")
    assert row[6:] == ("12 / 5", "0.143", "0.143")
    records = list(csv.DictReader(io.StringIO(comparison_csv(found))))
    assert [(one["name"], one["against"]) for one in records if one["kind"] == "ensemble"] == [("joined", "b")]
    # Where the best member stands first, the table of scores has the test already.
    first = compare([members["b"], members["a"], joined])
    assert len(first.ensembles) == 1
    assert [table.label for table in comparison_tables(first)] == ["entries", "scores"]


@pytest.mark.parametrize("other", [{"views": "none"}, {"images_sha256": "j"}, {"onnx": ONNX}, {"weights_sha256": "another"}])
def test_without_all_its_members_an_ensemble_is_held_against_none(other: dict[str, Any]) -> None:
    facts = {"views": "flip", "images_sha256": "i"}
    parts = [{"weights_sha256": name, "name": name, "parameters": 10, "views": "flip"} for name in "ab"]
    joined = entry("joined", 0, **facts, members=parts, parameters=20)
    second = entry("b", 1, **{**facts, "precision": "int8", **other})
    whole = compare([entry("a", 2, **facts), entry("b", 1, **facts), joined])
    assert len(whole.ensembles) == 1
    assert not any("best member" in line for line in whole.refused)
    partly = compare([entry("a", 2, **facts), second, joined])
    assert partly.ensembles == ()
    assert "joined: not tested against its best member, as b is no entry with its val" in partly.refused


def test_an_ensemble_of_int8_is_none_of_fp32() -> None:
    facts = {"views": "flip", "images_sha256": "i"}
    int8 = {"onnx": ONNX, "precision": "int8"}
    parts = [{"weights_sha256": name, "name": name, "parameters": 10, "views": "flip", **int8} for name in "ab"]
    joined = entry("joined", 0, images_sha256="i", views=None, members=parts, parameters=20)
    plain = compare([entry("a", 2, **facts), entry("b", 1, **facts), joined])
    assert plain.ensembles == ()
    assert plain.rows[2].views == "flip onnx int8"
    rounded = compare([entry("a", 2, **facts, **int8), entry("b", 1, **facts, **int8), joined])
    assert [(test.first, test.second) for test in rounded.ensembles] == [("a", "joined")]


def test_a_member_that_was_left_out_may_be_the_best() -> None:
    facts = {"views": "flip", "images_sha256": "i"}
    parts = [{"weights_sha256": name, "name": name, "parameters": 10, "views": "flip"} for name in "abc"]
    joined = entry("joined", slice(0, 8), **facts, members=parts[:2], left_out=parts[2:], parameters=20)
    wrong = {"a": slice(0, 20), "b": slice(5, 20), "c": slice(0, 4)}
    found = compare([*(entry(name, at, **facts) for name, at in wrong.items()), joined])
    assert [(test.first, test.difference) for test in found.ensembles] == [("c", -4 / 400)]


def test_all_recipes_are_tested_where_asked(tmp_path: Path) -> None:
    names = {"one": [20, 24, 31], "two": [36, 44, 43], "three": [30, 39, 37]}
    paths = [
        path
        for number, (name, wrong) in enumerate(names.items())
        for path in seeds_of(tmp_path, name, wrong, batch_size=16 + number)
    ]
    entries = load_entries(paths)
    assert [(one.first, one.second) for one in compare(entries).group_tests] == [("one", "two"), ("one", "three")]
    found = compare(entries, all_recipes=True)
    assert [(one.first, one.second) for one in found.group_tests] == [("one", "two"), ("one", "three"), ("two", "three")]
    assert len(found.pairs) == len(entries) - 1
    assert comparison_tables(found)[-1].rows[-1][0] == "three - two"


def test_like_entries_have_nothing_to_say(tmp_path: Path) -> None:
    make_run(tmp_path / "a", slice(0, 20))
    make_run(tmp_path / "b", slice(0, 10), 1)
    found = compare(load_entries([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert found.unlike == ()
    assert found.refused == ()


def test_other_lengths_and_other_selection_are_named(tmp_path: Path) -> None:
    make_run(tmp_path / "a", selection="best")
    make_run(tmp_path / "b", selection="last", phases=[{"epochs": 2}, {"epochs": 3}], limit=None)
    assert compare(load_entries([str(tmp_path / "a"), str(tmp_path / "b")])).unlike == (
        "training images: digits, 256 images train256 (a); digits trainNon (b)",
        "epochs: 2 (a); 5 (b)",
        "selection: best (a); last (b)",
    )


def test_versions_that_decide_results_are_named_where_they_differ(tmp_path: Path) -> None:
    """OpenCV 4.12 and 5.0 made other pixels of one pipeline and one seed."""
    versions = [
        {"torch": "2.13.0", "opencv-python": "4.12.0.88", "pandas": "3.0"},
        {"torch": "2.13.0", "opencv-python-headless": "5.0.0.93", "pandas": "3.1"},
        {"torch": "2.13.0"},  # recorded before the others were
    ]
    for name, packages in zip("abc", versions, strict=True):
        run = make_run(tmp_path / name)
        sessions = [session_of(epochs_planned=2, processes=1, packages=packages)]
        if name == "b":
            sessions.append(session_of(epochs_planned=2, processes=1, packages={**packages, "torch": "2.14.0"}))
        run.env_file.write_text(json.dumps({"sessions": sessions}))
    found = compare(load_entries([str(tmp_path / name) for name in "abc"]))
    assert found.unlike == (
        "version of torch in training: 2.13.0 (a, c); 2.13.0 then 2.14.0 (b)",
        "version of opencv in training: 4.12.0.88 (a); 5.0.0.93 (b)",
    )


def test_a_run_gives_its_facts(tmp_path: Path) -> None:
    make_run(tmp_path / "net-seed3", slice(0, 20), 3, ("val", "test"), readings=2)
    (row,) = compare(load_entries([str(tmp_path / "net-seed3")])).rows
    assert (row.name, row.title, row.seed, row.parameters, row.budget) == ("net-seed3", "tiny", 3, 50_000, 100_000)
    assert (row.data, row.views, row.members, row.epochs, row.minutes) == ("digits, 256 images", "none", 1, (2,), 1.5)
    assert (row.hardware, row.test_readings, row.lineage, row.legal) == ("a CPU, 2 threads, fp32", 2, (), True)
    assert set(row.scores) == {"val", "test"}
    (line,) = compare(load_entries([str(tmp_path / "net-seed3")])).unlike
    assert line == "test was evaluated 2 times for net-seed3; if it guided any choice, this accuracy is optimistic"
    make_run(tmp_path / "unread", slice(0, 20), 3, ("val",), readings=2)  # of which no accuracy on test is shown
    assert compare(load_entries([str(tmp_path / "unread")])).unlike == ()
    soup = make_run(tmp_path / "soup", slice(0, 20), 3, ("val", "test"), readings=1)
    facts = {"name": "x", "parameters": 1, "epoch": 1, "val_accuracy": 0.5, "config_sha256": "", "lineage": []}
    members = [{**facts, "seed": at, "weights_sha256": str(at), "taken": True, "test_readings": at + 1} for at in range(2)]
    soup.summary_file.write_text(json.dumps({**json.loads(soup.summary_file.read_text()), "soup": members}))
    (line, *_) = compare(load_entries([str(soup.folder)])).unlike
    assert line.startswith("test was evaluated 4 times for soup, 3 of them in the runs that it was made of; if it guided")


def test_settings_in_force_that_differ_are_named(tmp_path: Path) -> None:
    """Where a config says them is no difference; what only one kind of optimizer has is none either."""
    make_run(tmp_path / "a", phases=[{"epochs": 1, "mixup_alpha": 0.2}, {"epochs": 1}], label_smoothing=0.1)
    make_run(
        tmp_path / "b",
        slice(0, 20),
        1,
        mixup_alpha=0.2,
        phases=[{"epochs": 1, "label_smoothing": 0.1}, {"epochs": 1, "optim": {"name": "adamw", "lr": 0.01}}],
    )
    make_run(tmp_path / "c", slice(0, 20), 1, label_smoothing=0.1, phases=[{"epochs": 2}], freeze="fc")
    found = compare(load_entries([str(tmp_path / name) for name in "abc"]))
    assert sorted(found.settings) == [
        ("epochs", "1 then 1", "a, b"),
        ("epochs", "2", "c"),
        ("freeze", '["fc"]', "c"),
        ("freeze", "not set", "a, b"),
        ("mixup_alpha", "0", "c"),
        ("mixup_alpha", "0.2", "a, b"),
        ("optim.lr", "0.1", "a, c"),
        ("optim.lr", "0.1 then 0.01", "b"),
        ("optim.name", "sgd", "a, c"),
        ("optim.name", "sgd then adamw", "b"),
        ("optim.weight_decay", "0.0005", "a, c"),
        ("optim.weight_decay", "0.0005 then 0", "b"),
    ]
    table = comparison_tables(found)[2]
    assert (table.title, table.rows) == ("Settings that differ", found.settings)
    assert compare(load_entries([str(tmp_path / "a")])).settings == ()


def test_what_became_of_a_plan_is_named(tmp_path: Path) -> None:
    """Patience cut one run short, another was made longer on the way."""
    short = make_run(tmp_path / "short")
    summary = json.loads(short.summary_file.read_text())
    short.summary_file.write_text(json.dumps({**summary, "epochs_planned": 9}))
    longer = make_run(tmp_path / "longer", slice(0, 20), 1, planned=(1, 2))
    found = compare(load_entries([str(short.folder), str(longer.folder)])).unlike
    assert "short ended by patience after epoch 2 of 9" in found
    assert "longer was extended on the way, planned for 1 then 2 epochs, which bent its schedule" in found


def test_missing_predictions_are_named_with_their_command(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    found = compare(load_entries([str(run.folder)]), "test")
    assert found.missing == (f"a has no test predictions: cifar-small predict {tmp_path}/a --split test",)
    val = load_predictions(run.predictions / "val.npz")
    val.with_meta(views="flip").save(run.predictions / "val_flip.npz")
    (line,) = compare(load_entries([str(run.predictions / "val_flip.npz")]), "test").missing
    assert f"predict {tmp_path.resolve()}/a --split test --views flip" in line
    (run.predictions / "val.npz").unlink()
    with pytest.raises(CheckpointError, match=r"has no predictions of val or test; run: cifar-small predict .* --split val"):
        load_entries([str(run.folder)])


def test_a_file_in_a_run_brings_its_other_split_and_its_facts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", splits=("val", "test"))
    (one,) = load_entries([str(run.predictions / "val.npz")])
    assert one.name == "a"
    assert set(one.predictions) == {"val", "test"}
    assert compare([one]).rows[0].minutes == 1.5
    test = load_predictions(run.predictions / "test.npz")
    test.with_meta(views="flip").save(run.predictions / "test.npz")  # of other views: another entry
    (one,) = load_entries([str(run.predictions / "val.npz")])
    assert set(one.predictions) == {"val"}


def test_two_views_of_a_run_are_two_entries(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    val = load_predictions(run.predictions / "val.npz")
    val.with_meta(views="flip").save(run.predictions / "val_flip.npz")
    found = compare(load_entries([str(run.folder), str(run.predictions / "val_flip.npz")]))
    assert [row.name for row in found.rows] == ["a", "a flip"]
    assert found.unlike == ("views: none (a); flip (a flip)",)
    assert found.groups == ()


def test_a_kept_checkpoint_is_an_entry_of_its_own_and_no_seed_of_the_recipe(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", seed=1, readings=0)
    make_run(tmp_path / "b", seed=2)
    run.kept_file(1).write_bytes(b"weights")
    row = {"val_accuracy": 0.5, "seconds": 30.0}
    run.write_metrics([{"epoch": 1, **row}, {"epoch": 2, **row, "seconds": 85.0}])
    kept = {"checkpoint": "epoch-0001", "epoch": 1, "weights_sha256": sha256_file(run.kept_file(1))}
    val = load_predictions(run.predictions / "val.npz")
    file = run.predictions / "val_epoch-0001.npz"
    replace(val.with_meta(**kept), logits=0.9 * val.logits).save(file)
    found = compare(load_entries([str(run.folder), str(tmp_path / "b"), str(file)]))
    assert [(row.name, row.selection) for row in found.rows][::2] == [("a", "best"), ("a epoch-0001", "epoch-0001")]
    assert [one.name for one in found.groups[0].rows] == ["a", "b"]
    assert found.rows[2].epochs == (1,)
    assert [one.minutes for one in found.rows[::2]] == [1.5, 0.5]  # of its epochs alone
    assert found.missing == ()  # a look at val sends nobody to read test
    missing = compare(load_entries([str(file)]), "test").missing
    assert missing[-1].endswith("a --split test --checkpoint epoch-0001")
    (run.folder / "int8.onnx").write_bytes(bytes(1000))
    combine([val, load_predictions(file)]).save(tmp_path / "both_val.npz")
    entries = load_entries([str(run.folder), str(file), str(tmp_path / "both_val.npz")])
    assert [row.minutes for row in compare(entries).rows] == [1.5, 0.5, 1.5]  # of one run, which took them once
    assert [row.int8_bytes for row in compare(entries).rows] == [1000, None, None]  # the file holds the selected weights
    run.kept_file(1).write_bytes(b"others")
    with pytest.raises(CheckpointError, match="--split val --checkpoint epoch-0001 --overwrite"):
        load_entries([str(file)])


def test_two_int8_files_of_a_net_are_two_entries(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    val = load_predictions(run.predictions / "val.npz")
    files = [run.predictions / f"val_{name}.npz" for name in ("one", "two")]
    for file in files:
        val.with_meta(onnx=OnnxFacts(**{**ONNX, "sha256": file.name})).save(file)
    assert [one.name for one in load_entries([str(file) for file in files])] == [str(file) for file in files]
    val.with_meta(onnx=OnnxFacts(**{**ONNX, "sha256": "val_one.npz"})).save(files[1])
    with pytest.raises(UserError, match="are the same weights with the same views"):
        load_entries([str(file) for file in files])


def test_what_val_chose_is_said_where_val_is_the_judge() -> None:
    members = [made(answers(slice(at, 20)), labels=LABELS, seed=at, split="val", weights_sha256=str(at)) for at in range(3)]
    fitted = combine(members, "greedy", members)
    plain = combine(members)
    others = made(LABELS, labels=LABELS, split="val", images_sha256="0" * 64).meta
    elsewhere = fitted.with_meta(images_sha256=others.images_sha256)  # of a val that fitted nothing
    nested = combine([fitted, made(answers(slice(9, 20)), labels=LABELS, seed=9, split="val", weights_sha256="9")])
    facts = {"name": "x", "seed": 0, "parameters": 1, "epoch": 1, "val_accuracy": 0.5, "config_sha256": "", "lineage": []}
    soup = [SoupMember(**facts, weights_sha256=str(at), taken=not at) for at in range(2)]
    tried = members[0].with_meta(soup=soup)
    lines = {"weights": "the weights of its members", "soup": "the members of its soup"}
    for one, said in (
        (fitted, "weights"),
        (nested, "weights"),
        (tried, "soup"),
        (combine([tried, members[1]]), "soup"),
        (plain, ""),
        (elsewhere, ""),
    ):
        assert evaluate(one).val_chose == lines.get(said, "")
        line = f"val chose {lines.get(said)} for x, so its figures on val are optimistic; compare on test"
        assert compare([Entry("x", {"val": one})]).unlike == ((line,) if said else ())
    assert "val also chose the weights of its members, so its accuracy is optimistic" in describe_evaluation(evaluate(fitted))


def test_what_use_costs_stands_in_columns_where_a_run_tells_it(tmp_path: Path) -> None:
    """Minutes as predict took for most images, of an ensemble the sum; bytes of the int8 file in the run."""
    runs = [make_run(tmp_path / name, slice(seed, 20), seed) for seed, name in enumerate(("one", "other", "silent"))]
    val = [load_predictions(run.predictions / "val.npz") for run in runs]
    for number, (images, seconds) in ((0, (10_000, 30.0)), (0, (500, 99.0)), (1, (400, 0.3)), (1, (1000, 1.2))):
        note_seconds(runs[number], val[number].meta.maker, images, seconds)
    note_seconds(runs[2], val[2].meta.maker, 999, 0.6)  # too few to tell
    combine(val[:2]).save(tmp_path / "both_val.npz")
    combine(val[1:]).save(tmp_path / "unknown_val.npz")
    names = [str(run.folder) for run in runs] + [str(tmp_path / f"{name}_val.npz") for name in ("both", "unknown")]
    table = comparison_tables(compare(load_entries(names)))[0]
    assert table.header[-1] == "predict"
    assert [row[-1] for row in table.rows] == ["0.50", "0.20", "", "0.70", ""]
    (runs[2].predictions / "seconds.json").write_text("[]")
    assert [row[-1] for row in comparison_tables(compare(load_entries(names)))[0].rows] == ["0.50", "0.20", "", "0.70", ""]
    (first, *_) = csv.DictReader(io.StringIO(comparison_csv(compare(load_entries(names)))))
    assert (first["predict_minutes"], first["int8_bytes"]) == ("0.5", "")
    (runs[2].folder / "int8.onnx").write_bytes(bytes(1_234_567))
    quantized = entry("quantized", [4], onnx=OnnxFacts.model_validate({**ONNX, "bytes": 2_000_000}))
    table = comparison_tables(compare([quantized, *load_entries(names[2:3])]))[0]
    assert table.header[-1] == "int8 MB"
    alone = compare(load_entries(names[:1]))
    assert not any(note.startswith("minutes of") for note in comparison_tables(alone)[0].notes)
    tuned = replace(alone, rows=(replace(alone.rows[0], lineage=("r18, trained on imagenet",)),))
    assert "minutes of one: of that training alone, without" in " ".join(comparison_tables(tuned)[0].notes)
    assert [row[-1] for row in table.rows] == ["2.00", "1.23"]
    (runs[2].folder / "int8.onnx").unlink()
    assert comparison_tables(compare(load_entries(names[2:3])))[0].header[-1] == "minutes"


def test_an_ensembles_val_and_test_files_are_one_entry_and_know_their_members(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"s{seed}", slice(seed, 20), seed, ("val", "test")) for seed in range(2)]
    for split in ("val", "test"):
        members = [load_predictions(run.predictions / f"{split}.npz") for run in runs]
        noisy = [
            replace(one, logits=one.logits + np.float32(0.01) * np.random.default_rng(at).random(one.logits.shape, np.float32))
            for at, one in enumerate(members)
        ]
        # The order of the members makes another name, "mean of logits: b, a", and no other ensemble.
        combine(noisy if split == "val" else noisy[::-1]).save(tmp_path / f"both_{split}.npz")
    files = [str(tmp_path / f"both_{split}.npz") for split in ("val", "test")]
    found = compare(load_entries([*files, str(runs[0].folder), str(runs[1].folder)]))
    joined = found.rows[0]
    assert (joined.name, joined.members, joined.parameters, joined.seed) == ("both", 2, 100_000, None)
    assert (joined.epochs, joined.minutes, joined.hardware) == ((2, 2), 3.0, "a CPU, 2 threads, fp32")
    assert set(joined.scores) == {"val", "test"}
    (alone,) = compare(load_entries(files)).rows
    assert (alone.epochs, alone.minutes, alone.hardware) == ((2, 2), None, "")  # what the configs in the file say
    assert comparison_tables(found)[0].rows[0][-2:] == ("2 x 2", "3.0 a")


def test_names(tmp_path: Path) -> None:
    for folder in ("one", "two", "lr=0.1"):
        make_run(tmp_path / folder / "net", seed=len(folder))
    paths = [str(tmp_path / folder / "net") for folder in ("one", "two", "lr=0.1")]
    assert [one.name for one in load_entries([f"small={paths[0]}", paths[1]])] == ["small", "net"]
    with_paths = [one.name for one in load_entries([paths[0], paths[2]])]
    assert with_paths == [paths[0], paths[2]]  # both are called net
    with pytest.raises(UserError, match="two entries are called x; give one another name with NAME=PATH"):
        compare([entry("x", 0), entry("x", 1)])


def test_bad_entries_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with pytest.raises(UserError, match="are the same weights with the same views; name each entry once"):
        load_entries([str(run.folder), str(run.predictions / "val.npz")])
    with pytest.raises(UserError, match=r"b=nowhere does not exist; expected a run directory or a predictions file"):
        load_entries(["b=nowhere"])
    made(seed=1).save(tmp_path / "submit.npz")
    with pytest.raises(DataError, match=r"submit\.npz is of split submit without labels; expected val or test; .*diff"):
        load_entries([str(tmp_path / "submit.npz")])
    with pytest.raises(CheckpointError, match=r"has no config\.yaml"):
        load_entries([str(tmp_path)])
    val = load_predictions(run.predictions / "val.npz")
    val.with_meta(weights_sha256="of a shorter run").save(run.predictions / "val.npz")
    with pytest.raises(CheckpointError, match=r"val\.npz was predicted with other weights .*--split val --overwrite"):
        load_entries([str(run.folder)])
    run.summary_file.unlink()
    with pytest.raises(CheckpointError, match="has not finished"):
        load_entries([str(run.folder)])


def seeds_of(tmp_path: Path, name: str, wrong: list[int], first_seed: int = 0, **config: Any) -> list[str]:
    rng = np.random.default_rng(len(name))
    folders = []
    for seed, count in enumerate(wrong, start=first_seed):
        places = rng.permutation(400)[:count]
        folders.append(str(make_run(tmp_path / f"{name}-seed{seed}", places, seed, name=name, **config).folder))
    return folders


def test_seeds_of_one_config_are_a_recipe_with_mean_and_sd(tmp_path: Path) -> None:
    paths = [*seeds_of(tmp_path, "slow", [20, 24, 31]), *seeds_of(tmp_path, "fast", [36, 44, 43], batch_size=32)]
    found = compare(load_entries(paths))
    slow, fast = found.groups
    assert (slow.name, fast.name) == ("slow", "fast")
    assert slow.spreads["val"].mean == pytest.approx(1 - 25 / 400)
    assert slow.spreads["val"].sd == pytest.approx(math.sqrt((25 + 1 + 36) / 2) / 400)
    assert "test" not in slow.spreads
    (test,) = found.group_tests
    expected = ttest_rel([1 - 36 / 400, 1 - 44 / 400, 1 - 43 / 400], [1 - 20 / 400, 1 - 24 / 400, 1 - 31 / 400])
    assert test.seeds == (0, 1, 2)
    assert test.difference == pytest.approx(-16 / 400)
    assert test.p == test.p_holm == pytest.approx(expected.pvalue)
    table = comparison_tables(found)[-1]
    assert table.rows[0][:3] == ("slow", "3 (0, 1, 2)", "93.75 ± 1.39")
    assert table.rows[1][3].startswith("-4.00 [-6.48, -1.52]")
    assert table.rows[1][4:] == ("3 shared seeds", "0.020")


def test_one_config_on_other_images_is_another_recipe_and_said_to_be(tmp_path: Path) -> None:
    """Such as a cleaned set of labels in the place of the original one, under the same indices."""
    paths = [*seeds_of(tmp_path / "a", "slow", [20, 24, 31]), *seeds_of(tmp_path / "b", "slow", [36, 44, 43])]
    for path, digest in zip(paths, "aaabbb", strict=True):
        run, facts = Run(path), {"source": "digits", "sha256": digest, "train_sha256": "indices"}
        summary = json.loads(run.summary_file.read_text())
        run.summary_file.write_text(json.dumps({**summary, "data": facts}))
        file = run.predictions / "val.npz"
        load_predictions(file).with_meta(data=DataFacts.model_validate(facts)).save(file)
    found = compare(load_entries(paths))
    assert [(len(group.rows), group.spreads["val"].n) for group in found.groups] == [(3, 3), (3, 3)]
    assert [test.seeds for test in found.group_tests] == [(0, 1, 2)]
    assert any(line.startswith("training images: ") for line in found.unlike)


def test_val_that_chose_an_epoch_is_said_below_the_scores(tmp_path: Path) -> None:
    best, last = (make_run(tmp_path / name, seed=1, selection=name) for name in ("best", "last"))
    notes = [comparison_tables(compare(load_entries([str(run.folder)])))[1].notes for run in (best, last)]
    assert [any("val chose the epoch of entries whose selection is best" in note for note in each) for each in notes] == [
        True,
        False,
    ]


def test_recipes_with_other_seeds_are_compared_unpaired(tmp_path: Path) -> None:
    paths = [*seeds_of(tmp_path, "slow", [20, 24, 31]), *seeds_of(tmp_path, "fast", [36, 44, 43], 2, batch_size=32)]
    (test,) = compare(load_entries(paths)).group_tests
    assert test.seeds == ()  # one shared seed is no pair of pairs


def test_recipes_that_share_some_seeds_are_compared_over_all(tmp_path: Path) -> None:
    slow, fast = [30, 60, 90, 32, 61], [20, 55, 19]
    paths = [*seeds_of(tmp_path, "slow", slow), *seeds_of(tmp_path, "fast", fast, 1, batch_size=32)]
    (test,) = compare(load_entries(paths)).group_tests
    expected = ttest_ind([1 - one / 400 for one in fast], [1 - one / 400 for one in slow], equal_var=False)
    assert test.seeds == ()
    assert test.difference == pytest.approx((sum(slow) / 5 - sum(fast) / 3) / 400)  # that of the means in the table
    assert test.p == pytest.approx(expected.pvalue)


def test_a_mean_needs_every_seed(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"a{seed}", seed, seed, ("val", "test")) for seed in range(2)]
    make_run(tmp_path / "a2", 2, 2)
    elsewhere = make_run(tmp_path / "b0", 0, 0, batch_size=32)
    other = make_run(tmp_path / "b1", 0, 1, batch_size=32, images="0")
    found = compare(load_entries([*(str(run.folder) for run in runs), str(tmp_path / "a2")]))
    assert set(found.groups[0].spreads) == {"val"}
    found = compare(load_entries([*(str(run.folder) for run in (*runs, elsewhere, other))]))
    assert [set(group.spreads) for group in found.groups] == [{"val", "test"}, set()]
    assert (
        found.refused[-1]
        == "tiny (a0, ...) and tiny (b0, ...) over seeds: no test, not every seed has predictions of the same val images"
    )


def test_right_alone_is_the_entrys_own_first() -> None:
    (_, row) = comparison_tables(compare([entry("a", slice(0, 5)), entry("b", slice(4, 6))]))[1].rows
    assert row[3] == "4 / 1"


def test_what_is_no_seed_of_a_recipe(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", 0)
    again = make_run(tmp_path / "b", 1)  # the same seed
    extended = make_run(tmp_path / "c", 2, 2, planned=(2, 4))
    of_two_processes = make_run(tmp_path / "d", 3, 3, processes=2)
    found = compare(load_entries([str(run.folder) for run in (first, again, extended, of_two_processes)]))
    assert found.groups == ()
    assert found.refused == ("b is seed 0 of the recipe of a again: left out of its mean",)
    assert "c was extended on the way, planned for 2 then 4 epochs, which bent its schedule" in found.unlike


def test_seeds_that_differ_alike_have_no_test(tmp_path: Path) -> None:
    paths = [*seeds_of(tmp_path, "slow", [20, 24]), *seeds_of(tmp_path, "fast", [30, 34], batch_size=32)]
    found = compare(load_entries(paths))
    assert found.group_tests == ()
    assert found.refused[-1].startswith("slow and fast over seeds: no test, the difference does not vary from seed to seed")


def test_three_recipes_are_corrected(tmp_path: Path) -> None:
    paths = [
        path for name, wrong in (("a", [20, 24]), ("b", [30, 39]), ("c", [60, 70])) for path in seeds_of(tmp_path, name, wrong)
    ]
    tests = compare(load_entries(paths)).group_tests
    assert [test.p_holm for test in tests] == holm([test.p for test in tests])
    assert [(test.first, test.second) for test in tests] == [("a", "b"), ("a", "c")]
    every = compare(load_entries(paths), all_pairs=True)
    assert [(test.first, test.second) for test in every.group_tests] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert comparison_tables(every)[-1].rows[-1][0] == "c - b"


def written(tmp_path: Path, *options: str) -> str:
    target = tmp_path / f"table{options[0]}"
    assert main(["compare", *options[1:], "--output", str(target)]) == 0
    return target.read_text(encoding="utf-8")


def test_the_command_writes_each_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = seeds_of(tmp_path, "slow", [20, 24, 31], splits=("val", "test"))
    assert main(["compare", *paths]) == 0
    shown = capsys.readouterr()
    assert "slow-seed1" in shown.out
    assert "94.00 [91.23, 95.94]" in shown.out
    assert shown.err == ""
    assert "| slow-seed0 | 50,000 | 1M | 100,000 | yes |" in written(tmp_path, ".md", *paths)
    assert r"slow-seed0 & 50,000 & 1M & 100,000 & yes" in written(tmp_path, ".tex", *paths)
    assert "slow-seed0" in written(tmp_path, ".txt", *paths)
    rows = list(csv.DictReader(io.StringIO(written(tmp_path, ".csv", *paths, "--pairs"))))
    assert [row["kind"] for row in rows] == ["entry"] * 3 + ["pair"] * 3 + ["recipe"]
    assert float(rows[0]["val"]) == 0.95
    assert (float(rows[0]["test_low"]), float(rows[0]["test_high"])) == pytest.approx(wilson_interval(380, 400))
    assert (rows[3]["name"], rows[3]["against"], rows[3]["split"]) == ("slow-seed1", "slow-seed0", "val")
    assert float(rows[-1]["val_sd"]) == pytest.approx(math.sqrt(31) / 400)
    capsys.readouterr()
    assert main(["compare", *paths, "--output", str(tmp_path / "table.md")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["compare", *paths, "--output", str(tmp_path / "table.doc")]) == 2
    assert "unknown format '.doc'; expected .txt, .md, .csv, .tex, or set --format" in capsys.readouterr().err


def test_multiply_adds_are_of_the_net_at_its_size_and_drawn_with_the_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, larger = make_run(tmp_path / "plain"), make_run(tmp_path / "larger", input={"size": 64})
    comparison = compare(load_entries([str(plain.folder), str(larger.folder)]), "val", all_pairs=False)
    counts = [row.macs for row in comparison.rows]
    assert counts[0] == footprint(plain.config().model, 10).macs
    assert counts[1] == footprint(plain.config().model, 10, 64).macs
    assert counts[1] > 3 * counts[0]  # type: ignore[operator]
    target = tmp_path / "cost.png"
    assert main(["compare", str(plain.folder), str(larger.folder), "--plot", str(target)]) == 0
    assert f"-> {target}" in capsys.readouterr().out
    with Image.open(target) as picture:
        assert picture.size[0] > 1000
    assert main(["compare", str(plain.folder), str(larger.folder), "--plot", str(target)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_recipes_are_drawn_with_their_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = seeds_of(tmp_path, "slow", [20, 24, 31], splits=("val",))
    paths.append(str(make_run(tmp_path / "alone", slice(0, 8), batch_size=32).folder))
    drawn: list[Any] = []
    monkeypatch.setattr("cifar_small.figures.run.draw_cells", lambda *given: given)
    monkeypatch.setattr("cifar_small.figures.style.save", lambda figure, path: drawn.append((*figure, path)))
    assert main(["compare", *paths, "--plot-seeds", str(tmp_path / "seeds.png")]) == 0
    ((cells, _, split, path),) = drawn
    assert dict(cells) == {"slow": pytest.approx([95.0, 94.0, 92.25]), "alone": pytest.approx([98.0])}
    assert (path, split) == (tmp_path / "seeds.png", "val")
    assert main(["compare", *paths, "--split", "test", "--plot-seeds", str(tmp_path / "seeds.png")]) == 2
    assert "a plot needs predictions of test, and no entry has any" in capsys.readouterr().err
    assert main(["compare", *paths, "--plot", str(tmp_path / "cost.txt")]) == 2
    assert "the ending '.txt' is not that of a picture; expected .png" in capsys.readouterr().err


def test_compare_never_opens_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cifar_small.data import sources

    def refuse(*_: Any) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(sources, "_load", refuse)
    run = make_run(tmp_path / "a")
    before = sorted(path.name for path in run.folder.rglob("*"))
    assert main(["compare", str(run.folder), "--split", "test"]) == 0
    notes = capsys.readouterr().err
    assert "note: a has no test predictions: cifar-small predict" in notes
    assert "note: every evaluation on test is recorded in the run; do not make choices by it" in notes
    assert sorted(path.name for path in run.folder.rglob("*")) == before


def test_the_csv_has_every_number_unrounded() -> None:
    found = compare([entry("a", slice(0, 20)), entry("b", slice(0, 6)), entry("c", slice(2, 9))])
    rows = {(row["kind"], row["name"]): row for row in csv.DictReader(io.StringIO(comparison_csv(found)))}
    assert float(rows["pair", "b"]["p"]) == found.pairs[0].p
    assert float(rows["pair", "b"]["difference_low"]) == found.pairs[0].low
    assert rows["pair", "b"]["only_name"] == "14"


@pytest.mark.parametrize(("p", "text"), [(0.2, "0.200"), (0.001, "0.001"), (0.0009, "<0.001"), (1.0, "1.000")])
def test_p_values_as_papers_print_them(p: float, text: str) -> None:
    assert p_text(p) == text


def typical(tmp_path: Path) -> Comparison:
    """As long as entries usually are."""
    paths = seeds_of(tmp_path, "resnet_hour_mix", [20, 24, 31], splits=("val", "test"), readings=1)
    paths += seeds_of(tmp_path, "resnet_hour", [26, 30, 44], splits=("val", "test"), batch_size=32)
    return compare(load_entries(paths), "test", all_pairs=False)


def points(text: str) -> float:
    """Width in points as 9-point Times would set it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(text, FontProperties(family="STIXGeneral", size=9), False)[0])


def test_latex_tables_fit_two_columns_of_the_page(tmp_path: Path) -> None:
    for table in comparison_tables(typical(tmp_path)):
        widths = [max(points(line[column]) for line in (table.header, *table.rows)) for column in range(len(table.header))]
        assert sum(widths) + 8 * (len(widths) - 1) < PAGE_WIDTH, table.title
        assert "wider than the page" not in to_latex([table])


def test_latex_tables_are_whole(tmp_path: Path) -> None:
    tables: list[Table] = comparison_tables(typical(tmp_path))
    text = to_latex(tables)
    for name in ("table*", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == len(tables)
    for table in tables:
        for row in table.rows:
            line = " & ".join(latex_escaped(cell) for cell in row) + r" \\"
            assert line in text
            assert line.replace(r"\&", "").count("&") == len(table.header) - 1
    assert text.isascii()


def test_a_file_without_facts_still_compares(tmp_path: Path) -> None:
    predictions = Predictions(
        np.arange(4), np.eye(4, dtype=np.float32), np.arange(4), tuple("abcd"),
        PredictionsMeta(name="x", parameters=5, rules={}, images_sha256="i", split="val"),
    )  # fmt: skip
    predictions.save(tmp_path / "x_val.npz")
    (row,) = compare(load_entries([str(tmp_path / "x_val.npz")])).rows
    assert (row.name, row.recipe, row.epochs, row.minutes, row.data, row.budget) == ("x", None, (), None, "", 5_000_000)

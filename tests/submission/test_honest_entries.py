"""Honest entries of every form pass every link of the audit: form of net, method of ensemble, rules, place of data."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import tiny_raw

from cifar_small import environment
from cifar_small.cli.main import main
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Data, Rules
from cifar_small.data import cifar, load_test, load_train, write_unlabelled
from cifar_small.evaluation.entries import collect_rows, load_entries
from cifar_small.export.model_card import accuracies
from cifar_small.export.onnx_export import export_onnx
from cifar_small.export.quantize import calibration_images, static_int8
from cifar_small.inference import predict as prediction
from cifar_small.inference import soup as souping
from cifar_small.inference.blend import FITTED, Method
from cifar_small.inference.ensemble import combine
from cifar_small.inference.onnx_session import load_onnx, seal_model
from cifar_small.inference.predict import load_net, load_own_splits, predict
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.submission import submission_file
from cifar_small.submission.audit import Card, audit, gather
from cifar_small.submission.audit.card import Finding
from cifar_small.submission.audit.evidence import Sources
from cifar_small.submission.submission_file import submit
from cifar_small.training.train import train

CLEAN = {"commit": "c0ffee" + 34 * "0", "dirty": False}
OWN = {"max_params": 100_000, "rows": 100}
METHODS = get_args(Method)


class Place:
    """Two runs with kept checkpoints and ONNX files, their soup, and the competition's file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.file = folder, folder / "data.npz", folder / "nolabel.pkl"
        self.runs = [Run(folder / "runs" / f"tiny-seed{seed}") for seed in range(2)]
        self.soup, self.soup_of_epochs = Run(folder / "runs" / "soup"), Run(folder / "runs" / "soup_of_epochs")
        self.csv = folder / "entry" / "mine.csv"

    def predict(self, run: Run, **changes: Any) -> Predictions:
        """The competition's file by a run."""
        return load_predictions(predict(run, "submit", file=self.file, overwrite=True, **changes)[0])

    def audit(self, runs: list[Run], **changes: Any) -> Card:
        given = {"runs": [run.folder for run in runs], "file": self.file, "data_root": str(self.data)}
        return audit(gather(self.csv, **{**given, **changes}), repredict=True)


@pytest.fixture(autouse=True, scope="module")
def clean() -> Iterator[None]:
    """As from committed code."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (environment, prediction, submission_file):
            patch.setattr(module, "commit", lambda: CLEAN)
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, clean: None) -> Place:
    place = Place(tmp_path_factory.mktemp("honest"))
    digits = Data(source="digits")
    parts = {"train": load_train(digits).take(np.arange(400)), "test": load_test(digits).take(np.arange(100))}
    arrays: dict[str, Any] = {f"{name}_images": images.images for name, images in parts.items()}
    arrays |= {f"{name}_labels": images.labels for name, images in parts.items()}
    np.savez(place.data, classes=np.array(parts["train"].classes), **arrays)
    write_unlabelled(place.file, load_test(digits).images[100:200], np.arange(100))
    for seed, run in enumerate(place.runs):
        data = {"source": "npz", "root": str(place.data), "val_size": 100}
        settings = {"seed": seed, "data": data, "rules": OWN, "phases": [{"epochs": 2}], "views": "flip"}
        train(parse_config(tiny_raw(**settings, engine={"keep_every": 1, "keep_final": True})), run.folder, quiet=True)
    run = place.runs[0]
    net = load_net(run)
    fp32 = export_onnx(net)
    (run.folder / "fp32.onnx").write_bytes(fp32)
    int8 = static_int8(net, fp32, calibration_images(net, load_own_splits(net)[0], 100))[0]
    (run.folder / "int8.onnx").write_bytes(int8)
    souping.make_soup(place.runs, place.soup)
    souping.make_soup([run, run], place.soup_of_epochs, checkpoints=["epoch-0001", "epoch-0002"])
    return place


@pytest.fixture
def place(original: Place, tmp_path: Path) -> Place:
    return Place(shutil.copytree(original.folder, tmp_path / "copy"))


def by_onnx(place: Place, file: str) -> Predictions:
    run = place.runs[0]
    return place.predict(run, net=load_onnx(run, run.folder / file))


FORMS: dict[str, Callable[[Place], Predictions]] = {
    "best": lambda place: place.predict(place.runs[0]),
    "final": lambda place: place.predict(place.runs[0], checkpoint="final"),
    "kept epoch": lambda place: place.predict(place.runs[0], checkpoint="epoch-0001"),
    "fp32 ONNX": lambda place: by_onnx(place, "fp32.onnx"),
    "int8 ONNX": lambda place: by_onnx(place, "int8.onnx"),
    "soup": lambda place: place.predict(place.soup),
    "soup of kept epochs": lambda place: place.predict(place.soup_of_epochs),
    "another device and place": lambda place: place.predict(place.runs[0], device="cpu", data_root=str(place.file)),
    "other views": lambda place: place.predict(place.runs[0], views="none"),
}


def not_passed(card: Card) -> list[str]:
    return [str(finding) for finding in card.findings if finding.verdict != "pass"]


@pytest.mark.parametrize("rules", [None, Rules(max_params=90_000, rows=100, submission="id,label")], ids=["own", "other rules"])
@pytest.mark.parametrize("form", FORMS)
def test_a_net_of_every_form(form: str, rules: Rules | None, place: Place) -> None:
    run = {"soup": place.soup, "soup of kept epochs": place.soup_of_epochs}.get(form, place.runs[0])
    submit(FORMS[form](place), place.csv, run=run, rules=rules)
    assert not_passed(place.audit([run])) == []


def test_a_reading_of_a_part_of_test_takes_the_place_of_none_of_all_of_it(place: Place) -> None:
    run = place.runs[0]
    predict(run, "test")
    arguments = ["shift", run.folder, "--split", "test", "--images", "50", "--kinds", "fog", "--severities", "1"]
    assert main([str(word) for word in (*arguments, "--output", place.folder / "shift")]) == 0
    record = run.record()
    assert [reading.images for reading in record.test_readings] == [100, 50]
    assert [reading.images for reading in record.own_readings] == [100]
    assert [one.images for one in accuracies(load_net(run), run) if one.split == "test"] == [100]
    submit(place.predict(run), place.csv, run=run)
    assert not_passed(place.audit([run])) == []


def test_a_soup_tells_how_often_test_was_read_in_the_runs_it_was_made_of(place: Place) -> None:
    """Twice in one run and never in the other, both before; each run counts once, however many of its checkpoints are in it."""
    run, other = place.runs
    for checkpoint in ("best", "epoch-0001"):
        predict(run, "test", checkpoint=checkpoint)
    soup = Run(place.folder / "runs" / "late_soup")
    souping.make_soup([run, run, other], soup, checkpoints=["epoch-0001", "epoch-0002", "best"])
    assert [one.test_readings for one in soup.record().summary.soup] == [2, 2, 0]
    assert soup.record().times_read == 2
    submit(place.predict(soup), place.csv, run=soup)
    card = place.audit([soup])
    assert not_passed(card) == []
    (readings,) = (finding for finding in card.findings if finding.link == "test readings")
    assert readings.found == "never read; in the runs that the soup was made of 2 readings before"
    (row,) = collect_rows(load_entries([str(soup.folder)]))
    assert row.test_readings == 2


def of_soup(card: Card) -> Finding:
    (finding,) = (finding for finding in card.findings if finding.link == "soup")
    return finding


def apart(place: Place) -> Run:
    """The soup in a folder of its own, where its members do not lie."""
    return Run(shutil.move(place.soup.folder, place.folder / "elsewhere"))


def test_the_members_of_a_soup_are_runs_that_it_started_from(place: Place) -> None:
    soup = apart(place)
    submit(place.predict(soup), place.csv, run=soup)
    count = len(load_net(soup).model.state_dict())
    finding = of_soup(card := place.audit([soup, *place.runs]))
    assert not_passed(card) == []
    tensors = count - 3 * sum("num_batches_tracked" in name for name in load_net(soup).model.state_dict())
    assert finding.found == (
        f"{tensors} tensors, each the mean of 2 nets; BatchNorm's statistics, which are taken again from training images, are "
        "not compared"
    )
    words = ["audit", place.csv, "--run", soup.folder, *(run.folder for run in place.runs), "--file", place.file]
    assert main([str(word) for word in (*words, "--data-root", place.data)]) == 0


@pytest.mark.parametrize("given", [[], [0], [1]])
def test_a_soup_without_all_its_members_is_not_checked(given: list[int], place: Place) -> None:
    soup = apart(place)
    submit(place.predict(soup), place.csv, run=soup)
    card = place.audit([soup, *(place.runs[index] for index in given)])
    assert [finding.link for finding in card.findings if finding.verdict != "pass"] == ["soup"]
    missing = [f"tiny (seed {seed}, tiny-seed{seed})" for seed in range(2) if seed not in given]
    assert sorted(of_soup(card).found.split("; ")) == [
        f"it was averaged from {name}, whose run directory is not at hand: give it too" for name in missing
    ]


@pytest.mark.parametrize("amount", [0.0, 1e-3])
def test_a_soup_whose_weight_was_changed_is_found_whatever_else_agrees(amount: float, place: Place) -> None:
    content = load_checkpoint(place.soup.best)
    content["weights"]["conv1.weight"][0, 0, 0, 0] += amount
    save_checkpoint(place.soup.best, {key: value for key, value in content.items() if key != "format"})
    summary = json.loads(place.soup.summary_file.read_text())
    summary["weights_sha256"] = place.soup.weights_sha256("best")
    place.soup.summary_file.write_text(json.dumps(summary))
    submit(place.predict(place.soup), place.csv, run=place.soup)
    finding = of_soup(place.audit([place.soup, *place.runs]))
    assert finding.verdict == ("fail" if amount else "pass")
    if amount:
        assert finding.expected == "the mean of 2 nets in every tensor"
        assert finding.found == "another in conv1.weight"


def test_a_member_whose_weights_changed_since_is_told(place: Place) -> None:
    submit(place.predict(place.soup), place.csv, run=place.soup)
    run = place.runs[1]
    shutil.copy(run.kept_file(1), run.best)
    finding = of_soup(place.audit([place.soup, *place.runs]))
    assert finding.verdict == "not checked"
    assert finding.found == f"it was averaged from tiny (seed 1, tiny-seed1), {run.folder} holds other weights of it"


def test_a_soup_of_an_older_version_leaves_the_readings_before_it_unchecked(place: Place) -> None:
    submit(place.predict(place.soup), place.csv, run=place.soup)
    content = load_checkpoint(place.soup.best)
    summary = json.loads(place.soup.summary_file.read_text())
    for members in (content["soup"], summary["soup"]):
        for one in members:
            del one["test_readings"]
    save_checkpoint(place.soup.best, {key: value for key, value in content.items() if key != "format"})
    place.soup.summary_file.write_text(json.dumps(summary))
    (readings,) = (finding for finding in place.audit([place.soup]).findings if finding.link == "test readings")
    assert readings.verdict == "not checked"
    assert "does not say how often test was read in the runs it was made of" in readings.found


@pytest.mark.parametrize(("flags", "told"), [({"avx2"}, 2), ({"avx2", "avx_vnni"}, 0)])
def test_both_links_of_a_file_in_8_bits_say_where_its_sums_may_overflow(
    flags: set[str], told: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place.runs[0]
    net = load_net(run)
    images = calibration_images(net, load_own_splits(net)[0], 100)
    content = static_int8(net, (run.folder / "fp32.onnx").read_bytes(), images, reduce_range=False)[0]
    (run.folder / "int8.onnx").write_bytes(content)
    submit(by_onnx(place, "int8.onnx"), place.csv, run=run)
    monkeypatch.setattr("cifar_small.environment._cpu_facts", lambda: ("a processor", frozenset(flags)))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    said = [str(finding) for finding in place.audit([run]).findings]
    assert sum("sums can overflow on this processor" in finding for finding in said) == told


@pytest.mark.parametrize("form", ["best", "another device and place", "int8 ONNX"])
@pytest.mark.parametrize("method", METHODS)
def test_an_ensemble_by_every_method(method: Method, form: str, place: Place) -> None:
    members = [FORMS[form](place), place.predict(place.runs[1])]
    val = None
    if method in FITTED:
        net = load_onnx(place.runs[0], place.runs[0].folder / "int8.onnx") if form == "int8 ONNX" else None
        val = [load_predictions(predict(place.runs[0], "val", net=net, overwrite=True)[0])]
        val.append(load_predictions(place.runs[1].predictions / "val.npz"))
    joined = place.folder / "entry" / "both.npz"
    combine(members, method, val).save(joined)
    submit(load_predictions(joined), place.csv)
    card = place.audit(place.runs, predictions=joined)
    assert not_passed(card) == []
    (found,) = (one.found for one in card.findings if one.link == "ensemble")
    assert found.endswith("fitted again on 100 images of val") == (method in FITTED)
    alone = place.audit([], predictions=joined)  # without the runs: nothing is wrong, much is not known
    assert alone.of("fail") == ()


def test_an_ensemble_of_nets_that_held_out_different_images(place: Place) -> None:
    other = Run(place.folder / "runs" / "other")
    data = {"source": "npz", "root": str(place.data), "val_size": 60}
    train(parse_config(tiny_raw(seed=2, data=data, rules=OWN, phases=[{"epochs": 1}], views="flip")), other.folder, quiet=True)
    runs = [place.runs[0], other]
    val = [load_predictions(run.predictions / "val.npz") for run in runs]
    joined = place.folder / "entry" / "both.npz"
    combine([place.predict(run) for run in runs], "weighted", val).save(joined)
    submit(load_predictions(joined), place.csv)
    card = place.audit(runs, predictions=joined)
    assert not_passed(card) == []
    (found,) = (one.found for one in card.findings if one.link == "ensemble")
    shared = len(np.intersect1d(val[0].ids, val[1].ids))
    assert shared in range(1, 61)
    assert found.endswith(f"fitted again on {shared} images of val")


def test_an_ensemble_of_an_ensemble(place: Place) -> None:
    inner = combine([place.predict(place.runs[0]), place.predict(place.runs[1])], "vote")
    joined = place.folder / "entry" / "all.npz"
    combine([inner, place.predict(place.soup)], "probabilities").save(joined)
    submit(load_predictions(joined), place.csv)
    card = place.audit([*place.runs, place.soup], predictions=joined)
    assert not_passed(card) == []
    count = load_net(place.soup).parameters
    assert next(one.found for one in card.findings if one.link == "budget").startswith(f"{count:,} + {count:,} + {count:,} = ")


def test_a_val_made_again_is_judged_by_ids_and_logits(place: Place) -> None:
    run = place.runs[0]
    submit(place.predict(run), place.csv, run=run)
    before = (run.predictions / "val.npz").read_bytes()
    predict(run, "val", overwrite=True, command="once more")
    assert (run.predictions / "val.npz").read_bytes() != before
    assert not_passed(place.audit([run])) == []
    val = load_predictions(run.predictions / "val.npz")
    logits = val.logits.copy()
    logits[0] += np.float32(3) * np.eye(10, dtype=np.float32)[logits[0].argmax()]  # the same answers
    Predictions(val.ids, logits, val.labels, val.classes, val.meta).save(run.predictions / "val.npz")
    assert [one.link for one in place.audit([run]).of("fail")] == ["summary"]


def test_another_number_of_rows_that_was_allowed(place: Place) -> None:
    run, few = place.runs[0], place.folder / "few.pkl"
    write_unlabelled(few, load_test(Data(source="digits")).images[100:130], np.arange(30))
    made = load_predictions(predict(run, "submit", file=few, allow_rows=30)[0])
    submit(made, place.csv, run=run)
    assert not_passed(place.audit([run], file=few)) == []


def test_an_ensemble_over_another_number_of_rows_that_was_allowed(place: Place) -> None:
    few, joined = place.folder / "few.pkl", place.folder / "entry" / "both.npz"
    write_unlabelled(few, load_test(Data(source="digits")).images[100:130], np.arange(30))
    combine([load_predictions(predict(run, "submit", file=few, allow_rows=30)[0]) for run in place.runs]).save(joined)
    submit(load_predictions(joined), place.csv)
    assert not_passed(place.audit(place.runs, predictions=joined, file=few)) == []


def test_another_nets_file_sealed_with_this_runs_hash_fails(place: Place) -> None:
    import onnx

    run, other = place.runs
    content = export_onnx(load_net(other))
    model = onnx.load_from_string(content)
    properties = {one.key: one.value for one in onnx.load(run.folder / "fp32.onnx").metadata_props if one.key != "sha256"}
    (run.folder / "fp32.onnx").write_bytes(seal_model(model, properties))
    submit(FORMS["fp32 ONNX"](place), place.csv, run=run)
    card = place.audit([run])
    assert [one.link for one in card.of("fail")] == ["onnx file"]
    (run.folder / "fp32.onnx").write_bytes(export_onnx(load_net(run)))  # the right one, but not the one that predicted
    assert [one.link for one in place.audit([run]).of("fail")] == ["onnx file", "repeated"]


def test_data_in_the_default_cache_are_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_CACHE", tmp_path)
    monkeypatch.delenv("CIFAR_SMALL_DATA", raising=False)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"an archive")
    assert Sources(None, None, "auto").located(Data(source="cifar10")) == Data(source="cifar10")


def test_no_line_end_changes_in_a_clone() -> None:
    root = Path(__file__).resolve().parents[2]
    asked = ["git", "-C", str(root), "check-attr", "text", "submissions/entries/resnet_hour/submission.csv"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip().endswith("text: unset")

"""Evaluation: numbers by hand, temperatures fitted on val alone, files that agree, pictures that show what they should."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_raw
from PIL import Image
from synthetic import NAMES, made

from cifar_small.config.loading import parse_config
from cifar_small.data.splits import halves
from cifar_small.errors import DataError
from cifar_small.evaluation.evaluate import Confused, evaluate
from cifar_small.figures.confusion import draw_confusion
from cifar_small.figures.evaluation import draw_confused, draw_per_class
from cifar_small.figures.style import save
from cifar_small.inference.predict import images_of
from cifar_small.metrics.calibration import calibration, fit_temperature
from cifar_small.metrics.classification import wilson_interval
from cifar_small.reporting.evaluation_files import FILES, accuracy_table, describe_evaluation, title_of, write_evaluation
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.training.train import train

LABELS = [0, 0, 0, 1, 1, 2]
CALLED = [0, 1, 1, 1, 1, 0]


def noisy(seed: int, count: int = 400, scale: float = 3.0, **meta: Any) -> Predictions:
    """Overconfident predictions of val that are right more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    logits = scale * rng.normal(0, 1, (count, 10))
    logits[np.arange(count), labels] += 1.5 * scale
    found = made(labels, labels=labels, **{"split": "val", "file": f"{seed}.npz", **meta})
    return replace(found, logits=logits.astype(np.float32))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("evaluate") / "trained")
    train(parse_config(tiny_raw(phases=[{"epochs": 1}])), run.folder, quiet=True)
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(trained.folder, tmp_path / "run"))


# ---------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_by_hand() -> None:
    found = evaluate(made(CALLED, labels=LABELS, ids=[7, 8, 9, 4, 5, 6], split="val"))
    assert (found.right, found.images, found.accuracy) == (3, 6, 0.5)
    assert found.interval == wilson_interval(3, 6)
    assert found.counts[:3, :3].tolist() == [[1, 2, 0], [0, 2, 0], [1, 0, 0]]
    airplane, automobile, bird, cat = found.classes[:4]
    assert (airplane.name, airplane.images, airplane.predicted, airplane.right) == ("airplane", 3, 2, 1)
    assert (airplane.precision, airplane.recall, airplane.f1) == (1 / 2, 1 / 3, 2 / 5)
    assert airplane.recall_interval == wilson_interval(1, 3)
    assert (automobile.precision, automobile.recall, automobile.f1) == (1 / 2, 1.0, 2 / 3)
    assert (bird.precision, bird.recall, bird.f1) == (None, 0.0, 0.0)  # never called
    assert (cat.precision, cat.recall, cat.recall_interval, cat.f1) == (None, None, None, None)  # no images either
    assert found.macro_f1 == pytest.approx((2 / 5 + 2 / 3 + 0) / 3)
    assert found.confused == (Confused("airplane", "automobile", 2, 2 / 3), Confused("bird", "airplane", 1, 1.0))
    assert found.scaling is None
    confidence = np.exp(2.5) / (np.exp(2.5) + 9)
    assert [(one.id, one.true, one.predicted) for one in found.mistakes] == [
        (8, "airplane", "automobile"),
        (9, "airplane", "automobile"),
        (6, "bird", "airplane"),
    ]
    assert found.mistakes[0].confidence == pytest.approx(confidence)
    assert found.before.nll == pytest.approx(np.log(np.exp(2.5) + 9) - 2.5 / 2)
    assert found.before.reliability.ece == pytest.approx(confidence - 0.5)


def test_another_form_of_the_net_is_told_and_one_image_fits_no_temperature() -> None:
    onnx = {"file": "int8.onnx", "sha256": "a", "bytes": 3, "precision": "int8", "onnxruntime": "1", "threads": 1}
    for facts, form in (({}, ""), ({"checkpoint": "epoch-0010"}, "epoch-0010"), ({"onnx": onnx}, "onnx int8")):
        found = evaluate(made(CALLED, labels=LABELS, split="val", **facts))
        assert found.predictions["form"] == form
        assert title_of(found) == f"net, seed 0: val, views none{f', {form}' if form else ''}, 1,000 parameters"
    one = made([3], labels=[3], split="val")
    assert (evaluate(one, one).scaling, evaluate(one, one).accuracy) == (None, 1.0)


def test_top_5_is_stated_where_there_are_many_classes() -> None:
    """However the first images come out: torchmetrics' collection would show top-1 twice where the first batch is all right."""
    ten, names = noisy(0), tuple(f"class{label}" for label in range(20))
    assert evaluate(ten).top5 is None
    assert "top-5" not in describe_evaluation(evaluate(ten))
    labels = np.array([0, 1, 2, 3])
    logits = np.tile(np.arange(20, 0, -1, dtype=np.float32), (4, 1))  # 0 first, 19 last
    logits[1, 1] = 30  # right; image 2 has its class third, image 3 fourth, and then sixth
    found = replace(ten, ids=np.arange(4), logits=logits, labels=labels, classes=names)
    assert (evaluate(found).accuracy, evaluate(found).top5) == (0.5, 1.0)
    logits[3, 4:6] = 25
    assert evaluate(found).top5 == 0.75
    assert "; top-5 75.00%" in describe_evaluation(evaluate(found))
    assert accuracy_table(evaluate(found)).header[3] == "top-5 %"
    assert accuracy_table(evaluate(found)).rows[0][3] == "75.00"
    right = np.zeros((1024, 20), np.float32)
    right[:, 0] = 1  # all right, then as many that are right in the top five alone
    logits = np.concatenate([right, right])
    logits[1024:, 1] = 2
    found = replace(ten, ids=np.arange(2048), logits=logits, labels=np.zeros(2048, np.int64), classes=names)
    assert (evaluate(found).accuracy, evaluate(found).top5) == (0.5, 1.0)


def test_mistakes_are_the_most_confident_first() -> None:
    found = evaluate(noisy(1)).mistakes
    confidences = [one.confidence for one in found]
    assert confidences == sorted(confidences, reverse=True)
    assert len(found) == 24
    assert all(one.true != one.predicted for one in found)


@pytest.mark.parametrize("predictions", [made(), made([], labels=[])])
def test_predictions_without_labels_are_refused(predictions: Predictions) -> None:
    with pytest.raises(DataError, match="has no labels to compare with; expected predictions of val or test"):
        evaluate(predictions)


# ------------------------------------------------------------------------------------------------------------ temperature


def test_temperature_of_val_scales_test() -> None:
    val, test = noisy(1), noisy(2, split="test", images_sha256="e" * 64)
    scaling = evaluate(test, val).scaling
    assert scaling is not None
    assert val.labels is not None
    assert test.labels is not None
    assert scaling.temperature == fit_temperature(val.logits, val.labels) > 1.5
    assert (scaling.file, scaling.images, scaling.of_halves) == ("1.npz", 400, None)
    expected = calibration(test.logits / scaling.temperature, test.labels)
    assert scaling.after.nll == expected.nll < evaluate(test).before.nll
    assert scaling.after.reliability.ece < evaluate(test).before.reliability.ece / 2
    called = tuple(str(number) for number in range(1, 11))  # scikit-learn takes such names for columns
    by_number = evaluate(replace(test, classes=called), replace(val, classes=called)).scaling
    assert by_number is not None
    assert (by_number.temperature, by_number.after.nll) == (scaling.temperature, scaling.after.nll)


def test_val_scaled_by_itself_is_cross_fitted() -> None:
    val = noisy(1)
    assert val.labels is not None
    scaling = evaluate(val, val).scaling
    assert scaling is not None
    assert scaling.of_halves is not None
    first, second = halves(val.labels)
    by_first, by_second = scaling.of_halves
    assert by_first == fit_temperature(val.logits[first], val.labels[first])
    assert by_second == fit_temperature(val.logits[second], val.labels[second])
    logits = np.empty_like(val.logits)
    logits[first], logits[second] = val.logits[first] / by_second, val.logits[second] / by_first
    assert scaling.after.nll == pytest.approx(calibration(logits, val.labels).nll)
    assert scaling.after.nll > calibration(val.logits / scaling.temperature, val.labels).nll  # which would flatter
    assert "scored with the temperature of the other" in describe_evaluation(evaluate(val, val))


def test_a_temperature_of_an_ensemble_holds_whatever_order_its_members_stand_in() -> None:
    members = [{"name": name, "parameters": 5, "weights_sha256": name, "views": "none"} for name in "ab"]
    facts = {"method": "logits", "weights_sha256": None}
    val = noisy(1, name="mean of logits: a, b", members=members, **facts)
    test = noisy(2, split="test", name="mean of logits: b, a", members=members[::-1], **facts)
    assert evaluate(test, val).scaling is not None


@pytest.mark.parametrize("split", ["test", "submit", "train", None])
def test_a_temperature_is_never_fitted_on_anything_but_val(split: str | None) -> None:
    with pytest.raises(DataError, match=f"of the split {split}; a temperature is fitted on val and on nothing else"):
        evaluate(noisy(2, split="test"), noisy(1, split=split))


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "another"},
        {"views": "flip"},
        {"name": "another"},
        {"members": [{"name": "net", "parameters": 5, "weights_sha256": "a", "views": "none"}]},
    ],
)
def test_a_temperature_of_another_net_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="of different nets or views"):
        evaluate(noisy(2, split="test"), noisy(1, **change))


# -------------------------------------------------------------------------------------------------------- files, pictures


def test_files_say_what_the_evaluation_says(tmp_path: Path) -> None:
    evaluation = evaluate(noisy(2, split="test", images_sha256="e" * 64), noisy(1))
    written = write_evaluation(evaluation, tmp_path, None)
    assert [path.name for path in written] == [name for name in FILES if name != "mistakes.png"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    plain = json.loads((tmp_path / "evaluation.json").read_text())
    assert plain["accuracy"] == evaluation.accuracy
    assert plain["predictions"]["file"] == "2.npz"
    assert [one["recall"] for one in plain["classes"]] == [one.recall for one in evaluation.classes]
    assert evaluation.scaling is not None
    assert plain["scaling"]["temperature"] == evaluation.scaling.temperature
    assert plain["scaling"]["after"]["ece"] == evaluation.scaling.after.reliability.ece
    assert sum(one["images"] for one in plain["before"]["bins"]) == 400
    header, *rows = csv.reader((tmp_path / "confusion.csv").read_text().splitlines())
    assert header[1:] == list(NAMES) == [row[0] for row in rows]
    assert np.array_equal(np.array([row[1:] for row in rows], int), evaluation.counts)


def test_pictures_of_mistakes_show_their_pixels(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = load_predictions(run.predictions / "val.npz")
    evaluation, images = evaluate(predictions), images_of(predictions)
    for name in ("draw_confusion", "draw_per_class", "draw_reliability", "draw_confused"):
        monkeypatch.setattr(f"cifar_small.reporting.evaluation_files.{name}", lambda *given: None)
    monkeypatch.setattr(
        "cifar_small.reporting.evaluation_files.save", lambda figure, path: None if figure is None else save(figure, path)
    )
    rows = np.random.default_rng(0).permutation(len(images))
    write_evaluation(evaluation, tmp_path, images.take(rows))
    sheet = np.asarray(Image.open(tmp_path / "mistakes.png").convert("RGB")).astype(int)
    place = {int(image): row for row, image in enumerate(images.ids)}
    tile = images.images[place[evaluation.mistakes[0].id]].astype(int)
    errors = {}
    for scale in np.arange(8.5, 10, 0.05):  # the first tile stands in the upper left corner, enlarged about ninefold
        offsets = ((np.arange(32) + 0.5) * scale).astype(int)
        for top in range(80, 180, 4):
            for left in range(0, 54, 4):
                patch = sheet[np.ix_(top + offsets, left + offsets)]
                errors[scale, top, left] = np.abs(patch - tile).mean()
    assert min(errors.values()) < 3
    assert np.median(list(errors.values())) > 20


def test_pictures_of_a_hundred_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = tuple(f"class_{label}" for label in range(100))
    labels = np.repeat(np.arange(100), 50)
    called = np.where(rng.random(5000) < 0.7, labels, labels ^ 1)  # neighbors in pairs
    evaluation = evaluate(made(called, labels=labels, classes=names, split="val"))
    save(draw_confusion(evaluation.counts, names, "hundred"), tmp_path / "confusion.png")
    save(draw_per_class(evaluation.classes, "hundred"), tmp_path / "per_class.png")
    save(draw_confused(evaluation.confused, "hundred"), tmp_path / "confused.png")
    for name in ("confusion", "per_class", "confused"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 500
    text = describe_evaluation(evaluation)
    assert "(90 classes with a higher F1 are in evaluation.json)" in text
    worst = min(evaluation.classes, key=lambda one: (one.f1 or 0.0, one.name))
    assert text.split("F1 %\n")[1].split()[0] == worst.name


def test_confused_classes_of_many_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat(np.arange(40), 10)
    called = np.where(np.arange(400) % 10 < 6, labels, (labels + 20) % 40)  # each with the one twenty further on
    counts = evaluate(made(called, labels=labels, classes=tuple(map(str, range(40))))).counts
    from matplotlib.axes import Axes

    seen: list[list[str]] = []
    ticks = Axes.set_yticks

    def recording(self: Axes, places: Any, names: Any = None, **rest: Any) -> Any:
        if names is not None:
            seen.append(list(names))
        return ticks(self, places, names, **rest)

    monkeypatch.setattr(Axes, "set_yticks", recording)
    draw_confusion(counts, [str(label) for label in range(40)], "forty")
    order = [int(name) for name in next(names for names in seen if len(names) == 40)]
    assert sorted(order) == list(range(40))
    assert all(abs(order.index(label) - order.index(label + 20)) == 1 for label in range(20))


# ---------------------------------------------------------------------------------------------------------------- command


def test_command_writes_beside_the_predictions(run: Run, said: Callable[..., tuple[int, str, str]]) -> None:
    file = run.predictions / "val.npz"
    code, out, err = said("evaluate", file, "--temperature-from", file)
    assert (code, err) == (0, "")
    accuracy = load_predictions(file).accuracy
    assert f"accuracy {accuracy:.2%}, " in out
    assert "val also chose its epoch" in out
    folder = run.predictions / "val_evaluation"
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_command_replaces_only_when_told_to(tmp_path: Path, said: Callable[..., tuple[int, str, str]]) -> None:
    file = tmp_path / "small.npz"
    made(CALLED, labels=LABELS).save(file)
    assert said("evaluate", file)[0] == 0
    code, _, err = said("evaluate", file)
    assert code == 2
    assert "evaluation.json exists already" in err
    code, out, _ = said("evaluate", file, "--overwrite")
    assert code == 0
    assert "add --temperature-from" in out


def test_command_goes_on_without_images(run: Run, said: Callable[..., tuple[int, str, str]]) -> None:
    file = run.predictions / "val.npz"
    predictions = load_predictions(file)
    predictions.with_meta(config=None).save(file)
    code, _, err = said("evaluate", file)
    assert code == 0
    assert err == (
        "note: mistakes are not drawn: the predictions file does not say which split of which data it is of; "
        "expected one of a run's val or test\n"
    )
    assert not (run.predictions / "val_evaluation" / "mistakes.png").exists()


def test_command_never_touches_a_foreign_file(run: Run, said: Callable[..., tuple[int, str, str]]) -> None:
    before = (run.folder / "confusion.png").read_bytes()
    code, _, err = said("evaluate", run.predictions / "val.npz", "--output", run.folder)
    assert code == 2
    assert "confusion.png exists already" in err
    assert (run.folder / "confusion.png").read_bytes() == before
    assert not (run.folder / "evaluation.json").exists()


def test_an_evaluation_without_mistakes_leaves_none_of_an_older_one(tmp_path: Path) -> None:
    write_evaluation(evaluate(made(CALLED, labels=LABELS)), tmp_path, None)
    assert (tmp_path / "confused.png").exists()
    written = write_evaluation(evaluate(made(LABELS, labels=LABELS)), tmp_path, None)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    assert not (tmp_path / "confused.png").exists()

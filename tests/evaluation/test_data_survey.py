"""The survey of a data set: counts, sizes, planted copies, planted label errors, and predictions that are not out of fold."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_raw
from PIL import Image
from synthetic import made, photographs

from cifar_small.config.schema import Data
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.data import index_hash, load_train, stratified_split
from cifar_small.errors import DataError
from cifar_small.evaluation.data_survey import DataSurvey, survey
from cifar_small.reporting.data_files import describe_survey
from cifar_small.runs.predictions import Predictions
from cifar_small.wording import plural

CLASSES = ("ant", "bee", "cow")
TRUE = np.tile(np.arange(3), 60)  # of 180 training images
WRONG = {7: 2, 40: 0, 111: 1, 150: 2}  # labels planted in place of 1, 1, 0, 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """180 training images of 3 classes with 4 wrong labels and 3 copies, and 30 test images, 2 of them copies of training."""
    images, test = photographs(180), photographs(30, seed=1)
    images[90] = images[3]  # both ant
    images[100] = images[5][:, ::-1]  # bee of cow
    test[4], test[9] = images[20], test[2]
    labels = TRUE.copy()
    labels[list(WRONG)] = list(WRONG.values())
    path = tmp_path_factory.mktemp("data") / "data.npz"
    arrays = {"train_images": images, "train_labels": labels, "test_images": test, "test_labels": np.arange(30) % 3}
    np.savez(path, **arrays, classes=np.array(CLASSES))
    return Data(source="npz", root=str(path), val_size=60)


def val_predictions(data: Data, seed: int = 0, /, **meta: Any) -> Predictions:
    """What a net that is always right says of the val images of a split."""
    images = load_train(data)
    assert images.labels is not None
    ids = stratified_split(images.labels, data.val_size, seed)[1]
    facts = {"source": "npz", "sha256": images.sha256, "val_sha256": index_hash(ids)}
    given = {"data": facts, "split": "val", "sha256": f"{seed}", "file": f"val{seed}.npz", **meta}
    return made(TRUE[ids], ids, classes=CLASSES, labels=images.labels[ids], **given)


def pairs(found: DataSurvey) -> list[tuple[str, int, str, int, bool, bool, bool]]:
    return [
        (one.image.part, one.image.id, one.other.part, one.other.id, one.exact, one.mirrored, one.contradicts)
        for one in found.copies
    ]


def test_counts_and_moments_are_those_of_the_splits(data: Data) -> None:
    found, images = survey(data), load_train(data)
    assert {part: counts.tolist() for part, counts in found.counts.items()} == {
        "train": np.bincount(images.labels[found.parts["train"].ids]).tolist(),  # type: ignore[index]
        "val": [20, 20, 20],
        "test": [10, 10, 10],
    }
    pixels = found.parts["train"].images.reshape(-1, 3) / 255
    assert found.mean == pytest.approx(pixels.mean(axis=0), abs=1e-9)
    assert found.std == pytest.approx(pixels.std(axis=0), abs=1e-9)
    assert found.parts["test"].labels is None
    assert (found.no_test, found.labels, sum(found.sizes.values())) == ("", None, 0)


def test_planted_copies_are_found_with_their_splits_and_labels(data: Data) -> None:
    found = survey(data)
    part = {int(one): name for name, images in found.parts.items() if name != "test" for one in images.ids}
    train_first = {frozenset({90, 3}): False, frozenset({100, 5}): True}
    for one in pairs(found)[:-2]:
        ids = frozenset({one[1], one[3]})
        assert (part[one[1]], part[one[3]]) == (one[0], one[2])
        assert one[4:] == (True, train_first[ids], train_first.pop(ids))  # the mirrored pair is the one of two classes
    assert not train_first
    assert pairs(found)[-2:] == [
        ("test", 9, "test", 2, True, False, False),
        ("test", 4, part[20], 20, True, False, False),
    ]


def test_planted_label_errors_are_suspected_and_no_others(data: Data) -> None:
    predictions = [val_predictions(data, seed) for seed in range(6)]
    judged = set(np.concatenate([one.ids for one in predictions]).tolist())
    check = survey(data, [*predictions, predictions[0]]).labels  # the file that is given twice counts once
    assert check is not None
    assert (check.images, check.files) == (len(judged), 6)
    found = {one.image.id: (one.image.label, one.suggested) for one in check.suspects}
    assert found == {at: (CLASSES[label], CLASSES[TRUE[at]]) for at, label in WRONG.items() if at in judged}
    assert len(found) >= 3
    for one in check.suspects:
        assert one.nets == sum(one.image.id in each.ids for each in predictions)
        assert -1 < one.margin == pytest.approx(one.given_share - one.suggested_share)
    margins = [one.margin for one in check.suspects]
    assert margins == sorted(margins)


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"split": "test"}, "predictions of test, whose labels are not judged here"),
        ({"split": "train"}, "predictions of train; expected those of val"),
        ({"data": {"source": "npz", "sha256": "a", "val_sha256": "b"}}, "a net of other data than the config reads"),
        ({"data": None}, "a net of other data than the config reads"),
        ("val_sha256", "a net that trained on some of these images"),
        ("ancestor", "or started from one that did"),
    ],
)
def test_predictions_that_are_not_out_of_fold_are_refused(data: Data, meta: Any, reason: str) -> None:
    facts = {"source": "npz", "sha256": load_train(data).sha256, "val_sha256": "b"}
    if meta == "val_sha256":
        meta = {"data": facts}
    elif meta == "ancestor":
        meta = {"ancestors": [{"name": "first", "data": facts, "weights_sha256": "c"}]}
    with pytest.raises(DataError, match=f"^val0.npz: .*{reason}"):
        survey(data, [val_predictions(data, **meta)])


@pytest.mark.parametrize("flat", [False, True])
def test_sizes_as_stored_and_files_of_a_folder_without_test(tmp_path: Path, flat: bool) -> None:
    images, rows = photographs(12), ["id,label"]
    for at, pixels in enumerate(images):
        folder = tmp_path / "train" / ("" if flat else "ab"[at % 2])
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(images[at - 2] if at == 10 else pixels)
        (picture.resize((40, 48)) if at < 3 else picture).save(folder / f"{at:02d}.png")
        rows.append(f"{at:02d},{'ab'[at % 2]}")
    if flat:
        (tmp_path / "trainLabels.csv").write_text("\n".join(rows))
        for name in ("97.png", "98.png"):  # which the CSV does not name
            shutil.copy(tmp_path / "train" / "05.png", tmp_path / "train" / name)
        (tmp_path / "train" / "readme.txt").touch()
    found = survey(Data(source="folder", root=str(tmp_path), val_size=2))
    assert dict(found.sizes) == {(40, 48): 3, (32, 32): 9}
    assert "test" in found.no_test
    assert set(found.parts) == {"train", "val"}
    assert "32x32 (9), 40x48 (3)" in describe_survey(found)
    assert "3 pictures resized to 32x32" in describe_survey(found)
    assert found.without_label == (2 if flat else 0)
    assert ("2 pictures of train/ left out: the CSV of labels names no class for them" in describe_survey(found)) == flat
    (copy,) = found.copies
    assert {file.name for one in (copy.image, copy.other) if (file := one.file)} == {"08.png", "10.png"}
    assert copy.exact


def test_what_is_to_know_of_the_reading_is_told_before_training(
    tmp_path: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    for at, pixels in enumerate(photographs(24)):
        folder = tmp_path / "pictures" / ("train" if at < 20 else "test") / "ab"[at % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels)
        if at in (3, 4, 5, 21):
            picture.putalpha(Image.new("L", (32, 32), 10 * at))
        picture.save(folder / f"{at:02d}.png")
    data = {"source": "folder", "root": str(tmp_path / "pictures"), "val_size": 6, "train_limit": None}
    config = tmp_path / "tiny.yaml"
    config.write_text(dump_yaml(tiny_raw(data=data, batch_size=4, phases=[{"epochs": 1}])))
    note = "3 pictures with transparent pixels, shown on white"
    code, shown, _ = said("data", config)
    assert (code, f"\n{note}\n" in shown, f"\ntest: 1 picture{note[10:]}\n" in shown) == (0, True, True)
    for given in (["--dry-run"], ["--output", tmp_path / "run"]):
        code, shown, error = said("train", config, *given)
        assert (code, f"note: {note}\n" in shown + error) == (0, True)


def test_the_page_has_what_was_found(data: Data, said: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    config, folder = tmp_path / "tiny.yaml", tmp_path / "page"
    config.write_text(dump_yaml(tiny_raw(data=data.model_dump(mode="json"))))
    files = []
    for seed in range(3):
        files.append(tmp_path / f"val{seed}.npz")
        val_predictions(data, seed).save(files[-1])
    code, shown, _ = said("data", config, "--predictions", *files, "--output", folder)
    assert code == 0
    rows = {name: list(csv.DictReader((folder / name).read_text().splitlines())) for name in ("copies.csv", "suspects.csv")}
    assert {(row["id"], row["other_id"]) for row in rows["copies.csv"]} >= {("9", "2"), ("4", "20")}
    assert [row["other_label_differs"] for row in rows["copies.csv"]].count("True") == 1
    assert all(row["label"] == "" for row in rows["copies.csv"] if row["split"] == "test")
    suspects = {int(row["id"]): CLASSES.index(row["suggested"]) for row in rows["suspects.csv"]}
    assert suspects
    assert suspects == {at: TRUE[at] for at in suspects}
    assert set(suspects) <= set(WRONG)
    page = (folder / "data.md").read_text()
    for picture in ("class_counts", "samples", "copies", "suspects"):
        assert f"({picture}.png)" in page
        assert (folder / f"{picture}.png").stat().st_size > 5000
    for text in (shown, page):
        assert f"{plural(len(suspects), 'suspect')} of" in text
        assert "images of test with a copy in train or val: 1;" in text

    code, _, error = said("data", config, "--output", folder)
    assert (code, "data.md exists already; add --overwrite" in error) == (2, True)
    assert said("data", config, "--output", folder, "--overwrite")[0] == 0
    assert not (folder / "suspects.png").exists()  # no labels were checked this time
    assert not (folder / "suspects.csv").exists()


def test_digits_are_told_to_have_too_many_near_copies(said: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(dump_yaml(tiny_raw()))
    code, shown, _ = said("data", config, "--data.train_limit", "256")
    assert code == 0
    assert "near was chosen on photographs" in shown
    assert "labels were not checked" in shown


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CIFAR_SMALL_DATA"), reason="CIFAR_SMALL_DATA is not set")
def test_cifar10_has_its_known_copies() -> None:
    found = survey(Data(val_size=5000))
    assert {part: set(counts.tolist()) for part, counts in found.counts.items()} == {
        "train": {4500},
        "val": {500},
        "test": {1000},
    }
    assert np.round(found.mean, 4).tolist() == [0.4915, 0.4822, 0.4464]
    copied = {pair.image.id for part in ("train", "val") for pair in found.copies_of("test", part)}
    assert len(copied) == 309
    assert len(found.copies_of("test", "test")) == 43
    counted = [len(found.copies_of(*pair)) for pair in (("train", "train"), ("val", "val"), ("val", "train"))]
    assert counted == [699, 8, 133]
    contradicting = [(pair.image.id, pair.other.id) for pair in found.copies if pair.contradicts]
    assert contradicting == [(47109, 316)]

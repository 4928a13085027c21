"""The card of an unlabelled file: faults, colors, copies within it and of training and test images, order."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic import photographs

from cifar_small.cli.main import main
from cifar_small.config.schema import Data, Rules
from cifar_small.data import Images, is_available, load_test, load_train, write_unlabelled
from cifar_small.data.duplicates import NEAR, find_copies
from cifar_small.errors import DataError
from cifar_small.submission import diagnose as module
from cifar_small.submission.diagnose import (
    GRID,
    Diagnosis,
    _colors,
    _compression,
    _order,
    color_grid,
    copies_csv,
    diagnose,
    render_card,
)


def jpeg(image: np.ndarray, quality: int = 75) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def brighter(image: np.ndarray) -> np.ndarray:
    return np.clip(1.15 * image.astype(float) + 12, 0, 255).astype(np.uint8)


def moved(image: np.ndarray) -> np.ndarray:
    return np.roll(image, 1, axis=1)


def tinted(image: np.ndarray) -> np.ndarray:
    return np.clip(image.astype(float) * [1.1, 1.0, 0.85] + [0, 0, 15], 0, 255).astype(np.uint8)


def resized(image: np.ndarray) -> np.ndarray:
    half = Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC)
    return np.asarray(half.resize((32, 32), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("change", [jpeg, brighter, moved, tinted, resized])
def test_changed_copies_are_found_among_others(change: Any) -> None:
    reference = photographs(300)
    images = photographs(60, seed=1)
    for place, source in ((5, 17), (30, 299), (59, 0)):
        images[place] = change(reference[source])
    found = find_copies(images, reference)
    assert list(zip(found.index.tolist(), found.other.tolist(), strict=True)) == [(5, 17), (30, 299), (59, 0)]
    assert not found.exact.any()
    assert (found.likeness >= NEAR).all()


@pytest.mark.parametrize("change", [np.asarray, jpeg, brighter, moved, tinted, resized])
def test_mirrored_copies_are_found_too(change: Any) -> None:
    reference, images = photographs(300), photographs(60, seed=1)
    for place, source in ((5, 17), (30, 299)):
        images[place] = change(np.ascontiguousarray(reference[source][:, ::-1]))
    images[40] = reference[8]
    found = find_copies(images, reference)
    assert list(zip(found.index.tolist(), found.other.tolist(), found.mirrored.tolist(), strict=True)) == [
        (5, 17, True), (30, 299, True), (40, 8, False),
    ]  # fmt: skip
    assert found.exact.tolist() == [change is np.asarray] * 2 + [True]


def test_exact_copies_come_before_near_ones() -> None:
    reference = photographs(50)
    reference[3] = jpeg(reference[40])
    found = find_copies(reference[[40, 7]], reference)
    assert found.other.tolist() == [40, 7]
    assert found.exact.tolist() == [True, True]
    assert found.likeness == pytest.approx([1, 1], abs=1e-5)


def test_copies_within_are_of_earlier_images() -> None:
    images = photographs(40)
    images[[12, 33]] = images[5]
    images[20] = brighter(images[8])
    found = find_copies(images)
    assert list(zip(found.index.tolist(), found.other.tolist(), found.exact.tolist(), strict=True)) == [
        (12, 5, True),
        (20, 8, False),
        (33, 5, True),
    ]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from cifar_small.data import duplicates

    images = np.concatenate([photographs(30), photographs(40, 2)])
    images[[41, 66]] = images[[3, 60]]
    whole = find_copies(images), find_copies(images[:50], images[20:])
    for name, size in (("_ROWS", 7), ("_COLUMNS", 11), ("_PART", 2)):
        monkeypatch.setattr(duplicates, name, size)
    parts = find_copies(images), find_copies(images[:50], images[20:])
    for one, other in zip(whole, parts, strict=True):
        assert one.index.tolist() == other.index.tolist()
        assert one.other.tolist() == other.other.tolist()
    assert whole[0].index.tolist() == [41, 66]


def test_images_without_contrast_are_no_copies() -> None:
    images = photographs(4)
    images[1:3] = 255
    assert len(find_copies(images)) == 0
    assert len(find_copies(images[:2], images[2:])) == 0


def lines(diagnosis: Diagnosis) -> dict[str, tuple[str, str]]:
    """Level and text by subject."""
    return {finding.subject: (finding.level, finding.text) for finding in diagnosis.findings}


@pytest.fixture
def source(tmp_path: Path) -> Data:
    """300 training and 60 test images as an npz source."""
    content = {"train_images": photographs(300), "test_images": photographs(60, seed=1), "classes": np.array(["a", "b"])}
    np.savez(tmp_path / "data.npz", train_labels=np.arange(300) % 2, test_labels=np.arange(60) % 2, **content)
    return Data(source="npz", root=str(tmp_path / "data.npz"))


def unlabelled(tmp_path: Path, images: np.ndarray, ids: np.ndarray | None = None) -> Path:
    path = tmp_path / "file.pkl"
    write_unlabelled(path, images, np.arange(len(images)) if ids is None else ids)
    return path


def test_a_good_file(tmp_path: Path, source: Data) -> None:
    found = diagnose(unlabelled(tmp_path, photographs(120, seed=2)), Rules(rows=120), source)
    assert {finding.subject for finding in found.findings if finding.level != "ok"} == {"near copies"}, render_card(found)
    assert found.count("note") == 1
    card = lines(found)
    assert card["file"] == ("ok", "data uint8 (120, 32, 32, 3), ids int64 (120,)")
    assert card["rows"] == ("ok", "120 images, as the rules expect")
    assert "(300 compared)" in card["copies of train"][1]
    assert "(60 compared)" in card["copies of test"][1]
    assert "cifar-small check or diff" in card["order"][1]
    assert copies_csv(found) == "id,copy_of,other_id,correlation,exact\n"


def test_copies_are_named_with_the_files_ids(tmp_path: Path, source: Data) -> None:
    train, test = load_train(source).images, load_test(source).images
    images = photographs(120, seed=2)
    images[10], images[20], images[30], images[31] = train[250], jpeg(train[7]), test[59], test[3]
    images[99] = images[98]
    found = diagnose(unlabelled(tmp_path, images, 1000 + np.arange(120)), Rules(rows=None), source)
    card = lines(found)
    assert card["copies of train"][0] == "warn"
    assert card["copies of train"][1].startswith("1 exact and 1 near copies of training images")
    assert "1.67% of the file, first ids 1010 = 250, 1020 = 7:" in card["copies of train"][1]
    assert card["copies of test"][1].startswith("2 exact and 0 near copies")
    assert "first ids 1099 = 1098: they count as many times as they stand" in card["copies of file"][1]
    assert card["reading"][0] == "warn"
    rows = list(csv.DictReader(io.StringIO(copies_csv(found))))
    assert [(row["id"], row["copy_of"], row["other_id"], row["exact"]) for row in rows] == [
        ("1099", "file", "1098", "True"),
        ("1010", "train", "250", "True"),
        ("1020", "train", "7", "False"),
        ("1030", "test", "59", "True"),
        ("1031", "test", "3", "True"),
    ]


@pytest.mark.parametrize(
    ("change", "subject", "level", "text"),
    [
        (lambda images: images * 0.3, "colors", "fault", "mean red, green, blue are"),
        (lambda images: images * 0.85 + 24, "colors", "warn", "images of another"),
        (lambda images: 0 * images + 120, "layout", "warn", "all constant"),
        (lambda images: 0 * images, "colors", "fault", "mean red, green, blue are 0.000"),
        (lambda images: (images - 115.0) * 0.8 + 115, "colors", "warn", "in contrast: images of another"),
        (lambda images: images // 128, "values", "fault", "0..1, 2 different ones"),
        (lambda images: images // 16 * 16, "values", "warn", "16 different ones"),
        (lambda images: images[:100], "rows", "fault", "100 images; the rules expect 120"),
        (
            lambda images: np.random.default_rng(0).integers(256, size=images.shape),
            "layout",
            "warn",
            "noise, or read in the wrong",
        ),
    ],
)
def test_what_is_odd_is_named(change: Any, subject: str, level: str, text: str, tmp_path: Path, source: Data) -> None:
    images = np.clip(change(photographs(120, seed=2)), 0, 255).astype(np.uint8)
    card = lines(diagnose(unlabelled(tmp_path, images), Rules(rows=120), source, layout="HWC"))
    if text:
        assert card[subject][0] == level, card
        assert text in card[subject][1]


def test_traces_of_compression_are_seen() -> None:
    blocks = photographs(200)
    pictures = blocks // 2 + np.roll(blocks, 1, axis=(1, 2)) // 2  # so that nothing lies on a grid of pairs
    assert color_grid(pictures) == pytest.approx(1, abs=0.06)
    assert color_grid(blocks) == pytest.approx(1, abs=0.06)  # enlarged: brightness lies on the grid as colors do
    compressed = np.stack([jpeg(image, 100) for image in pictures])
    assert (color_grid(compressed) or 1) < GRID
    for images, level, text in (
        (pictures, "ok", "no trace"),
        (compressed, "warn", "even at quality 100"),
        (blocks[:9], "note", "few"),
    ):
        finding = _compression(Images(images, None, np.arange(len(images)), (), "file"))
        assert finding.level == level
        assert text in finding.text
    assert color_grid(np.full((100, 32, 32, 3), 120, np.uint8)) is None


def test_images_sorted_by_color_are_noticed(tmp_path: Path, source: Data) -> None:
    images = photographs(400, seed=2)
    blue = images[..., 2].mean(axis=(1, 2))
    card = lines(diagnose(unlabelled(tmp_path, images[np.argsort(blue // 8, kind="stable")]), Rules(rows=400), source))
    assert card["order"][0] == "warn"
    assert "not shuffled, sorted by class or source?" in card["order"][1]


def test_without_data_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifar_small.data import cifar

    monkeypatch.delenv(cifar.VARIABLE, raising=False)
    monkeypatch.setattr(cifar, "_CACHE", tmp_path / "cache")
    monkeypatch.setattr(cifar, "download", lambda *_: pytest.fail("downloaded"))
    assert not is_available(Data())
    assert is_available(Data(source="digits"))
    assert is_available(Data(root="somewhere"))
    card = lines(diagnose(unlabelled(tmp_path, photographs(20)), Rules(rows=20), Data()))
    assert card["data"][0] == "note"
    assert "no cifar10 data at hand" in card["data"][1]
    assert "colors" not in card
    assert "copies of file" in card
    monkeypatch.setenv(cifar.VARIABLE, str(tmp_path))
    assert is_available(Data())
    with pytest.raises(DataError, match="has neither"):  # a place that is named must be right
        diagnose(tmp_path / "file.pkl", Rules(rows=20), Data())


def test_data_without_a_test_part_are_compared_by_their_training_images(tmp_path: Path) -> None:
    """As Kaggle's: pictures of classes, and an unlabelled file."""
    pictures = photographs(40)
    for place, image in enumerate(pictures):
        folder = tmp_path / "data" / "train" / ("cat", "dog")[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{place}.png")
    data = Data(source="folder", root=str(tmp_path / "data"), val_size=10)
    found = diagnose(unlabelled(tmp_path, pictures[:20]), Rules(rows=20), data)
    card = lines(found)
    assert card["data"][0] == "note"
    assert card["data"][1].startswith("compared with the training images alone: ")
    assert "20 exact" in card["copies of train"][1]
    assert "copies of test" not in card


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "digits.yaml"
    config.write_text(
        "name: d\nrules: {rows: 30}\ndata: {source: digits, val_size: 200}\nphases: [{epochs: 1}]\n"
        "model: {family: resnet, widths: [8, 8, 8], blocks: [1, 1, 1]}\n"
    )
    path = tmp_path / "file.pkl"
    write_unlabelled(path, load_test(Data(source="digits")).images[:30], np.arange(30))
    output = tmp_path / "copies.csv"
    assert main(["diagnose", str(path), "--config", str(config), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "warn   copies of test   30 exact and 0 near copies" in shown
    assert f"{path}: 0 faults, " in shown
    assert max(len(line) for line in shown.splitlines()) <= 120
    assert len(output.read_text().splitlines()) > 30
    assert main(["diagnose", str(path), "--config", str(config), "--output", str(output)]) == 2
    assert main(["diagnose", str(path), "--config", str(config), "--allow-rows", "29"]) == 1
    shown = capsys.readouterr().out
    assert "fault  rows" in shown
    assert f"{path}: 1 fault, " in shown
    assert "CIFAR-10" not in capsys.readouterr().err
    assert main(["diagnose", str(path), "--data-root", str(tmp_path)]) == 3
    monkeypatch.delenv("CIFAR_SMALL_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # whose cache holds no CIFAR
    assert main(["diagnose", str(path)]) == 1
    assert "note: compared with CIFAR-10 and its rules; for another competition, name its config" in capsys.readouterr().err
    path.write_bytes(b"no pickle")
    assert main(["diagnose", str(path)]) == 3


needs_cifar = pytest.mark.skipif(not os.environ.get("CIFAR_SMALL_DATA"), reason="CIFAR_SMALL_DATA is not set")


@pytest.mark.real_data
@needs_cifar
def test_copies_in_cifar100() -> None:
    train, test = load_train(Data(source="cifar100")), load_test(Data(source="cifar100"))
    found, within = find_copies(test.images, train.images), find_copies(test.images)
    assert (len(found), found.exact.sum(), found.mirrored.sum()) == (419, 10, 53)
    assert (len(within), within.exact.sum(), within.mirrored.sum()) == (47, 2, 6)


@pytest.mark.real_data
@needs_cifar
def test_test_images_of_cifar10_are_in_cifar100() -> None:
    found = find_copies(load_test(Data()).images, load_train(Data(source="cifar100")).images)
    assert (len(found), found.exact.sum(), found.mirrored.sum()) == (8, 1, 3)


@pytest.mark.real_data
@needs_cifar
def test_copies_in_cifar() -> None:
    train, test = load_train(Data()), load_test(Data())
    assert train.labels is not None
    assert test.labels is not None
    found = find_copies(test.images, train.images)
    assert (len(found), found.exact.sum(), found.mirrored.sum()) == (309, 0, 30)
    assert (test.labels[found.index] != train.labels[found.other]).sum() == 1
    within = find_copies(test.images)
    assert (len(within), within.mirrored.sum()) == (43, 3)
    places = np.sort(np.random.default_rng(0).choice(50_000, 400, replace=False))
    for change, least in ((jpeg, 1.0), (brighter, 1.0), (tinted, 1.0), (resized, 1.0), (moved, 0.99)):
        copies = find_copies(np.stack([change(image) for image in train.images[places]]), train.images)
        assert (copies.other == places[copies.index]).sum() >= least * 400


@pytest.mark.real_data
@needs_cifar
def test_traces_of_compression_in_cifar() -> None:
    """Of any thousand images; those of pixels as they were have none."""
    pictures = load_train(Data()).images[:2000]
    for some in np.split(pictures, 2):
        assert 0.97 < (color_grid(some) or 0) < 1.03
    for quality in (50, 75, 95, 100):
        assert (color_grid(np.stack([jpeg(image, quality) for image in pictures[:500]])) or 1) < GRID - 0.05


@pytest.mark.real_data
@needs_cifar
def test_cifar_sorted_by_class_is_noticed_without_its_labels(tmp_path: Path) -> None:
    test = load_test(Data())
    assert test.labels is not None
    for images, level in ((test.images, "ok"), (test.images[np.argsort(test.labels, kind="stable")], "warn")):
        assert _order(Images(images, None, test.ids, (), "test")).level == level


def test_two_parts_of_one_set_are_seldom_said_to_be_of_other_sources() -> None:
    """Also where the file has more images than the training part, whose own mean is then the less certain one."""
    rng = np.random.default_rng(0)
    images = (rng.normal(120, 40, (1000, 1, 1, 3)) + rng.normal(0, 20, (1000, 32, 32, 3))).clip(0, 255).astype(np.uint8)
    said = 0
    for _ in range(40):
        mixed = images[rng.permutation(1000)]
        train, file = (Images(part, None, np.arange(len(part)), (), "x") for part in (mixed[:100], mixed[100:]))
        said += next(iter(_colors(file, train))).level == "warn"
    assert said <= 1


def test_the_order_of_many_images_is_judged_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (250, 32, 32, 3), np.uint8), None, np.arange(250), (), "x")
    whole = _order(images)
    monkeypatch.setattr(module, "PART", 60)
    assert _order(images) == whole

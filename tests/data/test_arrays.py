"""Labelled arrays of one's own: the same names and labels in an .npz file as in a folder of .npy; advice for other forms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cifar_small.config.schema import Data
from cifar_small.data import load_test, load_train
from cifar_small.data.conversions import how_to_convert
from cifar_small.data.sources import classes_at_hand, has_test_part
from cifar_small.errors import DataError
from tests.data.test_containers import write_table
from tests.data.test_orientation import scenes

SCENES, LABELS = scenes(8, 0), [0, 1, 2, 3] * 2


def stored(place: Path, kind: str, **arrays: Any) -> Data:
    """Arrays in an .npz file, or as .npy files in a folder."""
    if kind == ".npz":
        np.savez(place / "own.npz", **arrays)
        return Data(source="npz", root=str(place / "own.npz"), val_size=2)
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    return Data(source="npz", root=str(place), val_size=2)


@pytest.fixture(params=[".npz", ".npy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("names", ["{}_images {}_labels", "{}_data {}_labels", "x_{} y_{}", "X_{} Y_{}", "X_{} y_{}"])
def test_names_of_other_programs_and_classes_without_names(tmp_path: Path, kind: str, names: str) -> None:
    images, labels = names.split()
    arrays = {images.format("train"): SCENES, labels.format("train"): LABELS}
    data = stored(tmp_path, kind, **arrays)
    assert (has_test_part(data), classes_at_hand(data)) == (False, 4)
    data = stored(tmp_path, kind, **arrays, **{images.format("test"): SCENES[:3], labels.format("test"): [2, 0, 1]})
    train, test = load_train(data), load_test(data)
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.tolist(), test.labels.tolist()) == (LABELS, [2, 0, 1])
    assert train.classes == test.classes == ("0", "1", "2", "3")
    assert np.array_equal(train.images, SCENES)
    assert (train.notes, has_test_part(data), classes_at_hand(data)) == ((), True, 4)


@pytest.mark.parametrize("form", [(8,), (8, 1), (1, 8)])
@pytest.mark.parametrize("dtype", ["u1", "i8", "f4", "f8"])
def test_labels_are_whole_numbers_of_any_type(tmp_path: Path, kind: str, form: tuple[int, ...], dtype: str) -> None:
    found = load_train(stored(tmp_path, kind, x_train=SCENES, y_train=np.array(LABELS, dtype).reshape(form)))
    assert found.labels is not None
    assert (found.labels.dtype, found.labels.tolist()) == (np.int64, LABELS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": [0.5, 1] * 4}, r"labels are float64 \(8,\); expected whole numbers"),
        ({"y_train": [np.inf, 1] * 4}, r"labels are float64 \(8,\); expected whole numbers"),
        ({"y_train": np.eye(4)[LABELS]}, r"float64 \(8, 4\), a column for each class; save labels\.argmax\(axis=1\)"),
        ({"y_train": ["ant", "bee"] * 4}, r"<U3 \(8,\); expected .* np\.unique\(labels, return_inverse=True\) makes them"),
        ({"train_images": SCENES}, r"has train_images and x_train, which mean the same; expected one of them"),
        (
            {"y_train": [1, 2, 3, 4] * 2},
            r"labels are 1\.\.4 and none is 0, .*: subtract 1 from the labels of every part, or give",
        ),
        ({"y_train": [1, 2, 3, 4] * 2, "classes": list("abcd")}, r"labels span 1\.\.4; .* \(4 classes\); .*then subtract 1"),
        ({"y_train": [0, 1, 2, 4] * 2, "classes": list("abcd")}, r"labels span 0\.\.4; expected 0\.\.3 \(4 classes\)$"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_what_to_do(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_train(stored(tmp_path, kind, **{"x_train": SCENES, "y_train": LABELS, **changes}))


def test_labels_counted_from_1_are_refused_before_an_image_is_read(tmp_path: Path, kind: str) -> None:
    data = stored(tmp_path, kind, y_train=[1, 2] * 4)
    with pytest.raises(DataError, match=r"labels are 1\.\.2 and none is 0"):
        classes_at_hand(data)
    named = stored(tmp_path, kind, y_train=[1, 2] * 4, x_train=SCENES, classes=["none", "ant", "bee"])
    assert load_train(named).notes == ("1 of 3 classes without an image to train on: none",)


def test_labels_of_a_table_counted_from_1_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "train-0.parquet", SCENES, [1, 2] * 4, None)
    with pytest.raises(DataError, match=r"labels are 1\.\.2 and none is 0"):
        load_train(Data(source="folder", root=str(tmp_path)))


def test_classes_without_images_are_told(tmp_path: Path, kind: str) -> None:
    found = load_train(stored(tmp_path, kind, x_train=SCENES, y_train=[1, 2, 9, 1, 2, 9, 1, 2]))
    assert found.notes == ("7 of 10 classes without an image to train on: 0, 3, 4, 5, 6 ...",)


def test_a_validation_part_is_told_not_to_be_read(tmp_path: Path, kind: str) -> None:
    found = load_train(stored(tmp_path, kind, x_train=SCENES, y_train=LABELS, x_val=SCENES, y_val=LABELS))
    (note,) = found.notes
    assert note.startswith("x_val and y_val are not read: the validation images are data.val_size of the training images; ")


COLOR = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
GRAY = COLOR[..., :1].repeat(3, axis=3)
FORMS = {
    "channels first": (COLOR.transpose(0, 3, 1, 2), COLOR),
    "images last": (COLOR.transpose(1, 2, 3, 0), COLOR),
    "rows of planes": (COLOR.transpose(0, 3, 1, 2).reshape(5, 3072), COLOR),
    "0..1": (COLOR / np.float32(255), COLOR),
    "0..255 as floats, channels first": (COLOR.transpose(0, 3, 1, 2).astype("f8"), COLOR),
    "int64": (COLOR.astype("i8"), COLOR),
    "gray": (GRAY[..., 0], GRAY),
    "gray, one channel": (GRAY[..., :1], GRAY),
    "gray, channel first": (GRAY[..., 0][:, None], GRAY),
    "gray rows of 0..1": (GRAY[..., 0].reshape(5, 1024) / 255, GRAY),
    "a fourth channel": (np.concatenate([COLOR, COLOR[..., :1]], axis=3), COLOR),
    "black and white": (GRAY[..., 0] > 127, np.where(GRAY > 127, 255, 0)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_advised_line_makes_the_images_that_were_meant(tmp_path: Path, kind: str, form: str) -> None:
    given, meant = FORMS[form]
    with pytest.raises(DataError, match=r"; expected uint8 \(N, 32, 32, 3\); to convert such an array x: x = ") as caught:
        load_train(stored(tmp_path, kind, x_train=given, y_train=[0, 1, 2, 3, 0]))
    names = {"np": np, "x": given}
    exec(str(caught.value).partition("array x: ")[2], names)
    assert names["x"].dtype == np.uint8
    assert np.array_equal(names["x"], meant)


@given(
    count=st.integers(2, 3),
    side=st.integers(5, 70),
    channels=st.sampled_from([None, 1, 3, 4]),
    first=st.booleans(),
    dtype=st.sampled_from(["u1", "f4", "i8"]),
)
def test_every_advised_line_ends_in_the_form_that_is_read(
    count: int, side: int, channels: int | None, first: bool, dtype: str
) -> None:
    shape = (
        (count, side, side) if channels is None else (count, channels, side, side) if first else (count, side, side, channels)
    )
    images = np.random.default_rng(side).integers(0, 256, shape).astype(dtype)
    how = how_to_convert(images)
    assert ("class folders" in how) == (side > 32)
    assert (not how) == (images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3))
    names = {"np": np, "x": images, "Image": Image}
    exec(how.partition("array x: ")[2].partition(", or save them")[0], names)
    assert (names["x"].dtype, names["x"].shape) == (np.uint8, (count, 32, 32, 3))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (
            COLOR / 128 - 1,
            r"its values span -1\.\.0\.99\d*: bring them to 0\.\.255 first \(of normalized ones: x \* std \+ mean\)",
        ),
        (COLOR.astype("i4") * 257, r"its values span 0\.\.65535: bring them to"),
        (np.full((2, 32, 32, 3), np.nan), "some of its values are NaN or infinite"),
        (np.zeros((2, 32, 32, 2), np.uint8), ""),
        (np.zeros((2, 3071), np.uint8), ""),
        (np.zeros((2, 32, 32, 3), "U1"), ""),
        (np.zeros((0, 28, 28), np.uint8), ""),
    ],
)
def test_what_no_line_converts_is_said_to_be_so(images: np.ndarray, said: str) -> None:
    assert re.fullmatch(said + (".*" if said else ""), how_to_convert(images))

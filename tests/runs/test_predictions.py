"""Predictions files: what was saved is what is loaded; anything broken is refused by name."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic import made

from cifar_small.errors import DataError
from cifar_small.runs.predictions import Predictions, load_predictions


@pytest.mark.parametrize("labels", [None, [3, 0, 4]])
def test_saved_is_loaded(labels: list[int] | None, tmp_path: Path) -> None:
    predictions = made([3, 1, 4], [7, 2**62, -5], labels=labels, seed=1, note="ä", nested={"a": [1, None, True]})
    path = tmp_path / "new" / "submit.npz"
    digest = predictions.save(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = load_predictions(path)
    assert loaded.ids.tolist() == [7, 2**62, -5]
    assert loaded.ids.dtype == np.int64
    assert loaded.logits.dtype == np.float32
    assert loaded.logits.tobytes() == predictions.logits.tobytes()
    assert loaded.classes == predictions.classes
    assert loaded.meta == predictions.meta.updated(file="submit.npz", sha256=digest)
    if labels is None:
        assert loaded.labels is None
    else:
        assert loaded.labels is not None
        assert loaded.labels.tolist() == labels
        assert loaded.correct.tolist() == [True, False, True]
        assert loaded.accuracy == 2 / 3
    assert [entry.name for entry in path.parent.iterdir()] == ["submit.npz"]


@settings(deadline=None, max_examples=25)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.just(3)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_any_finite_logits_survive(logits: np.ndarray) -> None:
    predictions = Predictions(np.arange(len(logits)), logits, None, ("a", "b", "c"), made().meta)
    with tempfile.TemporaryDirectory() as folder:
        predictions.save(Path(folder) / "a.npz")
        assert load_predictions(Path(folder) / "a.npz").logits.tobytes() == logits.tobytes()
    assert predictions.predicted.tolist() == [max(range(3), key=lambda k: row[k]) for row in logits.tolist()]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused_by_id(value: float) -> None:
    good = made([0] * 8, range(100, 108))
    logits = good.logits.copy()
    logits[[1, 6], [4, 9]] = value
    with pytest.raises(DataError, match=r"file.pkl: 2 of 8 images have NaN or infinite logits, first ids \[101, 106\]"):
        Predictions(good.ids, logits, None, good.classes, good.meta)


def test_a_file_with_nan_cannot_be_loaded(tmp_path: Path) -> None:
    good = made()
    logits = good.logits.copy()
    logits[1, 0] = np.nan
    path = write(tmp_path, logits=logits)
    with pytest.raises(DataError, match=r"1 of 3 images have NaN or infinite logits, first ids \[1\]"):
        load_predictions(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.zeros((2, 10), np.float32)}, r"logits are \(2, 10\); expected \(3, 10\)"),
        ({"logits": np.zeros((3, 9), np.float32)}, r"logits are \(3, 9\); expected \(3, 10\)"),
        ({"logits": np.zeros(30, np.float32)}, r"logits is float32 \(30,\)"),
        ({"labels": np.array([1, 2])}, "2 labels for 3 ids"),
        ({"ids": np.array([4, 9, 4])}, "duplicate ids"),
        ({"classes": np.array(["a", "b"])}, r"expected \(3, 2\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_predictions(write(tmp_path, **changes))


def write(folder: Path, **changes: Any) -> Path:
    """A predictions file of three images with some of its arrays replaced; None leaves one out."""
    good = made()
    arrays = {
        "ids": good.ids,
        "logits": good.logits,
        "classes": np.array(good.classes),
        "meta": np.array(json.dumps(good.meta.plain())),
        **changes,
    }
    path = folder / "made.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def truncated(folder: Path) -> Path:
    path = write(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def text(folder: Path) -> Path:
    path = folder / "made.npz"
    path.write_text("ID,Labels\n0,3\n")
    return path


def empty(folder: Path) -> Path:
    path = folder / "made.npz"
    path.write_bytes(b"")
    return path


def zip_without_arrays(folder: Path) -> Path:
    path = folder / "made.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return path


def single_array(folder: Path) -> Path:
    path = folder / "made.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    return path


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return (exec, ("open('unpickled', 'w')",))


def pickled(folder: Path) -> Path:
    return write(folder, classes=np.array([Bomb()], object))


NOT_OURS = [
    text,
    empty,
    truncated,
    zip_without_arrays,
    pickled,
    single_array,
    lambda folder: folder,
    lambda folder: folder / "missing.npz",
    *(lambda folder, key=key: write(folder, **{key: None}) for key in ("ids", "logits", "classes", "meta")),
    lambda folder: write(folder, meta=np.array("not json")),
    lambda folder: write(folder, meta=np.array("[1]")),
    lambda folder: write(folder, meta=np.array("7")),
    lambda folder: write(folder, ids=np.array(3)),
    lambda folder: write(folder, classes=np.array("cat")),
    lambda folder: write(folder, labels=np.array(3)),
    lambda folder: write(folder, ids=np.array(["a", "b", "c"])),
    lambda folder: write(folder, ids=np.array([0.5, 1.5, 2.5])),
    lambda folder: write(folder, ids=np.array([0.0, np.nan, 2.0])),
    lambda folder: write(folder, ids=np.array([[0], [1], [2]])),
    lambda folder: write(folder, labels=np.array([[0], [1], [2]])),
]


@pytest.mark.parametrize("make", NOT_OURS, ids=range(len(NOT_OURS)))
def test_what_is_no_predictions_file_is_one_error(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    with pytest.raises(DataError) as caught:
        load_predictions(path)
    assert path.name in str(caught.value)
    assert not (tmp_path / "unpickled").exists()


def test_a_run_directory_in_place_of_a_file_names_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    with pytest.raises(DataError, match=r"^runs/mine is a folder; expected a predictions file, such as predictions/NAME\.npz"):
        load_predictions("runs/mine")
    Path("runs/mine/config.yaml").write_text("")
    make = "`cifar-small predict runs/mine --split submit --file FILE` makes one of an unlabelled file"
    with pytest.raises(DataError) as caught:
        load_predictions("runs/mine")
    assert str(caught.value) == f"runs/mine is a run directory; expected a predictions file: it has none yet; {make}"
    for name in ("val", "submit"):
        made([3, 1, 4], [0, 1, 2]).save(Path(f"runs/mine/predictions/{name}.npz"))
    with pytest.raises(DataError) as caught:
        load_predictions("runs/mine")
    there = "runs/mine/predictions/submit.npz, runs/mine/predictions/val.npz"
    assert str(caught.value) == f"runs/mine is a run directory; expected a predictions file: it has {there}; {make}"


def test_what_else_is_in_an_archive_is_not_unpacked_and_huge_members_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, more=np.zeros(10_000_000, np.uint8))
    with np.load(path) as file:
        np.savez_compressed(path.with_name("small.npz"), **file)
    path = path.with_name("small.npz")
    tracemalloc.start()
    try:
        load_predictions(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    monkeypatch.setattr("cifar_small.runs.predictions.MAX_BYTES", 200)
    with pytest.raises(DataError, match=r"(logits|meta|ids|classes|labels) declares [0-9,]+ bytes; expected at most 200"):
        load_predictions(path)


def test_damaged_files_are_data_errors_or_load_unchanged(tmp_path: Path) -> None:
    good = made(seed=1)
    path = tmp_path / "a.npz"
    good.save(path)
    content, rng = path.read_bytes(), random.Random(0)
    outcomes: list[str] = []
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = load_predictions(path)
        except DataError:
            outcomes.append("refused")
            continue
        assert loaded.logits.tobytes() == good.logits.tobytes()  # the flip was in a part that zip does not use
        assert loaded.ids.tolist() == good.ids.tolist()
        outcomes.append("unchanged")
    assert outcomes.count("refused") > 60


@pytest.mark.parametrize("asked", ["correct", "accuracy", "interval", "confusion"])
def test_without_labels_there_is_no_score(asked: str) -> None:
    with pytest.raises(DataError, match=r"^mine\.npz is of split submit, which has no labels to score by; expected val"):
        getattr(made().with_meta(file="mine.npz"), asked)


def test_of_equal_logits_the_first_class_is_predicted() -> None:
    """As int8 nets often have them. torch's topk, for one, begins with another class."""
    made_of = made([0, 0, 0], [0, 1, 2], labels=[1, 0, 3], classes=tuple("abcd"))
    logits = np.array([[0.5, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 2.0, 2.0]], np.float32)
    found = replace(made_of, logits=logits)
    assert found.predicted.tolist() == [1, 0, 0]
    assert found.correct.tolist() == [True, True, False]

"""Labelled arrays of one's own, source npz: an .npz file, or a folder of .npy files, by the names that these usually have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_small.data.containers import integers
from cifar_small.data.readers import npz_keys, read_npy, read_npz
from cifar_small.errors import DataError

IMAGES = ("{split}_images", "{split}_data", "x_{split}", "X_{split}")
LABELS = ("{split}_labels", "y_{split}", "Y_{split}")
VALIDATION = ("val", "valid", "validation")  # what others call a part that is not read here
MANY_CLASSES = 1000  # up to which a few images may be of any class


class LabelledArrays(NamedTuple):
    """Images as they stand, unchecked, labels int64 (N,), names of classes, and what should be known of the reading."""

    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    classes: list[str]
    notes: list[str]


class ArrayStore:
    """The arrays of an .npz file or of the .npy files in a folder, each read when it is asked for. Raises DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            self.names = sorted(file.stem for file in path.glob("*.npy") if file.is_file())
        else:
            read_npz(path, ())  # which says what is wrong with the file
            self.names = npz_keys(path)

    def read(self, name: str) -> npt.NDArray[Any]:
        """One of `names`."""
        return read_npy(self.path / f"{name}.npy") if self.path.is_dir() else read_npz(self.path, (name,))[name]

    def those_of(self, forms: Sequence[str], split: str) -> list[str]:
        """The arrays there are of a split: `forms` as in IMAGES."""
        return [name for form in forms if (name := form.format(split=split)) in self.names]

    def only_of(self, forms: Sequence[str], split: str) -> npt.NDArray[Any]:
        """The one array of a split by the names that it may have."""
        found = self.those_of(forms, split)
        if len(found) == 1:
            return self.read(found[0])
        if found:
            raise DataError(
                f"{self.path}: has {' and '.join(found)}, which mean the same; expected one of them: remove the other"
            )
        names = [form.format(split=split) for form in forms]
        if self.path.is_dir():
            files = " or ".join(f"{name}.npy" for name in names)
            raise DataError(f"{self.path}: has no {files}; expected images and labels as .npy")
        if {"images", "labels"} <= set(self.names):
            raise DataError(
                f"{self.path}: has images and labels without a split: a set for evaluation, which is not trained on"
            )
        raise DataError(
            f"{self.path}: has no {names[0]}, only {', '.join(self.names) or 'nothing'}; expected train_images, train_labels "
            "or x_train, y_train, the same for test where there is one, and classes where these have names"
        )


def read_arrays(path: Path, split: str) -> LabelledArrays:
    """The images and labels of a split, and the names of the classes. Raises DataError."""
    store = ArrayStore(path)
    images = store.only_of(IMAGES, split)
    labels = _labels(store, split)
    return LabelledArrays(images, labels, _classes(store), _unread(store) if split == "train" else [])


def count_array_classes(path: Path) -> int | None:
    """How many classes there are, found without reading an image; None where there is no such file, or no list of names."""
    if not path.exists():
        return None
    store = ArrayStore(path)
    if "classes" in store.names and store.read("classes").ndim != 1:
        return None  # reading the images says what is wrong
    return len(_classes(store)) or None


def has_test_arrays(path: Path) -> bool:
    """Are there labels of a test part? Raises DataError for a file that is no .npz."""
    return bool(ArrayStore(path).those_of(LABELS, "test"))


def class_numbers(labels: npt.NDArray[np.int64], where: str, otherwise: str = "") -> list[str]:
    """Names of classes that have none: 0 to the highest training label.

    otherwise: what else than counting from 0 would do, for a message. Raises DataError where labels number no classes, or are
    counted from 1.
    """
    highest = int(max(labels.max(initial=0), 0))
    if highest >= max(len(labels), MANY_CLASSES):
        raise DataError(f"{where}: a label is {highest:,}, among {len(labels):,} images; expected classes counted from 0")
    if np.array_equal(np.unique(labels), np.arange(1, highest + 1)) and highest:
        raise DataError(
            f"{where}: labels are 1..{highest} and none is 0, as if counted from 1; expected classes counted from 0: subtract "
            f"1 from the labels of every part{otherwise}"
        )
    return [str(number) for number in range(highest + 1)]


def _classes(store: ArrayStore) -> list[str]:
    if "classes" in store.names:
        return _texts(store.read("classes"), store.path)
    if (text := store.path / "classes.txt").is_file():
        return text.read_text(encoding="utf-8").rstrip().splitlines()
    given = "classes.txt, a line for each" if store.path.is_dir() else "an array classes"
    return class_numbers(
        _labels(store, "train"), str(store.path), f", or give the names of all classes, that of label 0 first, in {given}"
    )


def _texts(names: npt.NDArray[Any], path: Path) -> list[str]:
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{path}: classes is {names.dtype} {names.shape}; expected a list of names")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]


def _labels(store: ArrayStore, split: str) -> npt.NDArray[np.int64]:
    labels, where = store.only_of(LABELS, split), f"{store.path}: {split}"
    if labels.ndim == 2 and 1 in labels.shape:
        labels = labels.ravel()
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and bool((np.count_nonzero(labels, axis=1) == 1).all()):
        raise DataError(
            f"{where}: labels are {labels.dtype} {labels.shape}, a column for each class; save labels.argmax(axis=1)"
        )
    if labels.dtype.kind in "US":
        raise DataError(
            f"{where}: labels are {labels.dtype} {labels.shape}; expected whole numbers: classes, labels = "
            "np.unique(labels, return_inverse=True) makes them, and names for classes"
        )
    if labels.dtype.kind == "f" and bool((np.abs(labels) < 2**31).all()) and bool((labels == np.rint(labels)).all()):
        labels = labels.astype(np.int64)
    return integers(labels, where)


def _unread(store: ArrayStore) -> list[str]:
    """A note on arrays of a validation part, which are not read."""
    names = [name for part in VALIDATION for forms in (IMAGES, LABELS) for name in store.those_of(forms, part)]
    if not names:
        return []
    return [
        f"{' and '.join(names)} are not read: the validation images are data.val_size of the training images; to train on the "
        "others too, append them to the training arrays"
    ]

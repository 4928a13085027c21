"""The labelled sources a run can train on; each becomes `Images` with ids 0..N-1."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
import numpy.typing as npt

from cifar_small.config.schema import Data
from cifar_small.data.arrays import VALIDATION, class_numbers, count_array_classes, has_test_arrays, read_arrays
from cifar_small.data.cifar import CIFAR10_CLASSES, RELEASES, VARIABLE, is_at_hand, read_cifar
from cifar_small.data.containers import read_column, read_table, tables_of
from cifar_small.data.images import SIDE, Images
from cifar_small.data.label_tables import files_of_table, label_files
from cifar_small.data.orientation import require_in_order
from cifar_small.data.picture_folders import LabelledFiles, class_folders, content_of, files_of_classes
from cifar_small.data.pictures import Pictures, read_pictures
from cifar_small.data.splits import stratified_split
from cifar_small.errors import DataError
from cifar_small.wording import plural

LABEL_COLUMNS = ("label", "labels", "fine_label")
_DIGITS_TEST = 360  # of 1797
Split = Literal["train", "test"]


def load_train(data: Data, side: int = SIDE) -> Images:
    """The labelled training part of a source: images uint8 (N, 32, 32, 3), ids 0..N-1. Raises DataError.

    side: of pictures in files, unless all of them are 32x32, which are left so.
    """
    return _load(data, "train", side)


def load_test(data: Data, side: int = SIDE, *, enlarge: bool = True) -> Images:
    """The labelled test part of a source: images uint8 (N, side, side, 3), ids 0..N-1. Raises DataError.

    side: of the images of the training part. enlarge: also images that are all of 32x32, where those of training are not.
    """
    images = _load(data, "test", side)
    return images.enlarged(side) if enlarge else images


def has_test_part(data: Data) -> bool:
    """Has the source a labelled test part? What competitions hand out often has none. Raises DataError."""
    root = _root(data)
    if data.source == "npz" and root is not None and root.exists():
        return has_test_arrays(root)
    if data.source != "folder" or root is None:
        return True
    if _table_of_flat(root):
        return False
    return bool(tables_of(root, "test")) or ((root / "test").is_dir() and bool(class_folders(root / "test")))


def is_available(data: Data) -> bool:
    """Can the source be read without a download? A place that is named counts as there, right or wrong."""
    return bool(data.root or os.environ.get(VARIABLE)) or data.source not in RELEASES or is_at_hand(data.source)


def class_names(data: Data) -> tuple[str, ...]:
    """The class names of a source, read from its data unless they are CIFAR-10's or the digits. Raises DataError."""
    known = {"cifar10": CIFAR10_CLASSES, "digits": tuple("0123456789")}
    if names := data.classes or known.get(data.source):
        return names
    listed = _listed(data, "train")  # without decoding a picture
    return tuple(listed.classes) if listed else load_train(data).classes


def classes_at_hand(data: Data) -> int | None:
    """How many classes a source has, found without reading an image.

    None for one that is not there, or whose classes its images alone tell. Raises DataError.
    """
    if data.num_classes is not None:
        return data.num_classes
    root = _root(data)
    if listed := _listed(data, "train"):
        return len(listed.classes)
    return None if data.source != "npz" or root is None else count_array_classes(root)


def _load(data: Data, split: Split, side: int) -> Images:
    images = _load_source(data, split, side)
    if split == "train":
        images = replace(images, notes=(*images.notes, *_empty_classes(images)))
    if data.layout == "auto":
        decoded = data.source == "folder"
        require_in_order(images.at_32, images.source, decoded=decoded, otherwise="set data.layout: HWC")
    order = data.classes or _order_of_numbers(images.classes)
    return images if order == images.classes else _in_order(images, order)


def _empty_classes(images: Images) -> list[str]:
    """A note on classes that no training image has: of labels with gaps, or names that are too many."""
    assert images.labels is not None
    missing = [
        name
        for name, count in zip(images.classes, np.bincount(images.labels, minlength=len(images.classes)), strict=True)
        if not count
    ]
    if not missing:
        return []
    which = f"{', '.join(missing[:5])}{' ...' * (len(missing) > 5)}"
    return [f"{len(missing):,} of {plural(len(images.classes), 'class', 'classes')} without an image to train on: {which}"]


def _order_of_numbers(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names as given, but numbers that were sorted as text, by `np.unique` or `class_encode_column`: 2 before 10."""
    as_text = all(name.isascii() and name.isdecimal() for name in classes) and list(classes) == sorted(classes)
    return tuple(sorted(classes, key=int)) if as_text else classes


def _in_order(images: Images, classes: tuple[str, ...]) -> Images:
    """The same images with labels that are positions in `classes`."""
    if sorted(classes) != sorted(images.classes):
        lone = sorted(set(classes) ^ set(images.classes)) or sorted(classes)
        raise DataError(
            f"{images.source}: data.classes does not name its {plural(len(images.classes), 'class', 'classes')} once each "
            f"(look at {', '.join(lone[:5])}); expected {', '.join(images.classes[:100])} in another order"
        )
    assert images.labels is not None
    place = np.array([classes.index(name) for name in images.classes], np.int64)
    return replace(images, labels=place[images.labels], classes=classes)


def _load_source(data: Data, split: Split, side: int) -> Images:
    root = _root(data)
    if root is not None and data.source != "digits" and not root.exists():
        raise DataError(_no_root(data, root), remedy="data_root")
    match data.source:
        case "digits":
            return _digits(split)
        case "cifar10" | "cifar100" | "cifar100_coarse":
            return _images(*read_cifar(data.source, root, split), f"{data.source} {split}")
        case "npz":
            return _npz(_required(root, data), split)
        case "folder":
            return _folder(_required(root, data), split, side)
        case unknown:
            assert_never(unknown)


def _root(data: Data) -> Path | None:
    given = data.root or os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else None


def _no_root(data: Data, root: Path) -> str:
    """What to say of a place of the data that is not there."""
    seen_from = "" if root.is_absolute() else f" in {Path.cwd()}, the working folder, from which this path counts"
    return (
        f"{'data.root' if data.root else VARIABLE} {root}: there is no such file or folder{seen_from}; give the place of the "
        f"{data.source} data as data.root or {VARIABLE}"
    )


def _required(root: Path | None, data: Data) -> Path:
    if root is None:
        raise DataError(f"data.source {data.source} needs a place to read; set data.root or {VARIABLE}")
    return root


def _images(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    source: str,
    small: npt.NDArray[np.uint8] | None = None,
    notes: Sequence[str] = (),
) -> Images:
    ids = np.arange(len(images), dtype=np.int64)
    loaded = Images(np.ascontiguousarray(images), labels, ids, tuple(classes), source, small, tuple(notes))
    if len(loaded.classes) < 2:
        raise DataError(f"{source}: has one class, {loaded.classes[0]!r}; expected two or more to tell apart")
    return loaded


def _digits(split: Split) -> Images:
    """scikit-learn's 1797 handwritten digits, 8x8 with values 0..16, enlarged to 32x32x3; a fixed stratified split.

    Read from its file, as `load_digits` does: importing scikit-learn takes longer than a small net's training.
    """
    from PIL import Image

    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",")
    labels = table[:, -1].astype(np.int64)
    indices = stratified_split(labels, _DIGITS_TEST, seed=0)[split == "test"]
    small = np.rint(table[indices, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    gray = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in small])
    images = np.repeat(gray[..., None], 3, axis=3)
    return _images(images, labels[indices], [str(digit) for digit in range(10)], f"digits {split}")


def _npz(path: Path, split: Split) -> Images:
    found = read_arrays(path, split)
    return _images(found.images, found.labels, found.classes, f"npz {split} of {path}", notes=found.notes)


def _folder(root: Path, split: Split, side: int) -> Images:
    """Class folders, or Kaggle's flat train/ with a CSV of labels, or parquet tables named by their split."""
    where = f"folder {split} of {root}"
    if table := _table_of_flat(root):
        if split == "test":
            raise DataError(f"{root}: {table.name} labels train/ alone; there is no labelled test part to read")
        listed = files_of_table(root, table)
    elif not (root / "train").is_dir() and (tables := tables_of(root, split)):
        pictures, labels, classes = _labelled_table(tables, side, tables_of(root, "train"))
        notes = [*pictures.notes, *(_unread(root) if split == "train" else [])]
        return _images(pictures.pixels, labels, classes, where, pictures.small, notes)
    else:
        listed = files_of_classes(root, split)
    pictures = read_pictures(listed.files, str(root / split), side)
    notes = [*listed.notes, *pictures.notes, *(_unread(root) if split == "train" else [])]
    return _images(pictures.pixels, listed.labels, listed.classes, where, pictures.small, notes)


def _unread(root: Path) -> list[str]:
    """A note on a validation part, as others lay it beside train; none is read."""
    names = [f"{entry.name}/" for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name.lower() in VALIDATION]
    names += [path.name for path in tables_of(root, "val")] if not (root / "train").is_dir() else []
    if not names:
        return []
    into = "the class folders of train/" if names[0].endswith("/") else "tables whose names begin with train"
    return [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not read: the validation images are data.val_size of train; "
        f"to train on the others too, move them into {into}"
    ]


def _table_of_flat(root: Path) -> Path | None:
    """The CSV of labels of a flat train/; None where train/ has class folders. Raises DataError where it has both."""
    tables = label_files(root)
    if not tables or not (folders := class_folders(root / "train")):
        return tables[0] if tables else None
    table = tables[0]
    if content_of(root / "train").pictures:
        raise DataError(
            f"{root / 'train'}: has pictures, which {table.name} labels, and folders ({', '.join(folders[:3])}) beside them; "
            "expected one of both: move the others elsewhere"
        )
    if len(folders) == 1:
        raise DataError(
            f"{root / 'train'}: has one folder alone, {folders[0]}; if {table.name} labels the pictures in it, move them up "
            "into train itself"
        )
    return None


def picture_files_of(data: Data, split: Split) -> list[Path]:
    """The file of each image of a folder of pictures, in the order of the ids; none where a source is read from arrays."""
    listed = _listed(data, split)
    return listed.files if listed else []


def pictures_without_label(data: Data, named: Sequence[Path]) -> int:
    """How many pictures of a flat train/ its CSV of labels does not name: they are in no split. 0 for other sources.

    named: the files of the training part, as `picture_files_of` lists them.
    """
    root = _root(data)
    if root is None or not named or named[0].parent != root / "train":  # class folders lie between
        return 0
    left = set(content_of(root / "train").pictures) - set(named)
    return len([file for file in left if file.suffix])  # without an ending it need not be one


def _listed(data: Data, split: Split) -> LabelledFiles | None:
    root = _root(data)
    if data.source != "folder" or root is None or not (root / "train").is_dir():
        return None
    table = _table_of_flat(root)
    return files_of_table(root, table) if table else files_of_classes(root, split)


def _labelled_table(
    files: Sequence[Path], side: int, train_files: Sequence[Path]
) -> tuple[Pictures, npt.NDArray[np.int64], list[str]]:
    found = read_table(files, side)
    column = next((name for name in LABEL_COLUMNS if name in found.columns), None)
    if column is None and (damaged := [name for name in LABEL_COLUMNS if name in found.left_out]):
        read_column(files, damaged[0])  # which says what is wrong with it
    if column is None:
        raise DataError(f"{files[0]}: has no column of labels; expected whole numbers in {' or '.join(LABEL_COLUMNS)}")
    labels = found.columns[column]
    names = found.names.get(column)
    if names is None:  # numbers stand for themselves; test may lack the highest
        names = class_numbers(labels if files == train_files else read_column(train_files, column), str(files[0]))
    return found.pictures, labels, names

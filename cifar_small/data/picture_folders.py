"""Folders of pictures: which of their files are read, in which order, and with which labels; what is left out is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_small.data.formats import PICTURES
from cifar_small.data.pictures import ENDINGS
from cifar_small.errors import DataError
from cifar_small.files import kind_of
from cifar_small.wording import plural

OTHER_PICTURES = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".heic": "HEIC",
    ".heif": "HEIC",
    ".jp2": "JPEG 2000",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".pnm": "PPM",
    ".ppm": "PPM",
    ".tga": "TGA",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
LABEL_FILES = ("trainLabels.csv", "train_labels.csv", "labels.csv", "train.csv")  # beside a flat train/
_BY_PRODUCT = "__MACOSX"  # of archives packed on a Mac


class FolderContent(NamedTuple):
    """What a folder of pictures holds, each by name, hidden entries and by-products left out.

    pictures: by their ending or content, or without an ending; reading says what is wrong with them. unread: pictures of a
    format that is not read. others: of another ending and content. folders: those in it.
    """

    pictures: list[Path]
    unread: list[Path]
    others: list[Path]
    folders: list[Path]


class LabelledFiles(NamedTuple):
    """Files of pictures, their labels int64 (N,), the names of the classes, and what should be known of the reading."""

    files: list[Path]
    labels: npt.NDArray[np.int64]
    classes: list[str]
    notes: list[str]


def content_of(folder: Path) -> FolderContent:
    """The entries of a folder by what they are."""
    found = FolderContent([], [], [], [])
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == _BY_PRODUCT:
            continue
        ending = entry.suffix.lower()
        if entry.is_dir():
            found.folders.append(entry)
        elif not ending or ending in ENDINGS:
            found.pictures.append(entry)
        elif ending in OTHER_PICTURES:
            found.unread.append(entry)
        else:
            (found.pictures if _is_picture(entry) else found.others).append(entry)
    return found


def _is_picture(file: Path) -> bool:
    """Does it begin as the pictures that are read do? Also what cannot be opened: reading says why."""
    try:
        with file.open("rb") as opened:
            return kind_of(opened.read(64)) in PICTURES
    except OSError:
        return True


def require_read(unread: Sequence[Path], where: Path) -> None:
    """Raise DataError for pictures of formats that are not read."""
    if not unread:
        return
    kinds = sorted({OTHER_PICTURES[file.suffix.lower()] for file in unread})
    endings = sorted({file.suffix for file in unread})
    line = (
        ": import io; from pathlib import Path; from PIL import Image; "
        "[Image.open(io.BytesIO(file.read_bytes())).convert('RGBA')."
        f"save(file.with_suffix('.png')) for file in Path({str(where)!r}).rglob('*') if file.suffix in {endings}]"
    )
    raise DataError(
        f"{where}: has {plural(len(unread), 'picture')} of the format {' or '.join(kinds)}, first "
        f"{unread[0].relative_to(where)}; expected PNG, JPEG or WebP; move the originals elsewhere once they are converted"
        + line
        * ("HEIC" not in kinds)  # which Pillow does not open
    )


def files_of_classes(root: Path, split: str) -> LabelledFiles:
    """The files in <split>/<class>/, their labels, and the names of the classes. Raises DataError."""
    classes = class_folders(root / "train")
    tested = _tested_classes(root, split, classes)
    if lone := sorted(set(classes) ^ set(tested)) if tested else []:
        raise DataError(
            f"{root}: train and test differ in their class folders ({', '.join(lone[:5])}); expected the same in both, or no "
            "folders in a test of pictures without labels: put these into test itself"
        )
    place = root / split
    contents = [content_of(place / name) for name in classes]
    if nested := [folder for content in contents for folder in content.folders]:
        first, others = nested[0], f", one of {len(nested):,}" if len(nested) > 1 else ""
        raise DataError(
            f"{first}: is a folder in a class folder{others}; expected pictures in {split}/<class>/ itself; "
            f"move its pictures up into {first.parent}, or, where {first.parent.name} is no class, its folders up into {place}"
        )
    require_read([file for content in contents for file in content.unread], place)
    files, labels = [], []
    for label, (name, content) in enumerate(zip(classes, contents, strict=True)):
        if not content.pictures and split == "train":
            raise DataError(f"{place / name}: has no pictures; expected .png, .jpg or .webp files")
        files += content.pictures
        labels += [label] * len(content.pictures)
    if not files:
        raise DataError(f"{place}: no images; expected {split}/<class>/*.png, .jpg or .webp")
    notes = _left_out([file for content in contents for file in content.others], place, "no pictures")
    above = content_of(place)
    notes += _left_out([*above.pictures, *above.unread], place, "beside the class folders")
    return LabelledFiles(files, np.array(labels, np.int64), classes, notes)


def _tested_classes(root: Path, split: str, classes: Sequence[str]) -> list[str]:
    """The class folders of the test part; none where training needs none. Raises DataError for pictures without classes."""
    if not classes and (lone := content_of(root / "train").pictures):
        tables = sorted(path.name for path in root.glob("*.csv") if path.name not in LABEL_FILES)
        raise DataError(
            f"{lone[0].parent}: has pictures without class folders; expected train/<class>/*.png, or beside a flat train/ the "
            f"classes in {' or '.join(LABEL_FILES)}{', not ' + ', '.join(tables[:3]) if tables else ''}"
        )
    # Competitions give no labelled test part, or a test/ of pictures alone, and training needs none.
    tested = class_folders(root / "test") if split == "test" or (root / "test").is_dir() else []
    if split == "test" and not tested:
        raise DataError(
            f"{root / 'test'}: has no class folders, so its pictures have no labels; expected test/<class>/*.png where "
            "accuracy on test is wanted"
        )
    return tested


def _left_out(files: Sequence[Path], where: Path, why: str) -> list[str]:
    """A note on files that are not read; none without."""
    if not files:
        return []
    return [f"{plural(len(files), 'file')} of {where.name}/ left out ({why}), first {files[0].relative_to(where)}"]


def class_folders(folder: Path) -> list[str]:
    """The names of class folders in their order: by name, or by number where all are numbers. Raises DataError."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder; expected train/<class>/*.png under data.root, and test/<class>/*.png where "
            "accuracy on test is wanted"
        )
    return in_order([entry.name for entry in content_of(folder).folders], str(folder))


def in_order(names: Sequence[str], where: str) -> list[str]:
    """Names of classes in the order of their labels: of numbers where all are numbers, else of text. Raises DataError."""
    if pair := alike(names):
        raise DataError(
            f"{where}: has the classes {pair[0]!r} and {pair[1]!r}, which differ in case or spaces alone; expected one name "
            "for each class: join the two, or rename one where they are two"
        )
    if not all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names)
    if len({int(name) for name in names}) < len(names):
        raise DataError(f"{where}: two class folders have the same number, such as 1 and 01; expected each class once")
    return sorted(names, key=int)  # 10 after 9, not after 1


def alike(names: Sequence[str]) -> tuple[str, str] | None:
    """The first two names that differ in case or spaces alone; None: there are none. Of letters, a and A are two classes."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        other = seen.setdefault(" ".join(name.split()).casefold(), name)
        if other != name and len(name) > 1:
            return other, name
    return None

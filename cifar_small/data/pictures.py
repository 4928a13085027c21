"""Single pictures and folders of them: PNG, JPEG and WebP of any size, brought to one size, RGB, as they are read.

A picture of that size is taken as it is. Of another the largest square in its middle is resized by Pillow's bicubic kernel,
which widens with the reduction (antialiasing). JPEGs are first turned as their EXIF orientation says. What is transparent is
shown on white, as most viewers show it: below it may lie anything.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from cifar_small.data.formats import PICTURES, format_of_file
from cifar_small.data.images import SIDE
from cifar_small.environment import memory_at_hand, no_bar
from cifar_small.errors import DataError
from cifar_small.wording import plural

if TYPE_CHECKING:
    from PIL.Image import Image

KERNEL = "the middle square, by Pillow's bicubic kernel with antialiasing"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
LABEL_FILES = ("trainLabels.csv", "train_labels.csv", "labels.csv", "train.csv")
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("RGB", "L", "P", "RGBA", "LA", "1")
_MOST_PIXELS = 2**26  # of one picture, before it is decoded
Pixels = npt.NDArray[np.uint8]


class Pictures(NamedTuple):
    """Pictures as they were read.

    pixels: uint8 (N, side, side, 3); small: the same at 32x32, None where that is the side; resized: how many were of another
    size than the side; transparent: how many had pixels that are not opaque.
    """

    pixels: Pixels
    small: Pixels | None
    resized: int
    transparent: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What the pixels do not show of how they were stored, in words."""
        return (f"{plural(self.transparent, 'picture')} with transparent pixels, shown on white",) if self.transparent else ()


Labelled = tuple[Pictures, npt.NDArray[np.int64], list[str]]
LabelledFiles = tuple[list[Path], npt.NDArray[np.int64], list[str]]


def read_picture(source: Path | bytes, where: str = "") -> Image:
    """A picture in RGB, upright, or in RGBA where some of its pixels are not opaque; gray and palette are converted.

    source: a file, or its bytes, which `where` names. Raises DataError.
    """
    from PIL import Image, ImageOps

    where = where or str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as picture:
            # Size and mode stand in the header; what is not wanted is refused before it is decoded.
            size, mode = picture.size, picture.mode
            if mode in _MODES and size[0] * size[1] <= _MOST_PIXELS:
                upright = ImageOps.exif_transpose(picture)
                if upright.has_transparency_data:
                    upright = upright.convert("RGBA")
                    if upright.getchannel("A").getextrema() != (255, 255):
                        return upright
                return upright.convert("RGB")
    except Exception as error:
        known = format_of_file(source, PICTURES) if isinstance(source, Path) and source.is_file() else None
        reason = known or f"is not a readable picture ({type(error).__name__}: {error})"
        raise DataError(f"{where}: {reason}; expected PNG, JPEG or WebP") from error
    if mode not in _MODES:
        raise DataError(f"{where}: has pixel format {mode}; expected 8 bits a channel ({', '.join(_MODES)}); convert it first")
    raise DataError(f"{where}: is {size[0]}x{size[1]} pixels; expected at most {_MOST_PIXELS:,} in all; make it smaller first")


def fitted(picture: Image, side: int) -> Pixels:
    """A picture as uint8 (side, side, 3), on white: as it is where that is its size, else its middle square resized."""
    from PIL import Image, ImageOps

    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if picture.size != (side, side):
        picture = ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8)


def read_pictures(sources: Sequence[Path | bytes], where: str, side: int = SIDE) -> Pictures:
    """Pictures at `side` pixels a side, but at 32x32 where that is the size of all. Raises DataError."""
    if side != SIDE and all(_stored_size(source) == (SIDE, SIDE) for source in sources):
        side = SIDE
    small = np.empty((len(sources), SIDE, SIDE, 3), np.uint8) if side != SIDE else None
    _require_memory(len(sources), side, where)
    pixels, resized, transparent = np.empty((len(sources), side, side, 3), np.uint8), 0, 0
    slow = len(sources) > 5000  # some seconds
    for row, source in enumerate(tqdm(sources, desc=f"reading {where}", unit="picture", disable=no_bar(slow))):
        picture = read_picture(source, f"{where} row {row}" if isinstance(source, bytes) else "")
        pixels[row] = fitted(picture, side)
        if small is not None:
            small[row] = fitted(picture, SIDE)
        resized += picture.size != (side, side)
        transparent += picture.mode == "RGBA"
    return Pictures(pixels, small, resized, transparent)


def _stored_size(source: Path | bytes) -> tuple[int, int] | None:
    """Width and height as the header says; None for what is no picture, which reading it explains."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as picture:
            return picture.size
    except Exception:
        return None


def _require_memory(count: int, side: int, where: str) -> None:
    """Raise DataError for more pictures than the memory holds twice: as they are read, and split into train and val."""
    needed, there = 2 * 3 * count * side**2, memory_at_hand()
    if there is not None and needed > there:
        raise DataError(
            f"{where}: {count:,} pictures at {side}x{side} take {needed / 1e9:.1f} GB of memory while they are split, and "
            f"{there / 1e9:.1f} GB are available; lower input.size, or use a machine with more memory"
        )


def picture_files(folder: Path) -> list[Path]:
    """The files of a folder of pictures, by name. Hidden ones are left out; what is no picture fails when it is read."""
    return sorted(file for file in folder.iterdir() if not file.name.startswith("."))


def read_class_folders(root: Path, split: str, side: int = SIDE) -> Labelled:
    """Pictures in <split>/<class>/, their labels, and the names of the classes. Raises DataError."""
    files, labels, classes = files_of_classes(root, split)
    return read_pictures(files, str(root / split), side), labels, classes


def files_of_classes(root: Path, split: str) -> LabelledFiles:
    """The files in <split>/<class>/, their labels, and the names of the classes. Raises DataError."""
    classes = class_folders(root / "train")
    if not classes and picture_files(root / "train"):
        tables = sorted(path.name for path in root.glob("*.csv") if path.name not in LABEL_FILES)
        raise DataError(
            f"{root / 'train'}: has pictures without class folders; expected train/<class>/*.png, or beside a flat train/ the "
            f"classes in {' or '.join(LABEL_FILES)}{', not ' + ', '.join(tables[:3]) if tables else ''}"
        )
    # Competitions give no labelled test part, or a test/ of pictures alone, and training needs none.
    tested = class_folders(root / "test") if split == "test" or (root / "test").is_dir() else []
    if split == "test" and not tested:
        raise DataError(
            f"{root / 'test'}: has no class folders, so its pictures have no labels; expected test/<class>/*.png where "
            "accuracy on test is wanted"
        )
    if lone := sorted(set(classes) ^ set(tested)) if tested else []:
        raise DataError(
            f"{root}: train and test differ in their class folders ({', '.join(lone[:5])}); expected the same in both, or no "
            "folders in a test of pictures without labels: put these into test itself"
        )
    files, labels = [], []
    for label, name in enumerate(classes):
        found = picture_files(root / split / name)
        if not found and split == "train":
            raise DataError(f"{root / split / name}: has no pictures; expected .png, .jpg or .webp files")
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{root / split}: no images; expected {split}/<class>/*.png, .jpg or .webp")
    return files, np.array(labels, np.int64), classes


def class_folders(folder: Path) -> list[str]:
    """The names of class folders in their order: by name, or by number where all are numbers. Raises DataError."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder; expected train/<class>/*.png under data.root, and test/<class>/*.png where "
            "accuracy on test is wanted"
        )
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return in_order(names, str(folder))


def in_order(names: Sequence[str], where: str) -> list[str]:
    """Names of classes in the order of their labels: of numbers where all are numbers, else of text. Raises DataError."""
    if not all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names)
    if len({int(name) for name in names}) < len(names):
        raise DataError(f"{where}: two class folders have the same number, such as 1 and 01; expected each class once")
    return sorted(names, key=int)  # 10 after 9, not after 1


def label_file(root: Path) -> Path | None:
    """The CSV of labels beside a flat folder train/ of pictures, as Kaggle hands it out; None where there is none."""
    found = [root / name for name in LABEL_FILES if (root / name).is_file()]
    return found[0] if found and (root / "train").is_dir() else None


def read_flat(root: Path, table: Path, side: int = SIDE) -> Labelled:
    """The pictures of train/ that a CSV names, in its order, their labels, and the names of the classes. Raises DataError."""
    files, labels, classes = files_of_table(root, table)
    return read_pictures(files, str(root / "train"), side), labels, classes


def files_of_table(root: Path, table: Path) -> LabelledFiles:
    """The files of train/ that a CSV names, in its order, their labels, and the names of the classes. Raises DataError.

    table: a header of two names, then a row for each picture: its name, with or without its ending, and its class.
    """
    try:
        rows = [row for row in csv.reader(table.read_text(encoding="utf-8-sig").splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: is not a readable CSV ({error}); expected a header such as id,label") from None
    if odd := next((row for row in rows if len(row) != 2), None):
        raise DataError(
            f"{table}: has a row of {plural(len(odd), 'value')}, {','.join(odd)[:60]!r}; expected a header such as id,label "
            "and rows of two values, a picture and its class, with a comma between them"
        )
    if len(rows) < 2:
        raise DataError(f"{table}: has no rows; expected a header such as id,label and a row for each picture")
    by_name: dict[str, Path] = {}
    twins: dict[str, str] = {}  # of a name without its ending that two files have: both, in words
    for file in picture_files(root / "train"):
        if file.stem in by_name:
            twins[file.stem] = f"{by_name[file.stem].name} and {file.name}"
        by_name[file.name] = by_name[file.stem] = file
    if rows[0][0].strip() in by_name:
        raise DataError(
            f"{table}: begins with the picture {rows[0][0].strip()!r}; expected a header such as id,label before it"
        )
    names, labels = ([row[column].strip() for row in rows[1:]] for column in (0, 1))
    if missing := [name for name in names if name not in by_name]:
        numbers = {str(int(name)) for name in by_name if name.isascii() and name.isdecimal()}
        unpadded = missing[0] in numbers
        raise DataError(
            f"{table}: {len(missing):,} of {len(names):,} pictures are not in {root / 'train'}, first {missing[0]!r}; "
            + (
                f"the pictures' own names have zeros in front, as {min(by_name)}: write the CSV with its names as text"
                if unpadded
                else "unpack the whole archive of pictures there, and name each picture as in that folder, without a path"
            )
        )
    if unclear := [name for name in names if name in twins]:
        raise DataError(
            f"{table}: names {plural(len(unclear), 'picture')} without an ending of which there are two files in "
            f"{root / 'train'}, first {unclear[0]!r}: {twins[unclear[0]]}; write the endings too, or move the others elsewhere"
        )
    if empty := [name for name, label in zip(names, labels, strict=True) if not label]:
        raise DataError(f"{table}: {plural(len(empty), 'picture')} without a class, first {empty[0]!r}; expected one for each")
    if all(re.fullmatch(r"[0-9]+\.0", label) for label in labels):
        labels = [label.removesuffix(".0") for label in labels]  # as pandas writes the whole numbers of a column with gaps
    classes = in_order(sorted(set(labels)), str(table))
    files = [by_name[name] for name in names]
    if len(set(files)) < len(files):
        raise DataError(f"{table}: names a picture twice; expected each once")
    return files, np.array([classes.index(label) for label in labels], np.int64), classes


def stored_sizes(files: Sequence[Path]) -> Counter[tuple[int, int]]:
    """How many pictures are stored at each width and height, as their headers say; files: those that were read before."""
    bar = tqdm(files, desc="sizes of pictures", unit="picture", disable=no_bar(len(files) > 5000))
    return Counter(size for file in bar if (size := _stored_size(file)))

"""A flat folder train/ of pictures with their classes in a CSV beside it, as Kaggle hands it out."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_small.data.picture_folders import LABEL_FILES, LabelledFiles, alike, content_of, in_order, require_read
from cifar_small.errors import DataError
from cifar_small.wording import plural

_HEADER = "expected a header such as id,label"


class LabelRow(NamedTuple):
    """A row of a CSV of labels, with the number of its line."""

    line: int
    picture: str
    label: str


def label_files(root: Path) -> list[Path]:
    """The CSVs of labels beside a flat folder train/ of pictures: the first is read."""
    return [root / name for name in LABEL_FILES if (root / name).is_file()] if (root / "train").is_dir() else []


def files_of_table(root: Path, table: Path) -> LabelledFiles:
    """The files of train/ that a CSV names, in its order, their labels, and the names of the classes. Raises DataError.

    table: a header of two names, then a row for each picture: its name, with or without its ending, and its class.
    """
    content = content_of(root / "train")
    require_read(content.unread, root / "train")
    by_name, twins = _names(content.pictures)
    rows = _labels_of(table, by_name)
    _require_pictures(rows, by_name, twins, table, root / "train")
    if empty := [row.picture for row in rows if not row.label]:
        raise DataError(f"{table}: {plural(len(empty), 'picture')} without a class, first {empty[0]!r}; expected one for each")
    labels = [row.label for row in rows]
    if pair := alike(sorted(set(labels))):
        one, two = ([row.line for row in rows if row.label == name] for name in pair)
        raise DataError(
            f"{table}: has the classes {pair[0]!r} ({plural(len(one), 'row')}, first in line {one[0]}) and {pair[1]!r} "
            f"({plural(len(two), 'row')}, first in line {two[0]}), which differ in case or spaces alone; write one name for "
            "both, or two that differ where they are two classes"
        )
    classes = in_order(sorted(set(labels)), str(table))
    files: dict[Path, LabelRow] = {}
    for row in rows:
        if (file := by_name[row.picture]) in files:
            raise DataError(
                f"{table}: names a picture twice, {file.name} in lines {files[file].line} and {row.line}; expected each once"
            )
        files[file] = row
    number = {name: at for at, name in enumerate(classes)}
    notes = [note for other in label_files(root) if other != table for note in _compared(other, table, by_name, files)]
    return LabelledFiles(list(files), np.array([number[label] for label in labels], np.int64), classes, notes)


def _names(pictures: Sequence[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """Pictures by their names with and without ending; and of names without ending that two have: both, in words."""
    by_name: dict[str, Path] = {}
    twins: dict[str, str] = {}
    for file in pictures:
        if file.stem in by_name:
            twins[file.stem] = f"{by_name[file.stem].name} and {file.name}"
        by_name[file.name] = by_name[file.stem] = file
    return by_name, twins


def _labels_of(table: Path, by_name: Mapping[str, Path]) -> list[LabelRow]:
    """The rows of a CSV below its header, each a picture and a class. Raises DataError for one of another form."""
    try:
        reader = csv.reader(table.read_text(encoding="utf-8-sig").splitlines())
        lines = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: is not a readable CSV ({error}); {_HEADER}") from None
    if odd := next((line for line in lines if len(line[1]) != 2), None):
        number, values = odd
        wide = "; save these two alone, without an index, as pandas does: frame[[PICTURE, CLASS]].to_csv(file, index=False)"
        raise DataError(
            f"{table}: line {number} has a row of {plural(len(values), 'value')}, {','.join(values)[:60]!r}; {_HEADER} and "
            f"rows of two values, a picture and its class, with a comma between them{wide * (len(values) > 2)}"
        )
    if len(lines) < 2:
        raise DataError(f"{table}: has no rows; {_HEADER} and a row for each picture")
    first = lines[0][1][0].strip()
    rows = [LabelRow(number, values[0].strip(), values[1].strip()) for number, values in lines[1:]]
    swapped = _are_swapped(rows, by_name)
    if first in by_name and not swapped:
        raise DataError(f"{table}: begins with the picture {first!r}; {_HEADER} before it")
    if swapped:
        raise DataError(
            f"{table}: has the class before the picture, as in line {rows[0].line}: {rows[0].picture},{rows[0].label}; "
            "expected the picture first and then its class: exchange the two columns"
        )
    if all(re.fullmatch(r"[0-9]+\.0", row.label) for row in rows):  # as pandas writes whole numbers of a column with gaps
        rows = [row._replace(label=row.label.removesuffix(".0")) for row in rows]
    return rows


def _are_swapped(rows: Sequence[LabelRow], by_name: Mapping[str, Path]) -> bool:
    """Do the second values name a picture each, and the first not?"""
    second = {row.label for row in rows}
    if len(second) < len(rows) or not second <= by_name.keys():
        return False
    return len({row.picture for row in rows}) < len(rows) or not any(row.picture in by_name for row in rows)


def _require_pictures(
    rows: Sequence[LabelRow], by_name: Mapping[str, Path], twins: Mapping[str, str], table: Path, folder: Path
) -> None:
    """Raise DataError where a CSV names pictures that are not in the folder, or two of which could be meant."""
    if missing := [row for row in rows if row.picture not in by_name]:
        numbers = {str(int(name)) for name in by_name if name.isascii() and name.isdecimal()}
        raise DataError(
            f"{table}: {len(missing):,} of {len(rows):,} pictures are not in {folder}, first {missing[0].picture!r} in line "
            f"{missing[0].line}; "
            + (
                f"the pictures' own names have zeros in front, as {min(by_name)}: write the CSV with its names as text"
                if missing[0].picture in numbers
                else "unpack the whole archive of pictures there, and name each picture as in that folder, without a path"
            )
        )
    if unclear := [row.picture for row in rows if row.picture in twins]:
        raise DataError(
            f"{table}: names {plural(len(unclear), 'picture')} without an ending of which there are two files in "
            f"{folder}, first {unclear[0]!r}: {twins[unclear[0]]}; write the endings too, or move the others elsewhere"
        )


def _compared(other: Path, table: Path, by_name: Mapping[str, Path], files: Mapping[Path, LabelRow]) -> list[str]:
    """A note that another CSV of labels is not read, if it says anything else. Raises DataError where both disagree."""
    try:
        rows = _labels_of(other, by_name)
    except DataError:  # boxes, a list of names or whatever: it is not read
        return [f"{other.name} is not read: {table.name} beside it has the labels"]
    others = {by_name[row.picture]: row for row in rows if row.picture in by_name}
    both = [(files[file], row) for file, row in others.items() if file in files]
    differ = [(one, two) for one, two in both if one.label != two.label]
    if differ and not _renamed({(one.label, two.label) for one, two in both}):
        one, two = differ[0]
        raise DataError(
            f"{table.parent}: {table.name} and {other.name} disagree on {plural(len(differ), 'picture')}, first {one.picture}: "
            f"{one.label!r} in line {one.line}, {two.label!r} in line {two.line}; keep the right one, move the other elsewhere"
        )
    if not differ and others.keys() == files.keys():
        return []
    return [f"{other.name} is not read: {table.name} beside it has the labels"]


def _renamed(pairs: set[tuple[str, str]]) -> bool:
    """Are these the same classes by other names, as numbers are beside names?"""
    ones, others = ({pair[side] for pair in pairs} for side in (0, 1))
    return ones.isdisjoint(others) and len(ones) == len(others) == len(pairs)

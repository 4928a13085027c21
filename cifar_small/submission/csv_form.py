"""The form of a submission CSV, its header, ids and labels: by rules, by a sample submission, or by the record beside it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from cifar_small.config.schema import Rules
from cifar_small.config.schema.patterns import ID_PREFIX, ID_SUFFIX
from cifar_small.errors import DataError
from cifar_small.runs.records import SubmissionRecord, load_record
from cifar_small.wording import plural


def label_texts(classes: Sequence[str], rules: Rules) -> list[str]:
    """How a CSV writes each class: by its name or by its number, which is its position unless every name is a number."""
    if rules.in_names:
        return list(classes)
    numbered = all(name.isascii() and name.isdecimal() for name in classes)
    return [str(int(name) if numbered else index) for index, name in enumerate(classes)]


class CsvForm(NamedTuple):
    """What a submission CSV is read by: names of classes, rules, and the sample whose order the rows have, if any."""

    classes: tuple[str, ...]
    rules: Rules
    order: str | None


def recorded_form(csv: Path) -> CsvForm | None:
    """What the record that `submit` wrote beside a CSV says of its form; None without one. Raises DataError for a damaged one.

    The rules have the rows that were allowed when it was predicted.
    """
    path = csv.with_suffix(".json")
    try:
        record = load_record(path) if path.is_file() else None
    except DataError as error:
        raise DataError(
            f"{error}; expected the record of {csv.name}: move it elsewhere, or name a config, which holds instead"
        ) from None
    if not isinstance(record, SubmissionRecord):
        return None
    rules, allowed = record.rules_for(path, "write the submission again"), record.predictions.allowed_rows
    if allowed is not None:
        rules = rules.model_copy(update={"rows": allowed})
    return CsvForm(tuple(record.class_counts), rules, record.order.file if record.order else None)


def rules_of_sample(
    content: bytes, ids: npt.NDArray[np.int64], classes: Sequence[str], rules: Rules, name: str
) -> tuple[Rules, npt.NDArray[np.int64]]:
    """The rules with header, form of ids and kind of labels as in a competition's sample submission, and the ids in its order.

    ids: of the unlabelled file; name: of the sample, for messages. Raises DataError when it is for others, or unclear.
    """
    found, listed = rules_of_rows(content, classes, rules, name)
    if sorted(listed) != sorted(ids.tolist()):
        raise DataError(f"{name} is for other images than the unlabelled file: {_how_ids_differ(listed, ids.tolist())}")
    return found, np.array(listed, np.int64)


def _how_ids_differ(listed: Sequence[int], ids: Sequence[int]) -> str:
    """In words: ids that a sample submission has twice, lacks, or has alone; or that it counts from another number."""
    if 1 < len(listed) == len(ids) and len({one - other for one, other in zip(sorted(listed), sorted(ids), strict=True)}) == 1:
        from_0 = "; a file without ids is numbered from 0: save its images as an .npz with data, and ids as the sample has them"
        return (
            f"its ids are {min(listed):,} to {max(listed):,}, those of the file {min(ids):,} to {max(ids):,}; expected the same"
            + from_0 * (min(ids) == 0)
        )
    twice = sorted(image for image, count in Counter(listed).items() if count > 1)
    lacking, foreign = sorted(set(ids) - set(listed)), sorted(set(listed) - set(ids))
    parts = (("has {} twice", twice), ("lacks {} of the file", lacking), ("has {} that the file lacks", foreign))
    return "; ".join(f"it {what.format(plural(len(some), 'id'))}, first {some[0]}" for what, some in parts if some)


def _how_to_make_two(rows: Sequence[Sequence[str]], odd: Sequence[str] | None, classes: Sequence[str]) -> str:
    """What to do where the rows of a sample submission have more or fewer values than two, as far as it can be told."""
    if odd is None:
        return ""
    if len(odd) == 1 and ";" in odd[0]:
        return ", with a comma between them; it has semicolons, as a spreadsheet saves them: get the original again"
    if len(odd) == len(classes) + 1:
        return "; probabilities of each class, as it seems to want them, are not written"
    if len(odd) == 3 and rows[0][0] in ("", "index", "Unnamed: 0"):
        return "; its first column counts the rows, as pandas writes it: save it with index=False"
    return ""


def rules_of_rows(content: bytes, classes: Sequence[str], rules: Rules, name: str) -> tuple[Rules, list[int]]:
    """The rules with header, form of ids and kind of labels as a CSV has them, and its ids. Raises DataError where unclear."""
    rows = [line.split(",") for line in content.decode("utf-8-sig", "replace").replace('"', "").splitlines() if line]
    odd = next((row for row in rows if len(row) != 2), None)
    if len(rows) < 2 or odd is not None:
        got = f"has a row of {plural(len(odd), 'value')}, {','.join(odd)[:60]!r}" if odd else "has no row but its header"
        raise DataError(
            f"{name} is not a sample submission: it {got}; expected a header and rows of two values, an id and a label"
            + _how_to_make_two(rows, odd, classes)
        )
    labels = {label for _, label in rows[1:]}
    numbers = label_texts(classes, rules.model_copy(update={"labels": "numbers"}))
    kinds = [kind for kind, known in (("names", set(classes)), ("numbers", set(numbers))) if labels <= known]
    if not kinds:
        from_1 = labels <= {str(number) for number in range(1, len(classes) + 1)}
        raise DataError(
            f"{name} has labels such as {min(labels)!r}, neither numbers ({numbers[0]} to {numbers[-1]}) nor names of the "
            f"{len(classes)} classes, the first of which is {classes[0]}; expected such labels, or the config of its "
            f"competition{'; it counts them from 1: write the CSV without it, and add 1 by a script' if from_1 else ''}"
        )
    shortest = min((image for image, _ in rows[1:]), key=len)
    lone = re.fullmatch(rf"({ID_PREFIX})([0-9]+)({ID_SUFFIX})", shortest)
    if lone is None:
        raise DataError(
            f"{name} has ids such as {shortest[:60]!r}; expected the number of an image, alone or as in 00001.png, img-1 or "
            "test/1.jpg; write the CSV of predictions with such ids, and put the others in their place by a script"
        )
    width = len(lone[2])
    # Numbers of one width are padded with zeros only if one of them starts with a zero.
    padded = width > 1 and any(image.removeprefix(lone[1]).startswith("0") for image, _ in rows[1:])
    form = f"{lone[1]}{'0' * (width if padded else 1)}{lone[3]}"
    try:
        found = Rules.model_validate({**rules.model_dump(), "submission": ",".join(rows[0]), "labels": kinds[0], "ids": form})
    except ValidationError:
        raise DataError(f"{name} has the header {','.join(rows[0])!r}; expected two names such as Id,Category") from None
    if odd := [image for image, _ in rows[1:] if found.id_number(image) is None]:
        raise DataError(
            f"{name} has the ids {shortest[:60]!r} and {odd[0][:60]!r}; expected all of one form, such as {found.id_text(1)}"
        )
    return found, [number for image, _ in rows[1:] if (number := found.id_number(image)) is not None]


def read_bytes(path: Path) -> bytes:
    """The content of a CSV. Raises DataError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; expected a submission CSV") from None

"""Two submission CSVs side by side, and what one alone gives away by the balance and the order of its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cifar_small.config.schema import Config, Data, Rules
from cifar_small.config.schema.data import LabelKind
from cifar_small.data import class_names
from cifar_small.errors import DataError
from cifar_small.metrics.classification import wilson_interval
from cifar_small.metrics.significance import balance_test, mcnemar, paired_difference, runs_test
from cifar_small.reporting.tables import Table
from cifar_small.submission.csv_form import read_bytes, recorded_form, rules_of_rows
from cifar_small.submission.submission_file import read_csv
from cifar_small.wording import differing_classes, plural

ALPHA = 0.001  # a warning may come by chance once in a thousand good files
MOST_CHANGES = 5
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What a CSV says: ids and class indices (N,) of its valid rows, in the file's order, and the faults of the others."""

    name: str
    ids: Integers
    labels: Integers
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Diff:
    """Two submissions joined by id: `ids`, `first` and `second` (M,) are of the images both name, in the first's order."""

    names: tuple[str, str]
    ids: Integers
    first: Integers
    second: Integers
    only_first: Integers  # ids
    only_second: Integers
    same_order: bool

    @property
    def differs(self) -> npt.NDArray[np.bool_]:
        """Which of the common images they answer differently, (M,)."""
        return np.asarray(self.first != self.second, np.bool_)

    @property
    def agreement(self) -> float:
        """Share of common images with the same answer."""
        return float(1 - self.differs.mean())


def read_submissions(paths: Sequence[Path], config: Config | None) -> tuple[list[Answers], tuple[str, ...], bool]:
    """Read CSVs by a config, else by what the records beside them say, else by the classes of CIFAR-10.

    One without a record is read as the others. Returns the answers, the names of the classes, and whether anything but CIFAR-10
    by default said them. Raises DataError where records name different classes.
    """
    if config is not None:
        classes, rules = class_names(config.data), config.rules
        return [read_submission(path, classes, rules) for path in paths], classes, True
    forms = {path: form for path in paths if (form := recorded_form(path)) is not None}
    if not forms:
        classes = class_names(Data())
        return [read_submission(path, classes) for path in paths], classes, False
    (first, form), *others = forms.items()
    for path, other in others:
        if other.classes != form.classes:
            raise DataError(
                f"{first} and {path} have {differing_classes(form.classes, other.classes)}, as the records beside them say; "
                "expected two answers to one file"
            )
    return [read_submission(path, form.classes, forms.get(path, form).rules) for path in paths], form.classes, True


def read_submission(path: Path, classes: Sequence[str], rules: Rules | None = None) -> Answers:
    """Read a CSV: header, ids and labels as `submit` writes them, also by a sample, of any number.

    rules: hold for a CSV with their header. Rows that cannot be read are left out and named among the faults.
    Raises DataError when none is left.
    """
    content = read_bytes(path)
    lines = content.decode("utf-8-sig", "replace").replace('"', "").splitlines()
    header = lines[0] if lines else ""
    if rules is None or header != rules.submission:
        rules = _rules_of(content, header, lines, classes, rules or Rules(), str(path))
    cells = (line.partition(",")[0] for line in lines[1:])
    known = dict.fromkeys(number for cell in cells if (number := rules.id_number(cell)) is not None)
    answers, faults = read_csv(content, np.array(list(known), np.int64), classes, rules)
    if not answers:
        named = f"{', '.join(classes[:3])}{', ...' * (len(classes) > 3)}"
        raise DataError(
            f"{path} has no row with an id and a class: {'; '.join(faults)}; expected ID,Labels or id,label and one of the "
            f"{len(classes)} classes {named}, or the config of its competition"
        )
    return Answers(str(path), np.array(list(answers)), np.array(list(answers.values())), tuple(faults))


def _rules_of(content: bytes, header: str, lines: Sequence[str], classes: Sequence[str], rules: Rules, name: str) -> Rules:
    """What a CSV is read by: its own header, ids and labels, where they are of one form, else the competition's."""
    if header not in ("ID,Labels", "id,label") or not all(line.partition(",")[0].isdecimal() for line in lines[1:2]):
        try:
            return rules_of_rows(content, classes, rules, name)[0]
        except DataError:  # faults of single rows are named below
            pass
    image, _, label = lines[1].partition(",") if len(lines) > 1 else ("", "", "")
    ids = rules.ids if rules.id_number(image) is not None else "0"
    in_words = header != "ID,Labels" and label and not label.strip().isdecimal()
    submission = "id,label" if header == "id,label" or in_words else "ID,Labels"
    # Numbers may stand under id,label, and names under ID,Labels: most rows have the word; where numbers are names, the header.
    cells = [line.partition(",")[2].strip() for line in lines[1:]]
    numbers = sum(cell.isdecimal() and cell not in classes for cell in cells)
    names = sum(cell in classes and not cell.isdecimal() for cell in cells)
    labels: LabelKind | None = "numbers" if numbers > names else "names" if names > numbers else None
    return Rules(submission=submission, labels=labels, ids=ids)


def diff(first: Answers, second: Answers) -> Diff:
    """Join two submissions by id. Raises DataError when they have no id in common."""
    answers = dict(zip(second.ids.tolist(), second.labels.tolist(), strict=True))
    both = np.isin(first.ids, second.ids)
    if not both.any():
        raise DataError(
            f"{first.name} has ids {first.ids.min()}..{first.ids.max()}, {second.name} {second.ids.min()}..{second.ids.max()}: "
            "none in common; expected two answers to one file"
        )
    ids = first.ids[both]
    others = np.array([answers[image] for image in ids.tolist()])
    return Diff(
        (first.name, second.name),
        ids,
        first.labels[both],
        others,
        first.ids[~both],
        second.ids[~np.isin(second.ids, first.ids)],
        np.array_equal(ids, second.ids[np.isin(second.ids, first.ids)]),
    )


def summarize(found: Diff) -> list[str]:
    """How far two submissions agree, in sentences."""
    count, total = int(found.differs.sum()), len(found.ids)
    lines = [
        f"the same answer for {total - count:,} of {total:,} images ({found.agreement:.2%}); "
        f"their accuracies differ by {100 * count / total:.2f} points at most"
    ]
    for name, ids in zip(found.names, (found.only_first, found.only_second), strict=True):
        if len(ids):
            lines.append(f"{plural(len(ids), 'id')} in {name} alone, first {ids[:5].tolist()}: left out")
    if not found.same_order:
        lines.append("their rows stand in different orders; they are joined by id")
    return lines


def class_table(found: Diff, classes: Sequence[str]) -> Table:
    """A row per class: how often each submission says it, both do, and the share of both among either; then what changes."""
    counts = [np.bincount(labels, minlength=len(classes)) for labels in (found.first, found.second)]
    both = np.bincount(found.first[~found.differs], minlength=len(classes))
    rows = []
    for index, name in enumerate(classes):
        one, other, common = int(counts[0][index]), int(counts[1][index]), int(both[index])
        either = one + other - common
        rows.append((name, f"{one:,}", f"{other:,}", f"{common:,}", f"{100 * common / either:.1f}" if either else ""))
    changes = Counter(zip(found.first[found.differs].tolist(), found.second[found.differs].tolist(), strict=True))
    listed = (f"{classes[one]} -> {classes[other]} {count:,}" for (one, other), count in changes.most_common(MOST_CHANGES))
    notes = (f"most frequent changes from A to B: {', '.join(listed)}",) if changes else ()
    title = f"A: {found.names[0]}, B: {found.names[1]}"
    return Table(title, ("class", "A", "B", "both", "both of either %"), tuple(rows), notes, "diff")


def differing_rows(found: Diff, classes: Sequence[str]) -> list[tuple[str, str, str]]:
    """Id and both answers of each image they answer differently, in the first's order."""
    places = np.flatnonzero(found.differs)
    return [(str(found.ids[at]), classes[found.first[at]], classes[found.second[at]]) for at in places]


def score_against(found: Diff, truth: Answers) -> list[str]:
    """Both accuracies on the images whose class a third CSV names, and whether one is better. Raises DataError for none."""
    known = dict(zip(truth.ids.tolist(), truth.labels.tolist(), strict=True))
    labels = np.array([known.get(image, -1) for image in found.ids.tolist()])
    there = labels >= 0
    if not there.any():
        raise DataError(f"{truth.name} names none of the ids of {found.names[0]}; expected the classes of the same file")
    correct = [(answers == labels)[there] for answers in (found.first, found.second)]
    total = int(there.sum())
    lines = []
    for name, right in zip(found.names, correct, strict=True):
        low, high = wilson_interval(int(right.sum()), total)
        lines.append(f"{name}: {right.mean():.2%} of {total:,} right, 95 % interval {low:.2%} to {high:.2%}")
    only_first, only_second, p = mcnemar(*correct)
    estimate, low, high = (100 * value for value in paired_difference(*correct))
    lines.append(
        f"B minus A: {estimate:+.2f} points [{low:+.2f}, {high:+.2f}]; {only_second:,} right in B alone, "
        f"{only_first:,} in A alone; exact McNemar p {p:.3g}"
    )
    if total < len(found.ids):
        lines.append(f"{truth.name} does not name {len(found.ids) - total:,} of the images; they are left out")
    return lines


def warnings_of(submission: Answers, classes: Sequence[str]) -> list[str]:
    """What is unlikely of an honest answer to a balanced, shuffled test file: its class counts, the order of its labels."""
    lines = []
    counts = np.bincount(submission.labels, minlength=len(classes))
    balance = balance_test(counts)
    if balance is not None and balance[1] < ALPHA:
        most, least = int(counts.argmax()), int(counts.argmin())
        lines.append(
            f"{submission.name}: from {counts[least]:,} ({classes[least]}) to {counts[most]:,} ({classes[most]}) a class, "
            f"unlikely if the file holds as many of each (chi-square {balance[0]:,.1f}, p {_small(balance[1])}): the file is "
            "not balanced, or the model leans to some classes"
        )
    order = runs_test(submission.labels)
    if order is not None and order.p < ALPHA:
        length, label = _longest_run(submission.labels)
        lines.append(
            f"{submission.name}: rows of one class stand together, {order.runs:,} runs where a random order has "
            f"{order.expected:,.0f} ± {order.sd:,.0f} (runs test, p {_small(order.p)}), the longest {length:,} of "
            f"{classes[label]}: the order of the file gives labels away; accuracy gained from the order does not carry over to "
            "new images"
        )
    return lines


def _longest_run(labels: Integers) -> tuple[int, int]:
    """Length and class of the longest run of one class."""
    starts = np.concatenate([[0], 1 + np.flatnonzero(labels[1:] != labels[:-1])])
    lengths = np.diff(np.append(starts, len(labels)))
    return int(lengths.max()), int(labels[starts[lengths.argmax()]])


def _small(p: float) -> str:
    return f"{p:.1g}" if p > 0 else "<1e-300"

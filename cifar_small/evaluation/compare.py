"""Models side by side: which is better, by how much, is it more than chance, and is the comparison fair?

Two questions are kept apart. Of two trained nets on the same images: exact McNemar's test and the interval of the paired
difference. Of two recipes, each trained with several seeds: the difference of means over seeds, paired where both have
the same ones.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from cifar_small.config.schema import Rules
from cifar_small.errors import DataError, UserError
from cifar_small.evaluation.entries import DECISIVE, SPLITS, Entry, EntryRow, collect_rows, predict_command
from cifar_small.evaluation.settings import differing_settings
from cifar_small.metrics.significance import holm, mcnemar, paired_difference, seed_difference
from cifar_small.runs.predictions import Predictions
from cifar_small.runs.records import NetFacts


@dataclass(frozen=True)
class PairTest:
    """Two entries on the same images; differences are the second minus the first, as shares."""

    first: str
    second: str
    only_first: int  # images that the first alone gets right
    only_second: int
    difference: float
    low: float  # of the 95 % interval
    high: float
    p: float  # exact McNemar, two-sided
    p_holm: float  # corrected for all pairs of the comparison


@dataclass(frozen=True)
class SeedSpread:
    """Accuracy over seeds, as shares; sd with n - 1."""

    n: int
    mean: float
    sd: float


@dataclass(frozen=True)
class Group:
    """The seeds of one recipe; a split's spread is there when every seed has its predictions, of the same images."""

    name: str
    rows: tuple[EntryRow, ...]  # at least two, a seed each
    spreads: dict[str, SeedSpread]  # by split


@dataclass(frozen=True)
class GroupTest:
    """Two recipes over their seeds; differences of means are the second minus the first, as shares."""

    first: str
    second: str
    seeds: tuple[int, ...]  # of both recipes, that the test is paired over; empty: Welch's test, as they have others
    difference: float
    low: float  # of the 95 % interval by Student's t
    high: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """Everything that a table, a file or a page says of the entries."""

    split: str  # that the tests are of
    rows: tuple[EntryRow, ...]
    pairs: tuple[PairTest, ...]
    groups: tuple[Group, ...]
    group_tests: tuple[GroupTest, ...]
    ensembles: tuple[PairTest, ...]  # each ensemble, as the second, and the best of its members, where all of them are there
    unlike: tuple[str, ...]  # aspects in which the entries differ, so that they are not comparable
    settings: tuple[tuple[str, str, str], ...]  # of their configs, where these differ: each setting, a value and who has it
    refused: tuple[str, ...]  # tests that were not made, and why
    missing: tuple[str, ...]  # predictions that are not there, and what makes them


def compare(
    entries: Sequence[Entry],
    split: str = "val",
    *,
    all_pairs: bool = False,
    all_recipes: bool = False,
    rules: Rules | None = None,
    estimates: Mapping[str, tuple[float, float, float]] | None = None,
) -> Comparison:
    """Compare entries; each is tested against the first on the images of `split`, or with `all_pairs` each against each.

    all_recipes: of recipes with several seeds, test each against each. rules: those that all entries are judged by; None: each
    by its own. estimates: of accuracy on a file without labels, with low and high, by maker. Reads nothing: what an entry has
    no predictions for is named in `missing`. Raises UserError for a repeated name.
    """
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two entries are called {twice[0]}; give one another name with NAME=PATH")
    rows = collect_rows(entries, rules)
    if estimates:
        rows = [replace(row, estimate=estimates.get(entry.meta.maker)) for row, entry in zip(rows, entries, strict=True)]
        if all(row.estimate is None for row in rows):
            raise UserError("the estimate is of none of these entries with these views; estimate them, or drop it")
    refused: list[str] = []
    pairs = []
    for one, other in combinations(range(len(entries)), 2):
        if one and not all_pairs:
            break
        if reason := _obstacle(rows[one], rows[other], split):
            refused.append(f"{rows[one].name} and {rows[other].name}: no paired test, {reason}")
        else:
            pairs.append(_pair_test(entries[one], entries[other], split))
    groups = _groups(rows, refused)
    return Comparison(
        split,
        tuple(rows),
        tuple(_corrected(pairs)),
        tuple(groups),
        tuple(_group_tests(groups, split, all_pairs or all_recipes, refused)),
        tuple(_ensemble_tests(entries, split, refused)),
        tuple(_unlike(rows)),
        tuple(
            (key, value, names)
            for key, by_name in differing_settings(entries).items()
            for value, names in _who(_having(by_name.items()))
        ),
        tuple(refused),
        tuple(_missing(entries, split)),
    )


def _obstacle(first: EntryRow, second: EntryRow, split: str) -> str:
    """Why two entries cannot be tested image by image; empty where they can."""
    for row in (first, second):
        if split not in row.scores:
            return f"{row.name} has no {split} predictions"
    one, other = first.scores[split], second.scores[split]
    if one.images_sha256 != other.images_sha256:
        sizes = "" if one.total == other.total else f" ({one.total:,} and {other.total:,})"
        return f"their {split} images differ{sizes}"
    return ""


def _pair_test(first: Entry, second: Entry, split: str) -> PairTest:
    one, other = first.predictions[split], second.predictions[split]
    assert one.labels is not None
    assert other.labels is not None
    if not (np.array_equal(one.ids, other.ids) and np.array_equal(one.labels, other.labels)):
        raise DataError(
            f"{first.name} and {second.name} name the same {split} images but not the same ids and labels: "
            "a file is damaged; predict again"
        )
    only_first, only_second, p = mcnemar(one.correct, other.correct)
    return PairTest(first.name, second.name, only_first, only_second, *paired_difference(one.correct, other.correct), p, p)


def _corrected(pairs: Sequence[PairTest]) -> list[PairTest]:
    """The tests with Holm's p values, of all of them together."""
    return [replace(pair, p_holm=p) for pair, p in zip(pairs, holm([pair.p for pair in pairs]), strict=True)]


def _ensemble_tests(entries: Sequence[Entry], split: str, refused: list[str]) -> list[PairTest]:
    """Each ensemble against the member that is right most often on these very images, where all its members are entries.

    Those that it was offered and left out count as members here: it might have been better to take one of them alone.
    """
    tests = []
    for entry in entries:
        if not entry.is_ensemble or split not in entry.predictions:
            continue
        offered = [*entry.parts, *entry.meta.left_out]
        found = [
            [candidate for candidate in entries if _is_member(candidate, part, entry.predictions[split], split)]
            for part in offered
        ]
        if absent := [part.label() for part, members in zip(offered, found, strict=True) if not members]:
            refused.append(
                f"{entry.name}: not tested against its best member, as {', '.join(absent)} is no entry with its {split}"
            )
        else:
            best = max((members[0] for members in found), key=lambda candidate: int(candidate.predictions[split].correct.sum()))
            tests.append(_pair_test(best, entry, split))
    return _corrected(tests)


def _is_member(entry: Entry, part: NetFacts, whole: Predictions, split: str) -> bool:
    """Is an entry this part of an ensemble, and of the same images?"""
    return (
        entry.meta.maker == part.maker
        and split in entry.predictions
        and entry.predictions[split].meta.images_sha256 == whole.meta.images_sha256
    )


def _groups(rows: Sequence[EntryRow], refused: list[str]) -> list[Group]:
    """Recipes of which at least two seeds are there, in the order of their first rows."""
    found: dict[str, dict[int, EntryRow]] = {}
    for row in rows:
        if row.recipe is None or row.seed is None:
            continue
        seeds = found.setdefault(row.recipe, {})
        if row.seed in seeds:
            refused.append(f"{row.name} is seed {row.seed} of the recipe of {seeds[row.seed].name} again: left out of its mean")
        else:
            seeds[row.seed] = row
    groups = [tuple(seeds.values()) for seeds in found.values() if len(seeds) > 1]
    # Recipes of one name, or with the name of another entry, are told apart by the run that stands first.
    taken = Counter([*(members[0].title for members in groups), *(row.name for row in rows)])

    def name_of(first: EntryRow) -> str:
        return first.title if taken[first.title] == 1 else f"{first.title} ({first.name}, ...)"

    return [Group(name_of(members[0]), members, _spreads(members)) for members in groups]


def _spreads(rows: Sequence[EntryRow]) -> dict[str, SeedSpread]:
    spreads = {}
    for split in SPLITS:
        scores = [row.scores[split] for row in rows if split in row.scores]
        if len(scores) == len(rows) and len({score.images_sha256 for score in scores}) == 1:
            accuracies = [score.accuracy for score in scores]
            spreads[split] = SeedSpread(len(rows), statistics.mean(accuracies), statistics.stdev(accuracies))
    return spreads


def _group_tests(groups: Sequence[Group], split: str, all_pairs: bool, refused: list[str]) -> list[GroupTest]:
    tests = []
    for one, other in combinations(groups, 2):
        if not all_pairs and one is not groups[0]:
            continue
        found = _group_test(one, other, split)
        if isinstance(found, GroupTest):
            tests.append(found)
        else:
            refused.append(f"{one.name} and {other.name} over seeds: no test, {found}")
    return [replace(test, p_holm=p) for test, p in zip(tests, holm([test.p for test in tests]), strict=True)]


def _group_test(one: Group, other: Group, split: str) -> GroupTest | str:
    """The test of two recipes, or why there is none."""
    if split not in one.spreads or split not in other.spreads:
        return f"not every seed has predictions of the same {split} images"
    if one.rows[0].scores[split].images_sha256 != other.rows[0].scores[split].images_sha256:
        return f"their {split} images differ"
    own, others = ({row.seed or 0: row.scores[split].accuracy for row in group.rows} for group in (one, other))
    # Only where all seeds are the same: pairs of some of them would leave the other seeds out of difference and power.
    shared = tuple(own) if own.keys() == others.keys() else ()
    first, second = ([scores[seed] for seed in shared or scores] for scores in (own, others))
    found = seed_difference(first, second, paired=bool(shared))
    if found is None:
        return "the difference does not vary from seed to seed, so nothing is known of its spread"
    return GroupTest(one.name, other.name, shared, *found, found.p)


def seeds_of_recipes(comparison: Comparison) -> list[tuple[str, list[float]]]:
    """Each recipe in the order of its first entry, with the accuracies in % of its seeds on the comparison's split."""
    groups = {row.name: group for group in comparison.groups for row in group.rows}
    found: dict[str, list[float]] = {}
    for row in comparison.rows:
        if comparison.split in row.scores:
            name = groups[row.name].name if row.name in groups else row.name
            found.setdefault(name, []).append(100 * row.scores[comparison.split].accuracy)
    return list(found.items())


def _unlike(rows: Sequence[EntryRow]) -> list[str]:
    """What differs between the entries beside what is measured, each with who has what."""
    aspects: list[tuple[str, Callable[[EntryRow], str]]] = [
        ("training images", lambda row: f"{row.data} {row.train_sha256[:8]}".strip()),
        ("val images", lambda row: _images(row, "val")),
        ("test images", lambda row: _images(row, "test")),
        ("starting weights and teachers", lambda row: ", ".join(row.lineage) or "from scratch"),
        ("parameter budgets", lambda row: f"{row.budget:,}"),
        ("rules", lambda row: "broken: " + ", ".join(row.faults) if row.faults else "kept"),
        ("views", lambda row: row.views),
        ("members", lambda row: str(row.members)),
        ("epochs", lambda row: epochs_text(row.epochs)),
        ("selection", lambda row: row.selection),
        ("hardware that minutes were measured on", lambda row: row.hardware),
        *((f"version of {name} in training", lambda row, name=name: row.versions.get(name, "")) for name in DECISIVE),
    ]
    lines = []
    for aspect, value_of in aspects:
        having = _having((row.name, value) for row in rows if (value := value_of(row)))
        if len(having) > 1:
            lines.append(f"{aspect}: {'; '.join(f'{value} ({names})' for value, names in _who(having))}")
    lines += [f"{row.name} was {row.extended}, which bent its schedule" for row in rows if row.extended]
    lines += [f"{row.name} {row.ended_early}" for row in rows if row.ended_early]
    for row in rows:
        if row.val_chose:
            lines.append(f"val chose {row.val_chose} for {row.name}, so its figures on val are optimistic; compare on test")
        if row.test_readings is not None and row.test_readings > 1 and "test" in row.scores:
            before = f", {row.readings_before} of them in the runs that it was made of" if row.readings_before else ""
            lines.append(
                f"test was evaluated {row.test_readings} times for {row.name}{before}; "
                "if it guided any choice, this accuracy is optimistic"
            )
    return lines


def _having(values: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names of the entries by their value."""
    having: dict[str, list[str]] = {}
    for name, value in values:
        having.setdefault(value, []).append(name)
    return having


def _who(having: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Each value with the entries that have it; where most have one, they are the others."""
    most = max(having, key=lambda value: len(having[value]))
    usual = most if len(having[most]) > 3 else None
    return [(value, "the others" if value == usual else ", ".join(names)) for value, names in having.items()]


def _images(row: EntryRow, split: str) -> str:
    score = row.scores.get(split)
    return f"{score.total:,} images {score.images_sha256[:8]}" if score else ""


def epochs_text(epochs: Sequence[float]) -> str:
    """Epochs of each member: `10`, `3 x 10` or `10 + 20`; empty where unknown."""
    if len(epochs) > 1 and len(set(epochs)) == 1:
        return f"{len(epochs)} x {epochs[0]:g}"
    return " + ".join(f"{epoch:g}" for epoch in epochs)


def _missing(entries: Sequence[Entry], asked: str) -> list[str]:
    """What an entry lacks of the split that was asked for, or that another has: a look at val sends nobody to read test."""
    lines = []
    wanted = [split for split in SPLITS if split == asked or any(split in entry.predictions for entry in entries)]
    for entry in entries:
        for split in wanted:
            if split in entry.predictions:
                continue
            how = f"give the file of its {split} predictions too"
            if entry.run is not None:
                how = predict_command(entry.run, split, entry.meta)
            lines.append(f"{entry.name} has no {split} predictions: {how}")
    return lines

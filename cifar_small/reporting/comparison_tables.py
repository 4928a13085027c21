"""A comparison as tables for readers, and as one CSV for programs."""

from __future__ import annotations

from collections.abc import Sequence

from cifar_small.evaluation.compare import Comparison, Group, GroupTest, PairTest, epochs_text
from cifar_small.evaluation.entries import SPLITS, EntryRow, Score
from cifar_small.files import to_csv
from cifar_small.reporting.tables import Table
from cifar_small.runs.predictions import TIMED

TESTED = ("difference", "right alone", "p", "Holm")
PREDICT = "predict"
PREDICT_NOTE = (
    f"{PREDICT}: minutes that 10,000 images take with these views, on the machine that predicted them; empty where it "
    f"predicted fewer than {TIMED:,}"
)


def comparison_tables(comparison: Comparison) -> list[Table]:
    """What the entries are, how good they are, and their pairs and recipes where there are any."""
    tables = [entries_table(comparison), scores_table(comparison)]
    if comparison.settings:
        tables.append(settings_table(comparison))
    if any(pair.first != comparison.rows[0].name for pair in comparison.pairs):  # else they stand in the table above
        tables.append(_pairs_table(comparison))
    if any(row.estimate for row in comparison.rows):
        tables.append(estimates_table(comparison))
    if comparison.groups:
        tables.append(groups_table(comparison))
    if any(test.first != comparison.rows[0].name for test in comparison.ensembles):  # else they stand in the table above
        tables.append(ensembles_table(comparison))
    return tables


def entries_table(comparison: Comparison) -> Table:
    """A row per entry: size, budget, start, data, views, members, cost."""
    machines = list(dict.fromkeys(row.hardware for row in comparison.rows if row.hardware))
    letters = {machine: chr(ord("a") + number) for number, machine in enumerate(machines)}
    header = ["entry", "parameters", "MACs", "budget", "legal", "start", "data", "views", "members", "epochs", "minutes"]
    rows = [_entry_cells(row, letters) for row in comparison.rows]
    for title, column in cost_columns(comparison.rows).items():
        header.append(title)
        rows = [(*row, cell) for row, cell in zip(rows, column, strict=True)]
    notes = ["MACs: multiply-adds of one image and one view, at the size the net is given; of an ensemble the sum"]
    notes += [f"minutes {letter}: {machine}" for machine, letter in letters.items()]
    if grown := [row.name for row in comparison.rows if row.minutes is not None and row.lineage]:
        notes.append(
            f"minutes of {', '.join(grown)}: of that training alone, without the minutes and the labels of the weights it "
            "started from or learned from"
        )
    notes += [f"not comparable: {line}" for line in comparison.unlike]
    if PREDICT in header:
        notes.append(PREDICT_NOTE)
    return Table("What is compared", tuple(header), tuple(rows), tuple(notes), "entries")


def cost_columns(rows: Sequence[EntryRow]) -> dict[str, list[str]]:
    """What the use of each entry costs, by title; without columns that no entry has a value for."""
    columns = {
        PREDICT: ["" if row.predict_minutes is None else f"{row.predict_minutes:.2f}" for row in rows],
        "int8 MB": ["" if row.int8_bytes is None else f"{row.int8_bytes / 1e6:.2f}" for row in rows],
    }
    return {title: column for title, column in columns.items() if any(column)}


def settings_table(comparison: Comparison) -> Table:
    """A row for each value of a setting in which the entries differ, with those that have it."""
    notes = ("settings in force, phase by phase where they change; settings that only one kind of section has are left out",)
    return Table("Settings that differ", ("setting", "value", "entries"), comparison.settings, notes, "settings")


def _entry_cells(row: EntryRow, letters: dict[str, str]) -> tuple[str, ...]:
    minutes = "" if row.minutes is None else f"{row.minutes:.1f}" + (f" {letters[row.hardware]}" if row.hardware else "")
    return (
        row.name,
        f"{row.parameters:,}",
        "" if row.macs is None else f"{row.macs / 1e6:,.0f}M",
        f"{row.budget:,}",
        row.legal_text,
        row.start,
        row.data,
        row.views,
        str(row.members),
        epochs_text(row.epochs),
        minutes,
    )


def scores_table(comparison: Comparison) -> Table:
    """A row per entry: accuracy of each split with its interval, and the test against the first entry."""
    first = comparison.rows[0].name
    tests = {pair.second: pair for pair in comparison.pairs if pair.first == first}
    splits = [split for split in SPLITS if any(split in row.scores for row in comparison.rows)]
    tested = _tested_columns(TESTED, len(comparison.pairs) if tests else 0)
    rows = []
    for row in comparison.rows:
        scores = [score_text(row.scores.get(split)) for split in splits]
        rows.append((row.name, *scores, *_test_cells(tests.get(row.name), len(tested))))
    notes = ["accuracy in % with Wilson's 95 % interval"]
    if any("val" in row.scores and "best" in row.selection for row in comparison.rows):
        notes.append(
            "val chose the epoch of entries whose selection is best, so that their figures on val are slightly optimistic"
        )
    if tests:
        notes.append(
            f"difference: points above {first} on the same {comparison.split} images, with its 95 % interval; "
            f"right alone: images that only the entry / only {first} gets right; p: exact McNemar, two-sided"
        )
        if "Holm" in tested:
            notes[-1] += "; Holm: p corrected for all tests"
    notes += comparison.refused
    return Table(
        "How good they are", ("entry", *(f"{split} %" for split in splits), *tested), tuple(rows), tuple(notes), "scores"
    )


def _tested_columns(columns: tuple[str, ...], tests: int) -> tuple[str, ...]:
    """The columns of a test: none without tests, and of a single test no corrected p."""
    if not tests:
        return ()
    return columns[:-1] if tests == 1 else columns


def _test_cells(test: PairTest | None, count: int) -> tuple[str, ...]:
    if test is None:
        return ("",) * count
    alone = f"{test.only_second} / {test.only_first}"
    return (_difference(test), alone, p_text(test.p), p_text(test.p_holm))[:count]


def _pairs_table(comparison: Comparison) -> Table:
    rows = [(f"{pair.second} - {pair.first}", *_test_cells(pair, 4)) for pair in comparison.pairs]
    notes = (
        f"difference: points of the one above the other on the same {comparison.split} images, with its 95 % interval; "
        "right alone: images that only the one / only the other gets right; p: exact McNemar, two-sided; "
        "Holm: p corrected for all pairs",
    )
    return Table("Every pair", ("pair", *TESTED), tuple(rows), notes, "pairs")


def ensembles_table(comparison: Comparison) -> Table:
    """A row per ensemble: what it costs, and what it gains over the best of its members."""
    rows = {row.name: row for row in comparison.rows}
    cells = []
    for test in comparison.ensembles:
        row = rows[test.second]
        score = score_text(row.scores[comparison.split])
        cells.append((test.second, str(row.members), f"{row.parameters:,}", score, test.first, *_test_cells(test, 4)))
    notes = (
        f"difference: points above its best member, the one that is right most often on these {comparison.split} images; "
        "right alone: images that only the ensemble / only that member gets right; p: exact McNemar, two-sided; "
        "Holm: p corrected for all ensembles",
    )
    header = ("ensemble", "members", "parameters", f"{comparison.split} %", "best member", *TESTED)
    return Table("Ensembles against their best members", header, tuple(cells), notes, "ensembles")


def estimates_table(comparison: Comparison) -> Table:
    """A row per entry: val and test beside what it is expected to score on a file without labels."""
    splits = [split for split in SPLITS if any(split in row.scores for row in comparison.rows)]
    cells = []
    for row in comparison.rows:
        estimate, low, high = (f"{100 * value:.1f}" for value in row.estimate or (0.0, 0.0, 0.0))
        found = f"{estimate} [{low}, {high}]" if row.estimate else ""
        cells.append((row.name, *(score_text(row.scores.get(split)) for split in splits), found))
    notes = (
        "estimate: expected accuracy on the file without labels, with an interval for that of any such file, not for chance; "
        "whoever chooses by it has looked at the file",
    )
    header = ("entry", *(f"{split} %" for split in splits), "estimate %")
    return Table("Expected on the file without labels", header, tuple(cells), notes, "estimates")


def groups_table(comparison: Comparison) -> Table:
    """A row per recipe: its seeds, mean and sd, and the tests of recipes."""
    splits = [split for split in SPLITS if any(split in group.spreads for group in comparison.groups)]
    tests = comparison.group_tests
    first = comparison.groups[0].name
    against = {test.second: test for test in tests if test.first == first}
    tested = _tested_columns(("difference", "by", "p", "Holm"), len(tests))
    rows = [_group_cells(group, splits, against.get(group.name), len(tested)) for group in comparison.groups]
    others = [test for test in tests if test.first != first]
    rows += [
        (f"{test.second} - {test.first}", "", *("" for _ in splits), *_group_test_cells(test)[: len(tested)]) for test in others
    ]
    notes = ["accuracy in %, mean and sd (n - 1) over the seeds"]
    if tests:
        holm = "Holm: p corrected for all of them; " if "Holm" in tested else ""
        notes.append(
            f"difference: points above {first}{', or of the first named above the second,' if others else ''} on "
            f"{comparison.split}, with its 95 % interval by Student's t: "
            "of the differences seed by seed where both have the same seeds, else Welch's; "
            f"{holm}it is about recipes, McNemar's test about trained nets"
        )
    return Table(
        "Recipes over seeds",
        ("recipe", "seeds", *(f"{split} %" for split in splits), *tested),
        tuple(rows),
        tuple(notes),
        "recipes",
    )


def _group_cells(group: Group, splits: Sequence[str], test: GroupTest | None, count: int) -> tuple[str, ...]:
    spreads = [group.spreads.get(split) for split in splits]
    texts = ["" if one is None else f"{100 * one.mean:.2f} ± {100 * one.sd:.2f}" for one in spreads]
    seeds = f"{len(group.rows)} ({', '.join(str(row.seed) for row in group.rows)})"
    return (group.name, seeds, *texts, *(_group_test_cells(test)[:count] if test else ("",) * count))


def _group_test_cells(test: GroupTest) -> tuple[str, ...]:
    by = f"{len(test.seeds)} shared seeds" if test.seeds else "Welch"
    return _difference(test), by, p_text(test.p), p_text(test.p_holm)


def score_text(score: Score | None) -> str:
    """Accuracy in % with its interval, empty for none."""
    if score is None:
        return ""
    low, high = score.interval
    return f"{100 * score.accuracy:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def _difference(test: PairTest | GroupTest) -> str:
    return f"{100 * test.difference:+.2f} [{100 * test.low:+.2f}, {100 * test.high:+.2f}]"


def p_text(p: float) -> str:
    """A p value as papers print it."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


COLUMNS = (
    "kind", "name", "against", "split", "parameters", "macs", "budget", "legal", "start", "data", "train_images", "views",
    "members", "seeds", "epochs", "minutes", "hardware", "predict_minutes", "int8_bytes", "test_readings", "val", "val_low",
    "val_high", "val_sd", "val_images", "test", "test_low", "test_high", "test_sd", "test_images", "difference",
    "difference_low", "difference_high", "only_name", "only_against", "test_kind", "p", "p_holm", "estimate", "estimate_low",
    "estimate_high",
)  # fmt: skip


def comparison_csv(comparison: Comparison) -> str:
    """One CSV of all: `kind` is entry, pair, ensemble, recipe or recipe_pair. Accuracies are shares; unknown is empty."""
    records = [
        *(_entry_record(row) for row in comparison.rows),
        *(_pair_record("pair", pair, comparison.split) for pair in comparison.pairs),
        *(_pair_record("ensemble", pair, comparison.split) for pair in comparison.ensembles),
        *(_group_record(group) for group in comparison.groups),
        *(_group_test_record(test, comparison.split) for test in comparison.group_tests),
    ]
    return to_csv(COLUMNS, ([record.get(column) for column in COLUMNS] for record in records))


def _entry_record(row: EntryRow) -> dict[str, object]:
    record: dict[str, object] = {
        "kind": "entry",
        "name": row.name,
        "parameters": row.parameters,
        "macs": row.macs,
        "budget": row.budget,
        "legal": "yes" if row.legal else "; ".join(row.faults),
        "start": "; ".join(row.lineage) or "scratch",
        "data": row.data,
        "train_images": row.train_images,
        "views": row.views,
        "members": row.members,
        "seeds": row.seed,
        "epochs": epochs_text(row.epochs),
        "minutes": None if row.minutes is None else round(row.minutes, 2),
        "hardware": row.hardware,
        "predict_minutes": None if row.predict_minutes is None else round(row.predict_minutes, 4),
        "int8_bytes": row.int8_bytes,
        "test_readings": row.test_readings,
    }
    if row.estimate:
        record |= dict(zip(("estimate", "estimate_low", "estimate_high"), row.estimate, strict=True))
    for split, score in row.scores.items():
        low, high = score.interval
        record |= {split: score.accuracy, f"{split}_low": low, f"{split}_high": high, f"{split}_images": score.total}
    return record


def _pair_record(kind: str, pair: PairTest, split: str) -> dict[str, object]:
    counts = {"only_name": pair.only_second, "only_against": pair.only_first, "test_kind": "exact McNemar"}
    return {"kind": kind, **_tested(pair, split), **counts}


def _group_record(group: Group) -> dict[str, object]:
    record: dict[str, object] = {"kind": "recipe", "name": group.name, "seeds": " ".join(str(row.seed) for row in group.rows)}
    for split, spread in group.spreads.items():
        record |= {split: spread.mean, f"{split}_sd": spread.sd}
    return record


def _group_test_record(test: GroupTest, split: str) -> dict[str, object]:
    kind = {"test_kind": "paired t" if test.seeds else "Welch t", "seeds": " ".join(str(seed) for seed in test.seeds)}
    return {"kind": "recipe_pair", **_tested(test, split), **kind}


def _tested(test: PairTest | GroupTest, split: str) -> dict[str, object]:
    return {
        "name": test.second,
        "against": test.first,
        "split": split,
        "difference": test.difference,
        "difference_low": test.low,
        "difference_high": test.high,
        "p": test.p,
        "p_holm": test.p_holm,
    }

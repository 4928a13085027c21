"""The results table: generated from the records under submissions/, never written by hand."""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cifar_small.errors import DataError, UserError
from cifar_small.figures.run import Progress, draw_accuracy_over_time
from cifar_small.figures.style import save
from cifar_small.metrics.classification import wilson_interval
from cifar_small.reporting.tables import Table, markdown_grid
from cifar_small.runs.directory import read_metrics
from cifar_small.runs.lineage import start_of, without_own
from cifar_small.runs.records import (
    RunRecord,
    SubmissionRecord,
    Summary,
    load_record,
    members_were_chosen,
    readings_of,
    recipe_of,
)

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
ONCE = "read once"
T = TypeVar("T")


@dataclass(frozen=True)
class _Recorded:
    """A run's record and the folder it lies in, as a link."""

    run: RunRecord
    place: str

    @property
    def summary(self) -> Summary:
        return self.run.summary


def render_results(folder: Path, recipes: Sequence[str] = (), links_from: Path | None = None) -> str:
    """A Markdown table with one row per recipe, seeds together, and the command of each below it.

    recipes: only these, in fewer columns and without commands. links_from: the folder of the file that shows the table
    (default: the one that holds `folder`).
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected the one that holds the records, such as submissions")
    groups: dict[str, list[_Recorded]] = defaultdict(list)
    without_run: list[str] = []
    recorded: list[tuple[RunRecord, str]] = []
    for path in sorted(folder.rglob("*.json")):
        record = load_record(path)
        if record is None:
            continue
        place = Path(os.path.relpath(path.parent, links_from or folder.parent)).as_posix()
        if record.run is None:
            assert isinstance(record, SubmissionRecord)
            made = record.predictions
            without_run.append(f"- {made.name}: {made.parameters:,} parameters, submission alone ([record]({place}))")
            continue
        if not record.run.sessions:
            raise DataError(f"{path} is not a record (no sessions); write it again with cifar-small record or submit")
        recorded.append((record.run, place))
    for run, place in _once_each(recorded):
        groups[recipe_of(run)].append(_Recorded(run, place))
    if not groups and not without_run:
        return f"No records under {folder.name}/ yet."
    header = ["recipe", "data", "parameters", "epochs", "seeds", "views", "val %", "test %", "minutes", "hardware"]
    ordered = sorted(groups.values(), key=lambda group: (group[0].summary.data.source, -_mean_val(group)))
    if recipes:
        if missing := sorted(set(recipes) - {group[0].summary.name for group in ordered}):
            raise DataError(f"no record under {folder} is of {missing[0]!r}; run: cifar-small results")
        named = [group for group in ordered if group[0].summary.name in recipes]
        return _short_table(header, sorted(named, key=lambda group: recipes.index(group[0].summary.name)))
    table = Table("", tuple(header), tuple(tuple(_row(group)) for group in ordered))
    commands = [_commands(group) for group in ordered] + without_run
    note = (
        "Rows are sorted by val within a data set; as val has few images, the order is no ranking. val: mean over seeds (n "
        "images in brackets); *best*: it chose the epoch, so it is slightly optimistic; *members chosen*: it chose whose "
        "weights are averaged, likewise; the others are of the last epoch. test: scored by an explicit command, and each "
        "scoring counted; one seed: with Wilson's 95 % interval, several: mean and sd. minutes: the training run with its "
        "evaluation and pictures, without the time to import Python's packages; the mean of each processor. Commands are "
        "those of the first seed as it was run; choose another output folder for yours. Each record holds its config.yaml."
    )
    return "\n".join([markdown_grid(table), "", note, "", *commands])


def _once_each(recorded: Iterable[tuple[RunRecord, T]]) -> list[tuple[RunRecord, T]]:
    """Of a run that is recorded more than once, the record with most readings of test, at the place of the first."""
    best: dict[str | None, tuple[RunRecord, T]] = {}
    for run, what in recorded:
        known = best.get(run.summary.weights_sha256)
        if known is None or len(run.test_readings) > len(known[0].test_readings):
            best[run.summary.weights_sha256] = run, what
    return list(best.values())


def _short_table(header: Sequence[str], groups: Sequence[Sequence[_Recorded]]) -> str:
    """Some recipes in the columns that matter most, in few words, each with a link to its first record."""
    rows = []
    for group in groups:
        row = dict(zip(header, _row(group), strict=True))
        sessions = [record.run.sessions[0] for record in group]
        devices = {session.hardware: session.device for session in sessions}.values()  # one for each figure of minutes
        processors = [device.replace("(R)", "").replace(" Processor", "") for device in devices]
        shown = [row["data"], row["parameters"], row["epochs"], str(len(group)), row["test %"].removesuffix(f" ({ONCE})")]
        rows.append((f"[{row['recipe']}]({group[0].place})", *shown, row["minutes"], "; ".join(processors)))
    return markdown_grid(
        Table("", ("recipe", "data", "parameters", "epochs", "n", "test %", "minutes", "processor"), tuple(rows))
    )


def _commands(group: Sequence[_Recorded]) -> str:
    """The commands of a recipe's first run, and the records of all."""
    run, places = group[0].run, [record.place for record in group]
    commands = [session.command for session in run.sessions]
    links = [f"[record]({places[0]})", *(f"[{index}]({place})" for index, place in enumerate(places[1:], 2))]
    shown = dict.fromkeys(command for command in commands if "--resume" not in command or run.extended) or commands[:1]
    return f"- `{run.summary.name}`: " + ", then ".join(f"`{command}`" for command in shown) + f" ({', '.join(links)})"


def _mean_val(group: Sequence[_Recorded]) -> float:
    return statistics.mean(record.summary.val_accuracy for record in group)


def _row(group: Sequence[_Recorded]) -> list[str]:
    run, summary = group[0].run, group[0].summary
    start = _start(summary)
    machines: dict[str, list[float]] = {}  # minutes of one are not those of another
    for record in group:
        hardware = " then ".join(dict.fromkeys(session.hardware for session in record.run.sessions))
        machines.setdefault(hardware, []).append(record.summary.seconds / 60)
    chosen = ", *best*" if summary.selection == "best" else ""
    if members_were_chosen(summary.soup):
        chosen = ", *members chosen*"
    return [
        summary.name + (", extended on the way" if run.extended else ""),
        summary.data.text + ("" if start == "scratch" else f", {start}"),
        f"{summary.parameters:,}",
        _epochs([record.summary for record in group]),
        f"{len(group)} ({', '.join(str(record.summary.seed) for record in group)})",
        summary.views,
        f"{100 * _mean_val(group):.2f} ({summary.val_images:,}{chosen})",
        _test([record.run for record in group]),
        "; ".join(f"{statistics.mean(minutes):.1f}" for minutes in machines.values()),
        "; ".join(machines),
    ]


def _epochs(seeds: Sequence[Summary]) -> str:
    """The epochs that seeds of a recipe were trained for: of some, patience ended it at one of its own."""
    lengths = sorted({summary.epochs_trained for summary in seeds})
    text = f"{lengths[0]:g}" if len(lengths) == 1 else f"{lengths[0]:g} to {lengths[-1]:g}"
    early = next((summary for summary in seeds if summary.ended_early), None)
    return text if early is None else f"{text} of {early.epochs_planned}, by patience"


def _test(runs: Sequence[RunRecord]) -> str:
    latest = [run.own_readings[-1] for run in runs if run.own_readings]
    times = max(run.times_read for run in runs)
    read = ONCE if times == 1 else f"read {times} times"
    if any(run.summary.readings_before is None for run in runs):
        read += ", and perhaps in the runs that it was made of"
    if not latest:
        alike = all(readings_of([reading], run.summary.weights_sha256) for run in runs for reading in run.test_readings)
        return f"{read} with other {'views' if alike else 'weights or forms'}" if times else "not read"
    if len(latest) < len(runs):
        return f"{len(latest)} of {len(runs)} seeds read"
    accuracies = [100 * reading.accuracy for reading in latest]
    if len(accuracies) > 1:
        return f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} sd ({read})"
    total = latest[0].images
    low, high = wilson_interval(round(latest[0].accuracy * total), total)
    return f"{accuracies[0]:.2f} [{100 * low:.2f}, {100 * high:.2f}] ({read})"


def _start(summary: Summary) -> str:
    """Where a net comes from, in a word or two; a run on its own images is no other place."""
    return start_of(without_own(summary.lineage, summary.ancestors, summary.data))


def replace_section(text: str, table: str, name: str) -> str:
    """The text with the part between the results markers replaced. Raises DataError when the markers are not there once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{name} needs the lines {BEGIN} and {END} once, in this order, to hold the table")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def draw_records(folder: Path, source: str, path: Path, recipes: Sequence[str] = ()) -> int:
    """Draw accuracy over time of the records of a data set trained on all its images; returns how many lines there are.

    The val of its first seed for each recipe, or for each of those named, and the last reading of test of each of its seeds.
    Raises DataError when one has no such record.
    """
    found: dict[str, list[tuple[RunRecord, Path]]] = defaultdict(list)  # by recipe
    recorded = []
    for record_file in sorted(folder.rglob("*.json")):
        record, metrics = load_record(record_file), record_file.with_name("metrics.csv")
        if record is not None and record.run is not None and metrics.exists():
            data = record.run.summary.data
            if data.source == source and data.train_limit is None:
                recorded.append((record.run, metrics))
    for run, metrics in _once_each(recorded):
        found[recipe_of(run)].append((run, metrics))
    lines = {recipe: _progress(runs) for recipe, runs in found.items()}
    names = {recipe: runs[0][0].summary.name for recipe, runs in found.items()}
    if not lines:
        raise DataError(f"no record under {folder} is of a run on all of {source}; record one with cifar-small record")
    if recipes:
        if missing := sorted(set(recipes) - set(names.values())):
            raise DataError(
                f"no record under {folder} is of {missing[0]!r} on all of {source}; there are "
                f"{', '.join(sorted(names.values()))}"
            )
        lines = {recipe: line for recipe, line in lines.items() if names[recipe] in recipes}
    ordered = sorted(lines.values(), key=lambda line: line.seconds[-1])
    save(draw_accuracy_over_time(ordered, f"{source}: accuracy against time"), path)
    return len(ordered)


def _progress(runs: Sequence[tuple[RunRecord, Path]]) -> Progress:
    """The curve of the first of several seeds of a recipe, and what each of them has on test with its config's views."""
    rows = read_metrics(runs[0][1])
    tests, test_images = [], 0
    for run, _ in runs:
        if run.own_readings:
            reading = run.own_readings[-1]
            interval = wilson_interval(round(reading.accuracy * reading.images), reading.images)
            tests.append((run.summary.seconds, reading.accuracy, interval))
            test_images = max(test_images, reading.images)
    start = _start(runs[0][0].summary)
    label = runs[0][0].summary.name + ("" if start == "scratch" else f" ({start})")
    if tests:
        label += f": {100 * statistics.mean(share for _, share, _ in tests):.2f} % on test, n = {len(tests)}"
    seconds, accuracies = [row["seconds"] for row in rows], [row["val_accuracy"] for row in rows]
    return Progress(label, seconds, accuracies, tests, runs[0][0].summary.val_images, test_images)

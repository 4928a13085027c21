"""The results table: generated from the records under submissions/, never written by hand."""

from __future__ import annotations

import csv
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar_small.config.renamed import with_current_names
from cifar_small.errors import DataError, UserError
from cifar_small.figures.run import draw_accuracy_over_time
from cifar_small.metrics.classification import wilson_interval

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def render_results(folder: Path, recipes: Sequence[str] = (), links_from: Path | None = None) -> str:
    """A Markdown table with one row per recipe, seeds together, and the command of each below it.

    recipes: only these, in fewer columns and without commands. links_from: the folder of the file that shows the table
    (default: the one that holds `folder`).
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected the one that holds the records, such as submissions")
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    without_run: list[str] = []
    seen: dict[str, int] = {}  # a run may be recorded more than once; the record with most readings of test counts
    for path in sorted(folder.rglob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if "bench" in record:  # figures of a benchmark, put beside the records
                continue
            run, place = record.get("run"), Path(os.path.relpath(path.parent, links_from or folder.parent)).as_posix()
            if run is None:
                made = record["predictions"]
                without_run.append(f"- {made['name']}: {made['parameters']:,} parameters, submission alone ([record]({place}))")
                continue
            run = _with_current_names(run)
            recipe, weights = run["summary"]["recipe_sha256"], run["summary"]["weights_sha256"]
            # A run whose last phase was made longer on the way has bent its schedule: it is no seed of the straight recipe.
            planned = sorted({session.get("epochs_planned") or 0 for session in run["sessions"]})
            # So is one of several processes, whose BatchNorm may have seen smaller batches, no seed of a run of one.
            ranks = sorted({session.get("processes", 1) for session in run["sessions"]})
            key = f"{recipe} {planned if len(planned) > 1 else ''} {ranks if ranks != [1] else ''}"
            entry = {**run, "place": place, "extended": len(planned) > 1}
            _row([entry])  # so that a record that lacks something is named here
            group = groups[key]
            if weights not in seen:
                seen[weights] = len(group)
                group.append(entry)
            elif len(run["test_readings"]) > len(group[seen[weights]]["test_readings"]):
                group[seen[weights]] = entry
        except (ValueError, AttributeError, LookupError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{path} is not a record ({reason}); write it again with cifar-small record or submit") from None
    if not groups and not without_run:
        return f"No records under {folder.name}/ yet."
    header = ["recipe", "data", "parameters", "epochs", "seeds", "views", "val %", "test %", "minutes", "hardware"]
    ordered = sorted(groups.values(), key=lambda group: (group[0]["summary"]["data"]["source"], -_mean(group, "val_accuracy")))
    if recipes:
        if missing := sorted(set(recipes) - {group[0]["summary"]["name"] for group in ordered}):
            raise DataError(f"no record under {folder} is of {missing[0]!r}; run: cifar-small results")
        return _short_table(header, [group for group in ordered if group[0]["summary"]["name"] in recipes])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_row(group)) + " |" for group in ordered]
    commands = [_commands(group) for group in ordered] + without_run
    note = (
        "Rows are in the order of val. val: mean over seeds (n images in brackets); *best*: it chose the epoch, so it is "
        "slightly optimistic; the others are of the last epoch. "
        "test: read by an explicit command, each reading counted; of one seed with Wilson's 95 % interval, else mean and sd. "
        "minutes: training, evaluation and pictures, start-up without Python's imports. "
        "Commands are those of the first seed as it was run; give yours an --output of its own."
    )
    return "\n".join([*lines, "", note, "", *commands])


def _short_table(header: Sequence[str], groups: Sequence[list[dict[str, Any]]]) -> str:
    """Some recipes in the columns that matter most, each with a link to its first record."""
    kept = [header.index(name) for name in ("data", "parameters", "epochs", "seeds", "test %", "minutes")]
    lines = ["| recipe | " + " | ".join(header[index] for index in kept) + " |", "|" + "---|" * (len(kept) + 1)]
    for group in groups:
        row = _row(group)
        lines.append(f"| [{row[0]}]({group[0]['place']}) | " + " | ".join(row[index] for index in kept) + " |")
    return "\n".join(lines)


def _with_current_names(run: dict[str, Any]) -> dict[str, Any]:
    readings = [with_current_names(one) for one in run["test_readings"]]
    return {**run, "summary": with_current_names(run["summary"]), "test_readings": readings}


def _commands(group: list[dict[str, Any]]) -> str:
    """The commands of a recipe's first run, and the records of all."""
    run, places = group[0], [one["place"] for one in group]
    commands = [session["command"] for session in run["sessions"]]
    links = [f"[record]({places[0]})", *(f"[{index}]({place})" for index, place in enumerate(places[1:], 2))]
    shown = dict.fromkeys(command for command in commands if "--resume" not in command or run["extended"]) or commands[:1]
    return f"- `{run['summary']['name']}`: " + ", then ".join(f"`{one}`" for one in shown) + f" ({', '.join(links)})"


def _mean(group: list[dict[str, Any]], key: str) -> float:
    return float(statistics.mean(run["summary"][key] for run in group))


def _row(group: list[dict[str, Any]]) -> list[str]:
    summary, session = group[0]["summary"], group[0]["sessions"][0]
    data = summary["data"]["source"]
    if "train_limit" in summary["data"]:
        data += f", {summary['data']['train_limit']:,} images"
    minutes = statistics.mean(run["summary"]["seconds"] for run in group) / 60
    chosen = ", *best*" if summary["selection"] == "best" else ""
    hardware = f"{session['device']}, {session['threads']} threads, {session['precision']}"
    return [
        summary["name"] + (", extended on the way" if group[0]["extended"] else ""),
        data,
        f"{summary['parameters']:,}",
        str(summary["epochs"]),
        f"{len(group)} ({', '.join(str(run['summary']['seed']) for run in group)})",
        summary["views"],
        f"{100 * _mean(group, 'val_accuracy'):.2f} ({summary['val_images']:,}{chosen})",
        _test(group),
        f"{minutes:.1f}",
        hardware,
    ]


def _readings(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The readings of test with the weights and the views that the run's summary speaks of."""
    views, weights = run["summary"]["views"], run["summary"]["weights_sha256"]
    readings = run["test_readings"]
    return [one for one in readings if one["views"] == views and one.get("weights_sha256", weights) == weights]


def _test(group: list[dict[str, Any]]) -> str:
    readings = [_readings(run) for run in group]
    latest = [one[-1] for one in readings if one]
    if len(latest) < len(group):
        return "not read"
    accuracies = [100 * one["accuracy"] for one in latest]
    times = max(len(run["test_readings"]) for run in group)
    read = "read once" if times == 1 else f"read {times} times"
    if len(accuracies) > 1:
        return f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} sd ({read})"
    total = latest[0]["images"]
    low, high = wilson_interval(round(latest[0]["accuracy"] * total), total)
    return f"{accuracies[0]:.2f} [{100 * low:.2f}, {100 * high:.2f}] ({read})"


def replace_section(text: str, table: str, name: str) -> str:
    """The text with the part between the results markers replaced. Raises DataError when the markers are not there once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{name} needs the lines {BEGIN} and {END} once, in this order, to hold the table")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def draw_records(folder: Path, source: str, path: Path, recipes: Sequence[str] = ()) -> int:
    """Draw accuracy over time of the records of a data set trained on all its images; returns how many lines there are.

    One line for each recipe, or for each of those named: its first seed. Raises DataError when one has no such record.
    """
    lines: dict[str, tuple[str, list[float], list[float]]] = {}  # by recipe_sha256
    names: dict[str, str] = {}
    for record_file in sorted(folder.rglob("*.json")):
        run = json.loads(record_file.read_text(encoding="utf-8")).get("run")
        metrics = record_file.with_name("metrics.csv")
        if run is None or not metrics.exists():
            continue
        run = _with_current_names(run)
        summary = run["summary"]
        if summary["data"]["source"] != source or "train_limit" in summary["data"] or summary["recipe_sha256"] in lines:
            continue
        rows = list(csv.DictReader(metrics.read_text(encoding="utf-8").splitlines()))
        label = f"{summary['name']}, val of {summary['val_images']:,}"
        if readings := _readings(run):
            label += f"; test {readings[-1]['accuracy']:.2%} (with views)"
        seconds, accuracies = ([float(row[key]) for row in rows] for key in ("seconds", "val_accuracy"))
        lines[summary["recipe_sha256"]] = (label, seconds, accuracies)
        names[summary["recipe_sha256"]] = summary["name"]
    if not lines:
        raise DataError(f"no record under {folder} is of a run on all of {source}; record one with cifar-small record")
    if recipes:
        if missing := sorted(set(recipes) - set(names.values())):
            raise DataError(
                f"no record under {folder} is of {missing[0]!r} on all of {source}; there are "
                f"{', '.join(sorted(names.values()))}"
            )
        lines = {hashed: line for hashed, line in lines.items() if names[hashed] in recipes}
    ordered = sorted(lines.values(), key=lambda line: line[1][-1])
    draw_accuracy_over_time(ordered, f"{source}: accuracy on each run's own val against time, one run a recipe", path)
    return len(ordered)

"""One self-contained web page about runs: accuracy and parameters first, then where the numbers come from, then each run.

The page is made of what run directories and their predictions hold; nothing is predicted and no split is read for it. It needs
no network, follows the reader's light or dark setting, and prints.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from cifar_small.compare import Comparison, compare
from cifar_small.comparison_tables import p_text, score_text
from cifar_small.data import Images
from cifar_small.entries import Entry, Row, collect_rows
from cifar_small.evaluate import Evaluation, Mistake, evaluate
from cifar_small.lineage import start_of
from cifar_small.report.charts import Axis, Line, around, confusion_chart, legend, line_chart, reliability_chart
from cifar_small.runs import Run
from cifar_small.tables import Table

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """A cell of the table of origins; mood is the class the style sheet colours: good, warn, bad or empty."""

    text: str
    mood: str = ""


@dataclass(frozen=True)
class Question:
    """A row of the table of origins: one answer a run."""

    question: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Panel:
    """A chart and the legend above it."""

    legend: Markup
    chart: Markup


@dataclass(frozen=True)
class ShownMistake:
    """An image the net was sure about and wrong."""

    id: int
    picture: str  # data URI of a PNG
    predicted: str
    confidence: str
    label: str


@dataclass(frozen=True)
class RunPart:
    """What the page shows of one run."""

    name: str
    accuracy: str
    accuracy_of: str
    parameters: str
    budget: str
    curves: list[Panel]
    scored: str  # the split and views that the scores are of
    scores: Table
    classes: Table
    confusion: Markup
    reliability: Markup
    mistakes: list[ShownMistake]
    commands: list[str]
    config: str


def render_page(title: str, runs: Sequence[Run], entries: Sequence[Entry], images: Sequence[Images | None]) -> str:
    """The page as HTML. entries: one for each run, with its predictions; images: those its scores are of, or None."""
    rows = collect_rows(entries)
    parts = [_part(run, entry, row, own) for run, entry, row, own in zip(runs, entries, rows, images, strict=True)]
    comparison = _comparison_table(compare(entries, common_split(entries))) if len(entries) > 1 else None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("cifar_small.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        subtitle=_subtitle(runs),
        runs=parts,
        comparison=comparison,
        honesty=_origins(runs, rows),
        grid=_grid,
    )


def best_known(entry: Entry) -> str:
    """The split that stands first: test where it was read, else val."""
    return "test" if "test" in entry.predictions else "val"


def common_split(entries: Sequence[Entry]) -> str:
    """The split that entries are tested on: test where every one has read it, else val."""
    return "test" if all("test" in entry.predictions for entry in entries) else "val"


def _subtitle(runs: Sequence[Run]) -> str:
    number = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{number}; made by cifar_small from run directories and predictions files, nothing entered by hand"


def _part(run: Run, entry: Entry, row: Row, images: Images | None) -> RunPart:
    split = best_known(entry)
    score, predictions = row.scores[split], entry.predictions[split]
    low, high = score.interval
    evaluation = evaluate(predictions, entry.predictions.get("val"))
    found = evaluation.before.reliability
    bins = (found.confidences.tolist(), found.accuracies.tolist(), found.counts.tolist())
    return RunPart(
        name=entry.name,
        accuracy=f"{score.accuracy:.2%}",
        accuracy_of=f"{split} accuracy, 95 % interval {low:.2%} to {high:.2%}, {score.total:,} images",
        parameters=f"{row.parameters:,}",
        budget=f"parameters, of {row.budget:,} allowed",
        curves=training_panels(read_metrics(run)),
        scored=f"{split}: {score.total:,} images, views {predictions.meta.get('views')}",
        scores=scores_table(evaluation),
        classes=classes_table(evaluation),
        confusion=Markup(confusion_chart("Confusion matrix", evaluation.counts, predictions.classes)),
        reliability=Markup(reliability_chart("Accuracy against confidence", *bins)),
        mistakes=[] if images is None else _shown(evaluation.mistakes, images),
        commands=[str(session["command"]) for session in run.sessions() if session["command"]],
        config=run.config_file.read_text(encoding="utf-8"),
    )


def _shown(mistakes: Sequence[Mistake], images: Images) -> list[ShownMistake]:
    place = {int(one): row for row, one in enumerate(images.ids)}
    return [
        ShownMistake(one.id, _data_uri(images.images[place[one.id]]), one.predicted, f"{one.confidence:.0%}", one.true)
        for one in mistakes
    ]


def read_metrics(run: Run) -> list[dict[str, float]]:
    """The numbers of each epoch of a run, none before its first epoch has ended."""
    if not run.metrics_file.exists():
        return []
    rows = csv.DictReader(io.StringIO(run.metrics_file.read_text(encoding="utf-8")))
    return [{key: float(value) for key, value in row.items() if key != "train_targets"} for row in rows]


def training_panels(rows: Sequence[dict[str, float]]) -> list[Panel]:
    """Loss, accuracy and learning rate over epochs, with a dashed line where a phase ends."""
    if not rows:
        return []
    epochs = [row["epoch"] for row in rows]
    ends = [before["epoch"] + 0.5 for before, after in itertools.pairwise(rows) if before["phase"] != after["phase"]]
    x = Axis("epoch", min(epochs) - 0.5, max(epochs) + 0.5)
    panels = []
    for label, kinds, scale in (
        ("cross-entropy, nats", {"train_loss": "orange", "val_loss": "blue"}, 1),
        ("accuracy, %", {"train_accuracy": "orange", "val_accuracy": "blue"}, 100),
        ("learning rate", {"lr": "soft"}, 1),
    ):
        lines = [
            Line(
                key.split("_")[0] if "_" in key else "last step of the epoch", epochs, [row[key] * scale for row in rows], kind
            )
            for key, kind in kinds.items()
        ]
        values = [value for line in lines for value in line.y]
        chart = line_chart(f"{label} over epochs", lines, x, around(values, label), ends)
        panels.append(Panel(Markup(legend(lines)), Markup(chart)))
    return panels


def scores_table(evaluation: Evaluation) -> Table:
    """Accuracy and calibration, before temperature scaling and, where val gave a temperature, after."""
    low, high = evaluation.interval
    before = evaluation.before
    cells = [f"{before.nll:.4f}", f"{before.brier:.4f}", f"{100 * before.reliability.ece:.2f}"]
    f1 = "" if evaluation.macro_f1 is None else f"{100 * evaluation.macro_f1:.2f}"
    accuracy = f"{100 * evaluation.accuracy:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    rows = [("as it is", accuracy, f1, *cells)]
    notes = ["NLL in nats; Brier from 0 to 2; ECE in %, 15 bins"]
    if evaluation.scaling is not None:
        after = evaluation.scaling.after
        cells = [f"{after.nll:.4f}", f"{after.brier:.4f}", f"{100 * after.reliability.ece:.2f}"]
        rows.append((f"logits / {evaluation.scaling.temperature:.3f}", accuracy, f1, *cells))
        notes.append(f"the temperature was fitted on the {evaluation.scaling.images:,} images of val")
    header = ("", "accuracy %", "macro F1 %", "NLL", "Brier", "ECE %")
    return Table("Scores", header, tuple(rows), tuple(notes), "scores")


def classes_table(evaluation: Evaluation) -> Table:
    """A row per class: images, recall with its interval, precision, F1."""
    rows = []
    for one in evaluation.classes:
        interval = one.recall_interval
        recall = "" if one.recall is None else f"{100 * one.recall:.1f}"
        span = "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
        shares = ("" if value is None else f"{100 * value:.1f}" for value in (one.precision, one.f1))
        rows.append((one.name, f"{one.images:,}", recall, span, *shares))
    header = ("class", "images", "recall %", "95 % interval", "precision %", "F1 %")
    return Table("By class", header, tuple(rows), (), "classes")


def _comparison_table(comparison: Comparison) -> Table:
    """One table of all: size, cost, accuracy, and the test against the first."""
    first = comparison.rows[0].name
    tests = {pair.second: pair for pair in comparison.pairs if pair.first == first}
    rows = []
    for row in comparison.rows:
        test = tests.get(row.name)
        tested = ("", "") if test is None else (f"{100 * test.difference:+.2f}", p_text(test.p_holm))
        minutes = "" if row.minutes is None else f"{row.minutes:.1f}"
        scores = (score_text(row.scores.get(split)) for split in ("val", "test"))
        start = start_of(row.lineage)
        legal = "yes" if row.legal else "no: " + ", ".join(row.faults)
        rows.append((row.name, f"{row.parameters:,}", legal, start, row.views, minutes, *scores, *tested))
    against = f"difference: points above {first} on the same {comparison.split} images; p: exact McNemar, Holm's correction"
    notes = (against, *(f"not like with like: {line}" for line in comparison.unlike), *comparison.refused)
    header = ("run", "parameters", "legal", "start", "views", "minutes", "val %", "test %", "difference", "p")
    return Table("Side by side", header, tuple(rows), notes, "comparison")


def _start(row: Row) -> Answer:
    start = start_of(row.lineage)
    return Answer(f"{start}: {', '.join(row.lineage)}", "warn") if row.lineage else Answer(start, "good")


def _origins(runs: Sequence[Run], rows: Sequence[Row]) -> list[Question]:
    """The questions a grader asks, each with an answer a run."""
    sessions = [run.sessions() for run in runs]
    questions = {
        "within its rules": [
            Answer("yes", "good") if row.legal else Answer("no: " + ", ".join(row.faults), "bad") for row in rows
        ],
        "started from": [_start(row) for row in rows],
        "weights chosen by": [Answer(_selection(run, row)) for run, row in zip(runs, rows, strict=True)],
        "test split read": [_readings(run) for run in runs],
        "trained on": [Answer(row.data) for row in rows],
        "seed": [Answer(str(row.seed)) for row in rows],
        "views": [Answer(row.views) for row in rows],
        "epochs": [Answer(" + ".join(map(str, row.epochs))) for row in rows],
        "minutes": [Answer("not known" if row.minutes is None else f"{row.minutes:.1f}") for row in rows],
        "hardware": [Answer(row.hardware or "not known") for row in rows],
        "sessions": [
            Answer(f"{len(own)}: resumed {len(own) - 1} times" if len(own) > 1 else "1, not interrupted") for own in sessions
        ],
        "code": [_code(own) for own in sessions],
        "weights": [Answer(str((run.summary() or {}).get("weights_sha256", "not known"))[:12]) for run in runs],
    }
    return [Question(question, tuple(answers)) for question, answers in questions.items()]


def _selection(run: Run, row: Row) -> str:
    summary = run.summary() or {}
    how = {"last": "the last epoch of a fixed schedule", "best": "the best accuracy on val"}.get(row.selection, row.selection)
    return f"{how} (epoch {summary.get('selected_epoch')} of {summary.get('epochs')})"


def _readings(run: Run) -> Answer:
    readings = run.test_readings()
    if not readings:
        return Answer("never")
    times = "once" if len(readings) == 1 else f"{len(readings)} times"
    dates = ", ".join(dict.fromkeys(str(one["time"])[:10] for one in readings))
    return Answer(f"{times} ({dates})", "good" if len(readings) == 1 else "warn")


def _code(sessions: Sequence[dict[str, Any]]) -> Answer:
    commits = list(dict.fromkeys(str(one.get("commit"))[:12] for one in sessions))
    if any(one.get("dirty") for one in sessions):
        return Answer(", ".join(commits) + ", with changes that were not committed", "warn")
    return Answer(", ".join(commits) or "not known", "good" if commits else "warn")


def _grid(table: Table, sortable: bool = False) -> Markup:
    """A table as HTML, numbers to the right; its notes below."""
    aligned = [Markup(' class="number"') if right else Markup("") for right in table.numeric]

    def head(text: str, how: Markup) -> Markup:
        inner = Markup("<button>{}</button>").format(text) if sortable and text else escape(text)
        return Markup("<th{}>{}</th>").format(how, inner)

    heads = Markup("").join(head(text, how) for text, how in zip(table.header, aligned, strict=True))
    body = Markup("\n").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td{}>{}</td>").format(how, cell) for cell, how in zip(row, aligned, strict=True))
        )
        for row in table.rows
    )
    notes = Markup("").join(Markup('<p class="soft">{}</p>').format(note) for note in table.notes)
    kind = Markup(' class="sortable"') if sortable else Markup("")
    return Markup("<table{}><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table>{}").format(kind, heads, body, notes)


def _data_uri(pixels: Picture) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

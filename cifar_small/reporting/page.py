"""One self-contained web page about models: accuracy and parameters first, comparisons, origins, then each model.

The page is made of what run directories and predictions files hold; nothing is predicted for it. It needs
no network, follows the reader's light or dark setting, and prints.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cifar_small.data import Images
from cifar_small.evaluation.compare import Comparison
from cifar_small.evaluation.entries import Entry
from cifar_small.evaluation.evaluate import Mistake, evaluate
from cifar_small.figures.confusion import draw_confusion
from cifar_small.figures.evaluation import draw_accuracy_over_cost, draw_reliability
from cifar_small.figures.run import draw_run, draw_val_accuracy
from cifar_small.figures.style import to_html
from cifar_small.reporting.comparison_tables import (
    PREDICT,
    PREDICT_NOTE,
    cost_columns,
    ensembles_table,
    estimates_table,
    groups_table,
    p_text,
    score_text,
    settings_table,
)
from cifar_small.reporting.evaluation_files import accuracy_table, classes_table
from cifar_small.reporting.origins import FEW, Subject, find_origins, find_subjects
from cifar_small.reporting.tables import Table, html_grid
from cifar_small.runs.directory import Run, read_metrics
from cifar_small.runs.predictions import Predictions
from cifar_small.wording import plural

WIDEST = 3  # models whose origins stand in columns side by side; of more, each answer names its models
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShownMistake:
    """An image the net was sure about and wrong."""

    id: int
    picture: int  # among the page's pictures: what many models get wrong is there once
    predicted: str
    confidence: str
    label: str


@dataclass(frozen=True)
class Headline:
    """What stands first of a model, or of the seeds of a recipe."""

    name: str
    accuracy: str
    accuracy_of: str
    parameters: str
    budget: str
    status: str  # of the parameters: bad where the rules forbid it
    warning: str  # empty, or that it was not tested where others were


@dataclass(frozen=True)
class Part:
    """What the page shows of one model further down."""

    name: str
    remark: str  # that other seeds of its recipe are not shown, where there are some
    summary: str
    curves: Markup  # empty: no run, or none of its epochs has ended
    scored: str  # the split and views that the scores are of
    scores: Table
    classes: Table
    confusion: Markup
    reliability: Markup
    mistakes: list[ShownMistake]
    commands: list[str]
    config: str


def render_page(
    title: str,
    entries: Sequence[Entry],
    comparison: Comparison,
    images_of: Callable[[Predictions], Images | None],
    speeds: Sequence[Table] = (),
) -> str:
    """The page as HTML. images_of: those that predictions are of, or None; speeds: tables of `bench`, shown as they are.

    Predictions of the same images ask for them once.
    """
    known: dict[str, Images | None] = {}

    def images_once(predictions: Predictions) -> Images | None:
        key = str(predictions.meta.images_sha256)
        if key not in known:
            known[key] = images_of(predictions)
        return known[key]

    subjects = find_subjects(entries, comparison)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pictures: dict[str, int] = {}
    template = environment.from_string(files("cifar_small.reporting").joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        subtitle=_subtitle(entries),
        headlines=[_headline(subject, any("test" in other.predictions for other in entries)) for subject in subjects],
        tables=[*_tables(comparison), *speeds],
        charts=_charts(entries, comparison),
        subjects=[subject.name for subject in subjects],
        origins=find_origins(subjects),
        together=len(subjects) > WIDEST,
        parts=[_part(subject, images_once, pictures) for subject in subjects],
        pictures=pictures,
        folded=len(entries) > FEW,
        grid=html_grid,
    )


def best_known(entry: Entry) -> str:
    """The split that stands first: test where it was read, else val."""
    return "test" if "test" in entry.predictions else "val"


def common_split(entries: Sequence[Entry]) -> str:
    """The split that entries are tested on: test where every one has read it, else val."""
    return "test" if all("test" in entry.predictions for entry in entries) else "val"


def _subtitle(entries: Sequence[Entry]) -> str:
    number = plural(len(entries), "model")
    return f"{number}; made by cifar_small from run directories and predictions files, nothing entered by hand"


def _headline(subject: Subject, others_tested: bool) -> Headline:
    row = subject.rows[0]
    if subject.group is None:
        split = best_known(subject.entries[0])
        score = row.scores[split]
        low, high = score.interval
        accuracy = f"{score.accuracy:.2%}"
        of = f"{split} accuracy, 95 % interval {low:.2%} to {high:.2%}, {score.total:,} images"
    else:
        split = "test" if "test" in subject.group.spreads else "val"
        spread = subject.group.spreads[split]
        accuracy = f"{100 * spread.mean:.2f} ± {100 * spread.sd:.2f}%"
        of = f"{split} accuracy, mean and sd of {spread.n} seeds, {row.scores[split].total:,} images"
    allowed = f"parameters, of {row.budget:,} allowed" + "".join(f"; {fault}" for fault in row.faults)
    warning = "on val, not test" if others_tested and split == "val" else ""
    return Headline(subject.name, accuracy, of, f"{row.parameters:,}", allowed, "" if row.legal else "bad", warning)


def _tables(comparison: Comparison) -> list[Table]:
    """What is there to compare: all entries, recipes over seeds, ensembles with their best members."""
    tables = []
    if len(comparison.rows) > 1:
        tables.append(_comparison_table(comparison))
    if any(row.estimate for row in comparison.rows):
        tables.append(estimates_table(comparison))
    if comparison.settings:
        tables.append(settings_table(comparison))
    if len(comparison.groups) > 1:
        tables.append(groups_table(comparison))
    if comparison.ensembles:
        tables.append(ensembles_table(comparison))
    return tables


def _charts(entries: Sequence[Entry], comparison: Comparison) -> list[tuple[str, Markup]]:
    """What several models have in common: accuracy against what it costs, and the curves of the runs in one picture."""
    charts = []
    if len(comparison.rows) > 1:
        split = comparison.split
        title = f"What accuracy on {split} costs"
        charts.append((title, Markup(to_html(draw_accuracy_over_cost(comparison.rows, split, ""), title))))
    runs = [(name, rows) for name, run in distinct_runs(entries) if (rows := read_metrics(run.metrics_file))]
    if len(runs) > 1:
        title = "Accuracy on val over epochs, all runs"
        charts.append((title, Markup(to_html(draw_val_accuracy(runs), title))))
    return charts


def distinct_runs(entries: Sequence[Entry]) -> list[tuple[str, Run]]:
    """The runs of the entries with the name of the first entry of each: int8 and other views of a run have its curves."""
    runs: dict[Path, tuple[str, Run]] = {}
    for entry in entries:
        if entry.run is not None:
            runs.setdefault(entry.run.folder.resolve(), (entry.name, entry.run))
    return list(runs.values())


def _part(subject: Subject, images_of: Callable[[Predictions], Images | None], pictures: dict[str, int]) -> Part:
    """The first seed of a recipe speaks for the others. pictures: data URIs by number, to which its own are added."""
    entry, row = subject.entries[0], subject.rows[0]
    split = best_known(entry)
    predictions, run = entry.predictions[split], entry.run
    images = images_of(predictions)
    evaluation = evaluate(predictions, entry.predictions.get("val"))
    return Part(
        name=entry.name,
        remark=_remark(subject),
        summary=f"{row.scores[split].accuracy:.2%} on {split}, {row.parameters:,} parameters",
        curves=Markup("") if run is None else _curves(run),
        scored=f"{split}: {len(predictions.ids):,} images, views {row.views}",
        scores=accuracy_table(evaluation),
        classes=classes_table(evaluation),
        confusion=Markup(to_html(draw_confusion(evaluation.counts, predictions.classes), "Confusion matrix")),
        reliability=Markup(to_html(draw_reliability(evaluation), "Accuracy against confidence")),
        mistakes=[] if images is None else _shown(evaluation.mistakes, images, pictures),
        commands=[] if run is None else [session.command for session in run.sessions() if session.command],
        config=_facts_of(entry) if run is None else run.config_file.read_text(encoding="utf-8"),
    )


def _remark(subject: Subject) -> str:
    if subject.group is None:
        return ""
    others = [str(row.seed) for row in subject.rows[1:]]
    left = "seeds " + ", ".join(others) if len(others) > 1 else f"seed {others[0]}"
    return f"One run of {subject.name}, seed {subject.rows[0].seed}; {left} of this recipe count in the tables above alone."


def _facts_of(entry: Entry) -> str:
    """What a predictions file says of its making, as YAML."""
    keys = ("name", "method", "fitted_on", "command", "config")
    plain = entry.meta.plain()
    facts = {key: plain[key] for key in keys if plain.get(key)}
    members = [part.picked("name", "seed", "run", "file", "views", "weight") for part in entry.parts]
    return str(yaml.safe_dump({**facts, **({"members": members} if entry.is_ensemble else {})}, sort_keys=False, width=120))


def _shown(mistakes: Sequence[Mistake], images: Images, pictures: dict[str, int]) -> list[ShownMistake]:
    place = {int(image_id): row for row, image_id in enumerate(images.ids)}
    shown = []
    for mistake in mistakes:
        number = pictures.setdefault(_data_uri(images.images[place[mistake.id]]), len(pictures))
        shown.append(ShownMistake(mistake.id, number, mistake.predicted, f"{mistake.confidence:.0%}", mistake.true))
    return shown


def _curves(run: Run) -> Markup:
    """Loss, accuracy and learning rate over epochs."""
    if not read_metrics(run.metrics_file):
        return Markup("")
    return Markup(to_html(draw_run(run), "Loss, accuracy and learning rate over epochs"))


def _comparison_table(comparison: Comparison) -> Table:
    """One table of all: size, cost, accuracy, and the test against the first."""
    first = comparison.rows[0].name
    tests = {pair.second: pair for pair in comparison.pairs if pair.first == first}
    rows, costs = [], cost_columns(comparison.rows)
    for number, row in enumerate(comparison.rows):
        test = tests.get(row.name)
        tested = ("", "") if test is None else (f"{100 * test.difference:+.2f}", p_text(test.p_holm))
        minutes = "" if row.minutes is None else f"{row.minutes:.1f}"
        scores = (score_text(row.scores.get(split)) for split in ("val", "test"))
        cost = (column[number] for column in costs.values())
        rows.append((row.name, f"{row.parameters:,}", row.legal_text, row.start, row.views, minutes, *cost, *scores, *tested))
    against = f"difference: points above {first} on the same {comparison.split} images; p: exact McNemar, Holm's correction"
    notes = (
        against,
        *([PREDICT_NOTE] if PREDICT in costs else []),
        *(f"not comparable: {line}" for line in comparison.unlike),
        *comparison.refused,
        *(line.split(" predictions: ")[0] + " predictions" for line in comparison.missing),  # the advice names paths
    )
    header = ("model", "parameters", "legal", "start", "views", "minutes", *costs, "val %", "test %", "difference", "p")
    return Table("Side by side", header, tuple(rows), notes, "comparison")


def _data_uri(pixels: Picture) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

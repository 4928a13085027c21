"""Tables and figures for a paper: LaTeX tables of booktabs rules, and figures as PDF in the width of one column."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cifar_small.evaluation.compare import Comparison
from cifar_small.evaluation.entries import Entry
from cifar_small.evaluation.evaluate import evaluate
from cifar_small.figures.run import LINES
from cifar_small.files import refuse_existing
from cifar_small.reporting.comparison_tables import comparison_tables
from cifar_small.reporting.page import best_known, classes_table, read_metrics
from cifar_small.reporting.tables import to_latex
from cifar_small.runs.directory import Run

COLUMN = 3.3  # inches: one of the two columns of an AAAI page
STYLE: Any = {
    "font.family": "serif",
    "font.size": 8,
    "pdf.fonttype": 42,
    "axes.linewidth": 0.6,
}  # 42: AAAI refuses Type 3 fonts


def paper_files(entries: Sequence[Entry], comparison: Comparison, folder: Path, *, overwrite: bool) -> dict[Path, bytes]:
    """`comparison.tex`, `classes.tex` and `confusion.pdf` of the first entry, `curves.pdf` of all runs, to be written.

    Raises UserError where one is there already, unless `overwrite`.
    """
    first = entries[0].predictions[best_known(entries[0])]
    evaluation = evaluate(first)
    contents = {
        "comparison.tex": (to_latex(comparison_tables(comparison)) + "\n").encode(),
        "classes.tex": (to_latex([classes_table(evaluation)]) + "\n").encode(),
        "confusion.pdf": _confusion(evaluation.counts, first.classes),
    }
    runs: dict[Path, tuple[str, Run]] = {}
    for entry in entries:
        if entry.run is not None:  # int8 and other views of a run have its curves
            runs.setdefault(entry.run.folder.resolve(), (entry.name, entry.run))
    if runs:
        contents["curves.pdf"] = _curves([*runs.values()])
    for name in contents:
        refuse_existing(folder / name, overwrite)
    return {folder / name: content for name, content in contents.items()}


def _curves(runs: Sequence[tuple[str, Run]]) -> bytes:
    """Accuracy on val over epochs, a line a run."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 2.2), layout="constrained")
        axes = figure.subplots()
        for number, (name, run) in enumerate(runs):
            rows = read_metrics(run)
            accuracies = [100 * row["val_accuracy"] for row in rows]
            axes.plot([row["epoch"] for row in rows], accuracies, color=LINES[number % len(LINES)], linewidth=1, label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy on val, %")
        axes.grid(alpha=0.3, linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        return _pdf(figure)


def _confusion(counts: Any, classes: Sequence[str]) -> bytes:
    """A confusion matrix shaded by the square root of each row's shares, so that rare mistakes are seen."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
        axes = figure.subplots()
        shares = np.sqrt(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if len(classes) <= 20:
            places = range(len(classes))
            axes.set_xticks(places, classes, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(places, classes)
            for row, column in zip(*np.nonzero(counts), strict=True):
                ink = "white" if shares[row, column] > 0.6 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink, fontsize=5.5)
        return _pdf(figure)


def _pdf(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})  # the same figure, the same bytes
    return buffer.getvalue()

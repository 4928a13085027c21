"""Tables and figures for a paper: LaTeX tables of booktabs rules, and figures as PDF in the width of one column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cifar_small.evaluation.compare import Comparison
from cifar_small.evaluation.entries import Entry
from cifar_small.evaluation.evaluate import evaluate
from cifar_small.figures.confusion import draw_confusion
from cifar_small.figures.run import draw_val_accuracy
from cifar_small.figures.style import paper_style, render
from cifar_small.files import refuse_existing
from cifar_small.reporting.comparison_tables import comparison_tables
from cifar_small.reporting.evaluation_files import classes_table
from cifar_small.reporting.page import best_known, distinct_runs
from cifar_small.reporting.tables import to_latex
from cifar_small.runs.directory import read_metrics


def paper_files(entries: Sequence[Entry], comparison: Comparison, folder: Path, *, overwrite: bool) -> dict[Path, bytes]:
    """`comparison.tex`, `classes.tex` and `confusion.pdf` of the first entry, `curves.pdf` of all runs, to be written.

    Raises UserError where one is there already, unless `overwrite`.
    """
    first = entries[0].predictions[best_known(entries[0])]
    evaluation = evaluate(first)
    contents = {
        "comparison.tex": (to_latex(comparison_tables(comparison)) + "\n").encode(),
        "classes.tex": (to_latex([classes_table(evaluation)]) + "\n").encode(),
    }
    runs = [(name, rows) for name, run in distinct_runs(entries) if (rows := read_metrics(run.metrics_file))]
    with paper_style():
        contents["confusion.pdf"] = render(draw_confusion(evaluation.counts, first.classes), "pdf")
        if runs:
            contents["curves.pdf"] = render(draw_val_accuracy(runs), "pdf")
    for name in contents:
        refuse_existing(folder / name, overwrite)
    return {folder / name: content for name, content in contents.items()}

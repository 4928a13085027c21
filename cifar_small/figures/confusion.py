"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.figures.run import GREY, _figure, _save

FEW = 20  # classes that a matrix has room to write counts for


def draw_confusion(counts: npt.NDArray[np.int64], classes: Sequence[str], title: str, path: Path) -> None:
    """A confusion matrix: rows true, columns predicted, mistakes shaded by their share of the row.

    Up to 20 classes stand in their order, with counts; more stand so that confused ones are neighbours.
    """
    number = len(classes)
    many = number > FEW
    order = _neighbours(counts) if many else np.arange(number)
    counts, names = counts[np.ix_(order, order)], [classes[label] for label in order]
    side = 14.0 if many else 2.6 + 0.46 * number
    figure = _figure(side + (1.8 if many else 0.6), side)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(number, dtype=bool)
    errors = np.where(diagonal, 0.0, shares)
    # One strange class, or a class of few images, shall not make all others pale.
    top = max(float(np.quantile(errors[~diagonal], 0.999)) if many else float(errors.max()), 0.01)
    shown = np.where(diagonal, np.nan, errors)  # the diagonal would drown the mistakes, so it is left white
    picture = axes.imshow(shown, cmap="Blues", vmin=0, vmax=top)
    extend = "max" if errors.max() > top else "neither"
    label = "share of the true class predicted as another"
    figure.colorbar(picture, ax=axes, shrink=0.7, label=label, format="{x:.0%}", extend=extend)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title + ("\nconfused classes stand side by side" if many else ""), fontsize=11)
    axes.set_xticks(range(number), names, rotation=90 if many else 45, ha="center" if many else "right")
    axes.set_yticks(range(number), names)
    if many:
        axes.tick_params(labelsize=7, length=0, pad=2, labelright=True)
        axes.plot(range(number), range(number), color=GREY, linewidth=0.6, alpha=0.6)
        axes.set_xticks(np.arange(4.5, number - 1, 5), minor=True)
        axes.set_yticks(np.arange(4.5, number - 1, 5), minor=True)
        axes.grid(which="minor", color=GREY, linewidth=0.4, alpha=0.35)
        axes.tick_params(which="minor", length=0)
    else:
        _write_counts(axes, counts, errors, top)
    _save(figure, path)


def _write_counts(axes: Any, counts: npt.NDArray[np.int64], errors: npt.NDArray[np.float64], top: float) -> None:
    for row, column in np.argwhere(counts):
        dark = row != column and errors[row, column] > 0.6 * top
        weight = "bold" if row == column else "normal"
        text = f"{counts[row, column]:,}"
        colour = "white" if dark else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, weight=weight, fontsize=8)


def _neighbours(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """An order of classes in which those that are often confused, either way, are near each other: clusters of mean linkage."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    above = np.triu_indices(len(counts), 1)  # in the order in which linkage reads distances
    together = (shares + shares.T)[above]
    return np.asarray(
        leaves_list(linkage(1 - together / max(together.max(), 1e-9), "average", optimal_ordering=True)), np.int64
    )

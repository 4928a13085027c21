"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.figures.fitting import fold, set_title, width_of
from cifar_small.figures.style import BLUE, GRAY, INK, WHITE, Figure, in_style, new_figure

FEW = 20  # classes that a matrix has room to write counts for
FEWEST = 4  # of fewer the matrix is as large as of these, so that there is room for words beside it


@in_style
def draw_confusion(counts: npt.NDArray[np.int64], classes: Sequence[str], title: str = "") -> Figure:
    """A confusion matrix: rows true, columns predicted, mistakes shaded by their share of the row.

    Up to 20 classes stand in their order, with counts; more stand so that confused ones are neighbors.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import ListedColormap, Normalize, to_rgba

    number = len(classes)
    many = number > FEW
    order = _neighbors(counts) if many else np.arange(number)
    counts, names = counts[np.ix_(order, order)], [classes[label] for label in order]
    side = 14.0 if many else 2.6 + 0.46 * max(number, FEWEST)
    figure = new_figure(side + (1.8 if many else 0.6), side)
    figure.set_layout_engine("compressed")  # the constrained one lets a square of this size push words over the edge
    axes = figure.subplots()
    diagonal = np.eye(number, dtype=bool)
    errors = np.where(diagonal, 0.0, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    # One strange class, or a class of few images, shall not make all others pale.
    top = max(float(np.quantile(errors[~diagonal], 0.999)) if many else float(errors.max()), 0.01)
    # The diagonal would drown the mistakes, so it is left empty. Opacity shades them, which suits a light and a dark ground.
    cells = np.argwhere(errors)
    squares = cells[:, None, ::-1] + np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    shades = [to_rgba(BLUE, min(1.0, float(errors[row, column]) / top)) for row, column in cells]
    axes.add_collection(PolyCollection(squares, facecolors=shades, edgecolors="none"))
    scale = ScalarMappable(Normalize(0, top), ListedColormap([to_rgba(BLUE, opacity) for opacity in np.linspace(0, 1, 20)]))
    extend = "max" if errors.max() > top else "neither"
    label = fold(figure, "share of the true class predicted as another", 0.6 * figure.get_figheight())
    figure.colorbar(scale, ax=axes, shrink=0.7, label=label, format=lambda share, _: f"{100 * share:g}%", extend=extend)
    axes.set(aspect="equal", xlim=(-0.5, number - 0.5), ylim=(number - 0.5, -0.5), xlabel="predicted", ylabel="true")
    set_title(figure, title + ("\nconfused classes stand side by side" if title and many else ""))
    axes.spines[:].set_visible(True)
    axes.grid(visible=False)
    readable = not many or figure.get_figwidth() > 10  # a hundred names do not fit in a column of a paper
    size, cell = _room(figure, names)
    upright = many or 0.7 * cell < 1.15 * size  # at 45 degrees the names would run into one another
    axes.set_xticks(
        range(number), names if readable else [], rotation=90 if upright else 45, ha="center" if upright else "right"
    )
    axes.set_yticks(range(number), names if readable else [])
    if many:
        axes.tick_params(labelsize=7, length=0, pad=2, labelright=True)
        axes.plot(range(number), range(number), color=GRAY, linewidth=0.6, alpha=0.6)
        axes.set_xticks(np.arange(4.5, number - 1, 5), minor=True)
        axes.set_yticks(np.arange(4.5, number - 1, 5), minor=True)
        axes.grid(which="minor", color=GRAY, linewidth=0.4, alpha=0.35)
        axes.tick_params(which="minor", length=0)
    else:
        axes.tick_params(labelsize=size)
        _write_counts(axes, counts, errors, top, cell)
    return figure


def _room(figure: Figure, names: Sequence[str]) -> tuple[float, float]:
    """The size of the font in which every name fits beside its row, and about how wide the cells then are, in points."""
    from matplotlib import rcParams

    size = rcParams["font.size"]
    longest = 72 * max(width_of(figure, name, size) for name in names) / size  # of a name, in its font's size
    free = 72 * figure.get_figwidth() - 11 * size  # less the words and the color bar
    size = min(size, 0.9 * free / (len(names) + 0.9 * longest))
    return size, min(0.45 * 72 * figure.get_figwidth(), free - longest * size) / len(names)


def _write_counts(axes: Any, counts: npt.NDArray[np.int64], errors: npt.NDArray[np.float64], top: float, cell: float) -> None:
    """cell: the width of a cell in points, which the largest count must fit in a column of a paper, too."""
    from matplotlib import rcParams

    size = min(0.83 * rcParams["font.size"], 0.9 * cell / (0.6 * len(f"{counts.max():,}")))
    for row, column in np.argwhere(counts):
        color = WHITE if errors[row, column] > 0.75 * top else INK
        weight = "bold" if row == column else "normal"
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color, weight=weight, fontsize=size)


def _neighbors(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """An order of classes in which those that are often confused, either way, are near each other: clusters of mean linkage."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    above = np.triu_indices(len(counts), 1)  # in the order in which linkage reads distances
    together = (shares + shares.T)[above]
    return np.asarray(
        leaves_list(linkage(1 - together / max(together.max(), 1e-9), "average", optimal_ordering=True)), np.int64
    )

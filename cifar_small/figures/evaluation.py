"""Pictures of predictions: confusions, classes, reliability, mistakes, accuracy over coverage; for 10 classes and for 100."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.evaluation.entries import EntryRow, Score
from cifar_small.evaluation.evaluate import ClassScore, Confused, Evaluation, Mistake
from cifar_small.figures.data_survey import draw_tiles
from cifar_small.figures.fitting import fold, legend_below, set_title
from cifar_small.figures.style import (
    BLUE,
    GRAY,
    LINES,
    ORANGE,
    WHITE,
    Figure,
    decades,
    in_style,
    logarithmic,
    new_figure,
    percent_ticks,
)
from cifar_small.metrics.calibration import Reliability
from cifar_small.metrics.classification import wilson_interval
from cifar_small.metrics.coverage import CoverageCurve


@in_style
def draw_confused(confused: Sequence[Confused], title: str) -> Figure:
    """The most confused pairs as bars of their share of the true class, with counts; most images on top."""
    figure = new_figure(8, 1.3 + 0.27 * max(len(confused), 1))
    axes = figure.subplots()
    shares = [100 * pair.share for pair in confused]
    axes.barh(range(len(confused)), shares, color=BLUE, height=0.7)
    for row, pair in enumerate(confused):
        axes.text(shares[row], row, f" {pair.images:,}", va="center", fontsize=8, color=GRAY)
    axes.set_yticks(range(len(confused)), [f"{pair.true} → {pair.predicted}" for pair in confused], fontsize=9)
    axes.set_ylim(len(confused) - 0.4, -0.6)
    axes.set_xlabel("% of the true class's images (number: images)")
    axes.grid(visible=False, axis="y")
    set_title(figure, title)
    return figure


@in_style
def draw_per_class(classes: Sequence[ClassScore], title: str) -> Figure:
    """Recall with its Wilson interval and precision of every class that has images, worst recall on top; 25 to a column."""
    known = sorted((score for score in classes if score.recall is not None), key=lambda score: (score.recall, score.name))
    columns = -(-len(known) // 25)
    rows = -(-len(known) // columns)
    figure = new_figure(max(7.5, 3.9 * columns), 1.4 + 0.27 * rows)
    panels = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for place, axes in enumerate(panels):
        part = known[place * rows : (place + 1) * rows]
        low, high = (100 * np.array([score.recall_interval[end] for score in part if score.recall_interval]) for end in (0, 1))
        recall = np.array([100 * score.recall for score in part if score.recall is not None])
        precise = [(100 * score.precision, row) for row, score in enumerate(part) if score.precision is not None]
        axes.hlines(range(len(part)), low, high, color=BLUE, linewidth=3, alpha=0.3, label="95 % interval of recall")
        axes.plot(recall, range(len(part)), "o", color=BLUE, markersize=5, label="recall: found of the class's images")
        if precise:
            label = "precision: right of those called so"
            axes.plot(*zip(*precise, strict=True), "D", color=ORANGE, markersize=4.5, fillstyle="none", label=label)
        axes.set_yticks(range(len(part)), [score.name for score in part], fontsize=8 if columns > 1 else 9)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xlabel("%")
    percent_ticks(panels[0].xaxis)
    # Of all panels: no class of the first, which has the worst, may have a precision.
    handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend_below(figure, list(handles.values()), list(handles), 3, room=1)
    set_title(figure, title)
    return figure


@in_style
def draw_reliability(evaluation: Evaluation, title: str = "") -> Figure:
    """Accuracy over confidence in 15 bins with Wilson intervals, and how many images each bin has; before and after scaling."""
    panels = [("as it is", evaluation.before)]
    if evaluation.scaling:
        crossed = ", halves cross-fitted" if evaluation.scaling.of_halves else ""
        panels.append((f"at temperature {evaluation.scaling.temperature:.2f}{crossed}", evaluation.scaling.after))
    figure = new_figure(0.6 + 4.9 * len(panels), 6.0)
    grid = figure.subplots(2, len(panels), sharex=True, sharey="row", height_ratios=[3.2, 1], squeeze=False)
    for column, (name, found) in enumerate(panels):
        above, below = grid[:, column]
        _reliability_panel(above, below, found.reliability)
        ece, chance = 100 * found.reliability.ece, 100 * found.reliability.ece_by_chance
        above.set_title(f"{name}\nECE {ece:.2f} % (by chance alone {chance:.2f} %), NLL {found.nll:.4f}", fontsize=10)
        below.set_xlabel("confidence, %")
    grid[0, 0].set_ylabel("accuracy, %")
    grid[1, 0].set_ylabel("% of images")
    handles, names = grid[0, 0].get_legend_handles_labels()
    legend_below(figure, handles, names, 3, room=1)
    set_title(figure, title)
    return figure


def _reliability_panel(above: Any, below: Any, found: Reliability) -> None:
    bins = len(found.counts)
    filled = found.counts > 0
    confidence, accuracy = 100 * found.confidences[filled], 100 * found.accuracies[filled]
    counts = found.counts[filled]
    right = np.rint(found.accuracies[filled] * counts).astype(int)
    ends = 100 * np.array([wilson_interval(int(good), int(count)) for good, count in zip(right, counts, strict=True)])
    above.plot([0, 100], [0, 100], color=GRAY, linewidth=1, linestyle="--", label="confidence = accuracy")
    above.vlines(confidence, confidence, accuracy, color=ORANGE, linewidth=5, alpha=0.35, label="gap")
    spread = np.abs(ends.T - accuracy)  # the interval holds the share itself, up to rounding
    above.errorbar(
        confidence,
        accuracy,
        yerr=spread,
        fmt="o",  # a line would dive into every bin of one image
        color=BLUE,
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label="bin, 95 % interval",
    )
    above.set_xlim(0, 100)
    above.set_ylim(0, 100)
    below.bar((np.arange(bins) + 0.5) * 100 / bins, 100 * found.counts / found.counts.sum(), width=90 / bins, color=BLUE)


def draw_mistakes(mistakes: Sequence[tuple[npt.NDArray[np.uint8], Mistake]], title: str) -> Figure:
    """Images (32, 32, 3) called what they are not, most confident first, six to a row."""
    tiles = [
        (pixels, mistake.true, f"called {mistake.predicted}\n{100 * mistake.confidence:.1f} %") for pixels, mistake in mistakes
    ]
    return draw_tiles(tiles, title)


@in_style
def draw_coverage(
    curves: Mapping[str, CoverageCurve],
    best: CoverageCurve,
    entropies: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    title: str,
) -> Figure:
    """Accuracy against coverage for each score, the best order and no order at all; and where right and wrong images lie.

    entropies: the predictive entropy, nats, of the right images and of the wrong ones.
    """
    figure = new_figure(11.5, 5.0)
    axes, spread = figure.subplots(1, 2, width_ratios=[1.5, 1])
    share = 100 * np.arange(1, len(best.accuracies) + 1) / len(best.accuracies)
    axes.plot(share, 100 * best.accuracies, color=GRAY, linewidth=1.2, linestyle=":", label=f"best order, AURC {best.aurc:.4f}")
    for (name, curve), color in zip(curves.items(), LINES, strict=False):
        axes.plot(share, 100 * curve.accuracies, color=color, linewidth=1.6, label=f"{name}, AURC {curve.aurc:.4f}")
    axes.axhline(100 * best.accuracies[-1], color=GRAY, linewidth=1, linestyle="--", label="no order")
    settled = share >= 5  # the first few images are a lottery that would stretch the scale
    low = min(float(curve.accuracies[settled].min()) for curve in curves.values())
    low = 100 * min(low, float(best.accuracies[-1]))
    axes.set_ylim(low - 0.08 * (100 - low) - 0.1, 100 + 0.04 * (100 - low) + 0.05)
    percent_ticks(axes.yaxis)
    axes.set_xlim(0, 100)
    axes.set_xlabel("coverage: % of images kept, the surest first")
    axes.set_ylabel("accuracy on those kept, %")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False, "fontsize": 8.5}  # hides no line there
    axes.legend(ncols=2, **above)
    edges = np.linspace(0, max(float(part.max()) for part in entropies if len(part)) + 1e-9, 31)
    for part, name, color in zip(entropies, ("right", "wrong"), (BLUE, ORANGE), strict=True):
        if len(part):
            weights = np.full(len(part), 100 / len(part))
            spread.hist(part, edges, weights=weights, color=color, alpha=0.55, label=f"{name} ({len(part):,} images)")
    spread.set_xlabel("predictive entropy, nats")
    spread.set_ylabel("% of the right, % of the wrong")
    spread.legend(ncols=2, **above)
    set_title(figure, title)
    return figure


COSTS: tuple[tuple[str, Callable[[EntryRow], float | None]], ...] = (
    ("parameters", lambda row: row.parameters),
    ("multiply-adds of one image, one view", lambda row: row.macs),
    ("training images", lambda row: row.train_images),
    ("minutes of training", lambda row: row.minutes),
)


ALIKE = 0.02  # decades, 5 %: seeds of one recipe differ so in minutes


@in_style
def draw_accuracy_over_cost(rows: Sequence[EntryRow], split: str, title: str) -> Figure:
    """Accuracy on a split, with Wilson's intervals, against what it costs, each entry a numbered point.

    A panel for parameters, and for multiply-adds, training images and minutes where entries differ in them by more than 5 %.
    Entries without an accuracy on the split are left out.
    """
    shown = [(number, row, row.scores[split]) for number, row in enumerate(rows, start=1) if split in row.scores]
    panels = [
        (name, sizes)
        for name, cost in COSTS
        if decades(sizes := [cost(row) for _, row, _ in shown]) > ALIKE or name == "parameters"
    ]
    columns = min(len(panels), 2)
    height = -(-len(panels) // columns)
    beside = len(panels) == columns * height  # the key has a column of its own, else the cell that is left
    figure = new_figure(5 * columns + 2.9 * beside, 4.6 * height)
    grid = figure.add_gridspec(height, columns + beside, width_ratios=[*[1] * columns, *[0.62] * beside])
    for place, (name, sizes) in enumerate(panels):
        axes = figure.add_subplot(grid[divmod(place, columns)])
        for size, (number, row, score) in zip(sizes, shown, strict=True):
            if size:
                _numbered_point(axes, size, number, row, score)
        if name == "parameters":
            for budget in sorted({row.budget for _, row, _ in shown}):
                axes.axvline(budget, color=GRAY, linewidth=1, linestyle="--")
                words = {"rotation": 90, "ha": "right", "va": "bottom", "color": GRAY, "fontsize": 8}
                axes.text(budget, 0.02, f"budget {budget:,}", transform=axes.get_xaxis_transform(), **words)
            sizes = [*sizes, *(row.budget for _, row, _ in shown)]
        logarithmic(axes, sizes)
        axes.margins(x=0.12, y=0.08)
        percent_ticks(axes.yaxis)
        axes.set_xlabel(name)
        axes.set_ylabel(f"accuracy on {split}, %")
    key = figure.add_subplot(grid[:, columns] if beside else grid[-1, -1])
    key.axis("off")
    key_lines = [
        (f"{number}  {row.name}: {100 * score.accuracy:.2f} %", BLUE if row.start == "scratch" else ORANGE)
        for number, row, score in shown
    ]
    key_lines.append(("blue: from scratch; orange: pretrained\nhollow: not legal under the rules", GRAY))
    share = 0.56 / (columns + 0.62) if beside else 0.45  # of the figure's width
    needed = _write_key(key, key_lines, share * figure.get_figwidth()) + 0.9
    figure.set_figheight(max(figure.get_figheight(), needed * (1 if beside else height)))
    set_title(figure, title)
    return figure


def _write_key(axes: Any, words: Sequence[tuple[str, str]], width: float) -> float:
    """Lines with their colors below each other, folded to a width in inches; returns the height that they take."""
    from matplotlib import rcParams

    size = 0.9 * rcParams["font.size"]
    down = 0.0  # points
    for text, color in words:
        said = fold(axes.figure, text.replace(" %", "\N{NO-BREAK SPACE}%"), width, size)
        place = {"xy": (0, 1), "xytext": (0, -down), "xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(said, **place, fontsize=size, va="top", color=color).set_in_layout(False)
        down += size * (1.25 * (said.count("\n") + 1) + 0.6)
    return down / 72


def _numbered_point(axes: Any, size: float, number: int, row: EntryRow, score: Score) -> None:
    color = BLUE if row.start == "scratch" else ORANGE
    low, high = score.interval
    errors = [[100 * (score.accuracy - low)], [100 * (high - score.accuracy)]]
    face, text = (color, WHITE) if row.legal else (WHITE, color)
    axes.errorbar(size, 100 * score.accuracy, errors, fmt="o", color=color, mfc=face, ms=15, capsize=3, linewidth=1.2)
    axes.annotate(str(number), (size, 100 * score.accuracy), ha="center", va="center", color=text, fontsize=8.5)

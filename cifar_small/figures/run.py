"""Pictures of a run and of what it will do: curves, augmented images, learning rate over phases; of a sweep: its cells."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.config.phases import resolve_phases
from cifar_small.figures.fitting import fold, legend_below, set_title, width_of
from cifar_small.figures.style import BLUE, GRAY, INK, LINES, ORANGE, Figure, in_style, logarithmic, new_figure, percent_ticks
from cifar_small.runs.directory import Run, read_metrics

# Where colors begin anew, another dash and another mark.
STYLES = tuple(itertools.product((("-", "D"), ("--", "s"), (":", "^"), ("-.", "v")), LINES))
MOST_INSIDE = 4  # names of lines that do not hide them


@in_style
def draw_curves(
    rows: Sequence[dict[str, Any]],
    boundaries: Sequence[int],
    title: str = "",
    *,
    selected: int | None = None,
    distilled: bool = False,
) -> Figure:
    """Loss, accuracy and learning rate over epochs, phase boundaries dashed; rows as in `metrics.csv`.

    selected: the epoch whose weights count, None while that is open; distilled: is a teacher's loss part of that on train?
    """
    figure = new_figure(12, 3.6)
    epochs = [row["epoch"] for row in rows]
    mixed = [int(row["epoch"]) for row in rows if row["train_targets"] == "mixed"]
    where = "" if len(mixed) == len(rows) else f", epochs {_spans(mixed)}"
    train = f"train (mixed targets{where})" if mixed else "train (augmented)"
    losses = "loss, nats (train: with the teacher's)" if distilled else "cross-entropy, nats"
    loss, accuracy, rate = figure.subplots(1, 3)
    marker = "o" if len(rows) < 30 else None
    for axes, key, scale, label in ((loss, "loss", 1, losses), (accuracy, "accuracy", 100, "accuracy, %")):
        for part, color, name in (("train", ORANGE, train), ("val", BLUE, "val")):
            values = [row[f"{part}_{key}"] * scale for row in rows]
            axes.plot(epochs, values, color=color, label=name, marker=marker, markersize=3, linewidth=1.6)
        axes.set_ylabel(label)
    handles, names = loss.get_legend_handles_labels()
    legend_below(figure, handles, names, 2, room=1)  # inside it would hide lines
    percent_ticks(accuracy.yaxis)
    shown = max((row for row in rows if selected in (None, row["epoch"])), key=lambda row: row["val_accuracy"])
    accuracy.axhline(100 * shown["val_accuracy"], color=GRAY, linewidth=0.8, linestyle=":")
    said = "best val" if selected is None else "selected: val"
    accuracy.set_title(f"{said} {100 * shown['val_accuracy']:.2f} % at epoch {shown['epoch']:.0f}", fontsize=10)
    rate.plot(epochs, [row["lr"] for row in rows], color=GRAY, marker=marker, markersize=3, linewidth=1.6)
    rate.set_ylabel("learning rate (last step)")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        for boundary in boundaries:
            axes.axvline(boundary + 0.5, color=GRAY, linestyle="--", linewidth=0.8)
    set_title(figure, title)
    return figure


def draw_run(run: Run) -> Figure:
    """The curves of a run so far, with its phases and the epoch whose weights count once it has finished."""
    rows, summary = read_metrics(run.metrics_file), run.summary()
    ends = [int(before["epoch"]) for before, after in itertools.pairwise(rows) if before["phase"] != after["phase"]]
    distilled = any(phase.settings.distill for phase in resolve_phases(run.config()))
    return draw_curves(rows, ends, selected=summary.selected_epoch if summary else None, distilled=distilled)


def _spans(epochs: Sequence[int]) -> str:
    """1, 2, 3, 5 as `1-3, 5`."""
    starts = [one for one in epochs if one - 1 not in epochs]
    ends = [one for one in epochs if one + 1 not in epochs]
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))


@in_style
def draw_val_accuracy(runs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Figure:
    """Accuracy on val over epochs, a line a run; runs: (label, rows as in `metrics.csv`). Many or long labels stand below."""
    from matplotlib import rcParams

    figure = new_figure(6, 4)
    axes = figure.subplots()
    lines = []
    for (label, rows), ((dash, _), color) in zip(runs, itertools.cycle(STYLES), strict=False):
        epochs, accuracies = [row["epoch"] for row in rows], [100 * row["val_accuracy"] for row in rows]
        lines += axes.plot(epochs, accuracies, dash, color=color, linewidth=1, label=label)
    axes.set(xlabel="epoch", ylabel="accuracy on val, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    percent_ticks(axes.yaxis)
    names = [name for name, _ in runs]
    wide = max((width_of(figure, name, rcParams["legend.fontsize"]) for name in names), default=0) > 0.4 * figure.get_figwidth()
    if wide or len(names) > MOST_INSIDE:
        legend_below(figure, lines, names, 3)
    else:
        axes.legend()
    return figure


@dataclass(frozen=True)
class Progress:
    """A recipe in a picture of accuracies over time."""

    name: str
    seconds: Sequence[float]  # since the run of its first seed began, one each epoch
    accuracies: Sequence[float]  # of that run on its own val
    tests: Sequence[tuple[float, float, tuple[float, float]]]  # of each seed: seconds in all, accuracy on test, its interval
    val_images: int
    test_images: int  # 0: test was not read


@in_style
def draw_accuracy_over_time(recipes: Sequence[Progress], title: str) -> Figure:
    """Accuracy over minutes since the run began: each seed's on test as a mark, and as a thin line on val after every epoch.

    Runs hold out images of their own, some of them few and easy ones, so only the marks can be compared. The error is drawn on
    a log scale, so that the last per cent is seen as well as the first fifty; that of 100 % is drawn as half an image.
    """
    figure = new_figure(9, 6)
    axes = figure.subplots()
    marks = []
    for recipe, ((dash, mark), color) in zip(recipes, itertools.cycle(STYLES), strict=False):
        minutes = [second / 60 for second in recipe.seconds]
        axes.plot(minutes, _errors(recipe.accuracies, recipe.val_images), dash, color=color, linewidth=1, alpha=0.4)
        shares = np.array([(share, *interval) for _, share, interval in recipe.tests]).reshape(-1, 3).T
        errors, high, low = (_errors(part, recipe.test_images) for part in shares)  # an error is low where the share is high
        places, spread = [seconds / 60 for seconds, _, _ in recipe.tests], np.maximum((errors - low, high - errors), 0)
        marks.append(axes.errorbar(places, errors, spread, fmt=mark, color=color, markersize=5, elinewidth=1.2, capsize=2))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_yaxis()
    ticks = _spread([error for error in ERROR_TICKS if _within(error, axes.get_ylim())], axes.get_ylim())
    axes.set_yticks(ticks, [f"{100 - error:g} %" for error in ticks])
    places = [minutes for minutes in MINUTE_TICKS if _within(minutes, axes.get_xlim())]
    axes.set_xticks(places, [f"{minutes:g}" for minutes in places])
    axes.minorticks_off()
    axes.set_xlabel("minutes since the run began")
    axes.set_ylabel("accuracy")
    said = "marks: on test, with views and Wilson's 95 % interval; lines: without views, on each run's own val"
    set_title(figure, f"{title}\n{said}")
    room = -(-len(recipes) // 2) * figure.get_figwidth() / 9
    legend_below(figure, marks, [recipe.name for recipe in recipes], 2, side="left", room=room)  # lines are everywhere else
    return figure


def _errors(accuracies: npt.ArrayLike, images: int) -> npt.NDArray[np.float64]:
    """In %; an error of none, for which a log scale has no place, as half an image."""
    return 100 * np.maximum(1 - np.asarray(accuracies, np.float64), 0.5 / max(images, 1))


ERROR_TICKS = (90, 70, 50, 40, 30, 20, 15, 10, 8, 7, 6, 5, 4, 3, 2, 1.5, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)  # in %
MINUTE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 180, 300, 600, 1200, 2400)


def _within(value: float, limits: tuple[float, float]) -> bool:
    return min(limits) <= value <= max(limits)


def _spread(ticks: Sequence[float], limits: tuple[float, float]) -> list[float]:
    """Those of the falling ticks of a log scale that leave room for the words of the one before."""
    least = (max(limits) / min(limits)) ** 0.027
    kept: list[float] = []
    for tick in ticks:
        if not kept or kept[-1] / tick >= least:
            kept.append(tick)
    return kept


Tile = tuple[npt.NDArray[np.uint8], str]  # pixels (side, side, 3) and the words below them


@in_style
def draw_contact_sheet(
    originals: Sequence[Tile],
    blocks: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Tile | None]]]],
    title: str,
) -> Figure:
    """Images down, originals first; each block has a title, column titles and rows of tiles (None: left out that epoch)."""
    side, gap, words = 0.95, 0.12, 0.5  # inches
    columns = [1, *(len(names) for _, names, _ in blocks)]
    titles = [textwrap.fill(text, max(24, 15 * len(names))) for text, names, _ in blocks]
    head = 0.65 + 0.16 * max(text.count("\n") + 1 for text in titles)
    width = sum(columns) * (side + gap) + 3 * gap * (len(columns) + 1)
    figure = new_figure(width, 1)
    figure.set_layout_engine("none")
    title = fold(figure, title, figure.get_figwidth() - 6 * gap, 10)
    more = 0.17 * title.count("\n")
    head += more
    height = head + len(originals) * (side + words) + gap
    figure.set_figheight(height * figure.get_figwidth() / width)

    def place(tile: Tile | None, row: int, left: float) -> None:
        bottom = height - head - row * (side + words) - side
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        if tile is None:
            axes.set_facecolor("#eeeeee")
            axes.text(0.5, 0.5, "not in\nthis epoch", ha="center", va="center", fontsize=7, color=GRAY)
            return
        axes.imshow(tile[0], interpolation="nearest")
        axes.text(0.5, -0.03, tile[1], ha="center", va="top", fontsize=6, transform=axes.transAxes, linespacing=1.1)

    def write(text: str, left: float, below_top: float, size: float, color: str = INK) -> None:
        figure.text(left / width, 1 - below_top / height, text, ha="left", va="top", fontsize=size, color=color)

    write(title, 3 * gap, 0.08, 10)
    left = 3 * gap
    write("original", left, head - 0.16, 7, GRAY)
    for row, tile in enumerate(originals):
        place(tile, row, left)
    left += side + 4 * gap
    for text, (_, names, rows) in zip(titles, blocks, strict=True):
        write(text, left, 0.34 + more, 7.5, BLUE)
        for column, name in enumerate(names):
            write(name, left + column * (side + gap), head - 0.16, 7, GRAY)
            for row, cells in enumerate(rows):
                place(cells[column], row, left + column * (side + gap))
        left += len(names) * (side + gap) + 3 * gap
    return figure


Bar = tuple[int, int, str, float]  # a setting from one epoch to another, its words, how dark the bar is (0: none)


@in_style
def draw_timeline(
    rates: Sequence[float], steps: int, bounds: Sequence[int], rows: Mapping[str, Sequence[Bar]], title: str
) -> Figure:
    """The learning rate of every step, and below it a line per setting with its value in each phase.

    steps: of an epoch; bounds: the epochs at which phases begin, and the last one's end.
    """
    full = 150  # letters across the picture
    words = {
        name: [textwrap.fill(text, max(10, round(full * (right - left) / bounds[-1]))) for left, right, text, _ in bars]
        for name, bars in rows.items()
    }
    lines = [max(text.count("\n") + 1 for text in texts) for texts in words.values()]
    heights = [3.2, *(0.23 + 0.12 * count for count in lines)]
    figure = new_figure(11, sum(heights) + 0.9)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    axes[0].plot(np.arange(1, len(rates) + 1) / steps, rates, color=BLUE, linewidth=1.4)
    axes[0].set_ylabel("learning rate")
    axes[0].set_ylim(bottom=0)
    set_title(figure, title)
    for panel, (name, bars) in zip(axes[1:], rows.items(), strict=True):
        panel.set_yticks([])
        panel.grid(visible=False)
        panel.set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center", fontsize=9)
        panel.spines["left"].set_visible(False)
        for (left, right, _, strength), text in zip(bars, words[name], strict=True):
            if strength:
                panel.axvspan(left, right, facecolor=ORANGE, alpha=strength, edgecolor="white", linewidth=3)
            under = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5}  # keeps boundaries out of the words
            middle, of_axes = (left + right) / 2, panel.get_xaxis_transform()
            panel.text(middle, 0.5, text, ha="center", va="center", fontsize=7, transform=of_axes, bbox=under)
    for panel in axes:
        for boundary in bounds[1:-1]:
            panel.axvline(boundary, color=GRAY, linestyle="--", linewidth=0.8)
    axes[-1].set_xlabel("epoch")
    axes[-1].set_xlim(0, bounds[-1])
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


@in_style
def draw_cells(cells: Sequence[tuple[str, Sequence[float]]], title: str, split: str = "val") -> Figure:
    """A line per cell of a sweep, or recipe, in order: its seeds as dots, their mean, whiskers of one sd; accuracies in %."""
    figure = new_figure(9, 1.5 + 0.32 * len(cells))
    axes = figure.subplots()
    several = max(len(values) for _, values in cells) > 1
    label = "mean, sd between seeds" if several else "the one seed"
    for row, (_, values) in enumerate(cells):
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        axes.errorbar(np.mean(values), row, xerr=spread, fmt="D", color=BLUE, markersize=6, capsize=4, label=label)
        if several:  # a little below the mean, which would hide them
            axes.plot(
                values, [row + 0.25] * len(values), "o", color=ORANGE, markersize=4, alpha=0.8, label="_" if row else "a seed"
            )
        label = "_"  # matplotlib leaves out of the legend what begins so
    axes.set_yticks(range(len(cells)), [name for name, _ in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_xlabel(f"{split} accuracy, %")
    percent_ticks(axes.xaxis)
    figure.legend(loc="outside lower right", ncols=2)
    set_title(figure, title)
    return figure


@dataclass(frozen=True)
class Dots:
    """A parameter of a sweep: where each cell stands on it, and how high."""

    name: str
    values: Sequence[float]  # of each cell: the number itself, or the index among `labels`
    heights: Sequence[float]  # accuracies in %
    labels: Sequence[str] = ()  # of the values to choose from; none: the values are numbers on a scale
    log: bool = False


@in_style
def draw_marginals(panels: Sequence[Dots], title: str) -> Figure:
    """A panel per parameter: the cells as dots, and the mean of all cells at each value (of numbers: in each fifth of them)."""
    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    figure = new_figure(max(6.0, 3.4 * columns), 0.9 + 3.2 * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    scales = [panel for panel in panels if not panel.labels]
    means_drawn = not scales or any(len(panel.values) >= FEWEST_FOR_FIFTHS for panel in scales)
    mean_label = "mean of the cells" + (" (along a scale: of each fifth of them)" if scales and means_drawn else "")
    labelled = False  # is the mean in the legend yet?
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        panel = panels[place]
        values, heights = np.asarray(panel.values, float), np.asarray(panel.heights, float)
        groups = [values == index for index in range(len(panel.labels))] if panel.labels else _fifths(values)
        # Dots of one value stand side by side, by steps of the golden ratio, so that they hardly hide one another.
        shift = 0.36 * (np.arange(len(values)) * 0.618034 % 1 - 0.5) if panel.labels else 0.0
        axes.plot(values + shift, heights, "o", color=GRAY, markersize=4, alpha=0.45, label="_" if place else "a cell")
        means = [(values[group].mean(), heights[group].mean()) for group in groups if group.any()]
        axes.plot(
            [value for value, _ in means],
            [height for _, height in means],
            "D-",
            color=BLUE,
            markersize=7,
            linewidth=1.6,
            label=mean_label if means and not labelled else "_",
        )
        labelled |= bool(means)
        if panel.labels:
            long = max(map(len, panel.labels)) > 6
            axes.set_xticks(
                range(len(panel.labels)), panel.labels, rotation=30 if long else 0, ha="right" if long else "center", fontsize=9
            )
            axes.set_xlim(-0.5, len(panel.labels) - 0.5)
        elif panel.log:
            logarithmic(axes, panel.values)
        elif all(isinstance(value, int) for value in panel.values):
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(panel.name)
        if place % columns == 0:
            axes.set_ylabel("val accuracy, %")
    percent_ticks(grid[0, 0].yaxis)  # which all panels share
    figure.legend(loc="outside lower right", ncols=2)
    set_title(figure, title)
    return figure


FEWEST_FOR_FIFTHS = 10


def _fifths(values: npt.NDArray[np.float64]) -> list[npt.NDArray[np.bool_]]:
    """Masks of the cells in each fifth of the values, from low to high; of few cells such means would say nothing: none."""
    if len(values) < FEWEST_FOR_FIFTHS:
        return []
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return [ranks * 5 // len(values) == part for part in range(5)]

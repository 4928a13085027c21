"""What is written in figures fits them: titles, legends, captions and names, in the style of a screen and of a paper."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import NAMES, made, photographs

from cifar_small.evaluation.calibrate import Study, Trial, fit, judge
from cifar_small.evaluation.entries import EntryRow, Score
from cifar_small.evaluation.evaluate import evaluate, plain_evaluation
from cifar_small.evaluation.shift import ShiftMatrix
from cifar_small.figures.confusion import draw_confusion
from cifar_small.figures.data_survey import draw_class_counts, draw_samples, draw_tiles, side_by_side
from cifar_small.figures.estimate import draw_study
from cifar_small.figures.evaluation import draw_accuracy_over_cost, draw_confused, draw_per_class, draw_reliability
from cifar_small.figures.fitting import fold, legend_below, width_of
from cifar_small.figures.run import (
    Progress,
    draw_accuracy_over_time,
    draw_cells,
    draw_contact_sheet,
    draw_curves,
    draw_timeline,
    draw_val_accuracy,
)
from cifar_small.figures.shift import draw_matrix
from cifar_small.figures.style import INK, Figure, in_style, new_figure, paper_style
from cifar_small.inference.ensemble import combine
from cifar_small.metrics.classification import wilson_interval
from cifar_small.reporting.evaluation_files import title_of
from cifar_small.runs.records import ShiftFacts

LONG = "wide_resnet_with_cutmix_and_a_long_schedule"
TITLE = "mean of probabilities: " + ", ".join(f"{LONG} (seed {seed})" for seed in range(6))
ORDINARY = "resnet_hour, seed 0: val, views flip_shift, 1,234,567 parameters\n91.22 % right, 95 % interval 90.1 % to 92.1 %"
STYLES = [pytest.param(nullcontext, id="screen"), pytest.param(paper_style, id="paper")]
Style = Callable[[], AbstractContextManager[None]]


def texts_of(figure: Figure) -> list[Any]:
    """Every text that is shown in a figure, laid out."""
    from matplotlib.text import Text

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "axes sizes collapsed to zero"
        figure.draw_without_rendering()
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    drawn = [tick for axis in axes if axis.axes.axison for tick in axis._update_ticks()]  # others lie outside
    labels = {id(label) for tick in drawn for label in (tick.label1, tick.label2)} | {id(axis.label) for axis in axes}
    of_axes = {id(text) for axis in axes for text in axis.findobj(Text)}
    every = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    return [text for text in every if id(text) not in of_axes or id(text) in labels]


def cut(figure: Figure) -> list[str]:
    """The texts that reach over the edge of their figure by more than a pixel."""
    texts = texts_of(figure)
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [(text, text.get_window_extent()) for text in texts]
    return [text.get_text() for text, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]


def overlapping(texts: list[Any]) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than a sliver."""
    boxes = [text.get_window_extent().padded(-1) for text in texts]
    pairs = [(one, other) for one in range(len(boxes)) for other in range(one)]
    return [(texts[one].get_text(), texts[other].get_text()) for one, other in pairs if boxes[one].overlaps(boxes[other])]


def curve(runs: int, name: str = LONG) -> list[tuple[str, list[dict[str, Any]]]]:
    epochs = range(1, 6)
    return [(f"{name}{run}", [{"epoch": one, "val_accuracy": 0.1 * one + 0.01 * run} for one in epochs]) for run in range(runs)]


# ----------------------------------------------------------------------------------------------------------------- folding


@given(st.text("ab_-. ", max_size=60), st.floats(0.3, 3))
def test_folded_words_are_the_same_words_in_lines_that_fit(words: str, inches: float) -> None:
    figure = new_figure(6, 4)
    lines = fold(figure, words, inches).split("\n")
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")
    assert all(width_of(figure, line) <= inches + 0.01 for line in lines)
    assert not figure.texts


def test_words_are_broken_only_where_they_must() -> None:
    figure = new_figure(6, 4)
    assert fold(figure, "called Black_footed_Albatross\n99.9 %", 9) == "called Black_footed_Albatross\n99.9 %"
    assert fold(figure, "called Black_footed_Albatross", 1.8) == "called\nBlack_footed_Albatross"
    assert fold(figure, "called Black_footed_Albatross", 1.5) == "called Black_footed_\nAlbatross"
    assert fold(figure, "x" * 40, 1.0).count("\n") >= 2


def test_a_legend_takes_the_columns_that_fit_and_the_figure_grows_by_the_lines_beyond_its_room() -> None:
    @in_style
    def drawn(*names: str, room: int = 0) -> tuple[int, float]:
        figure = new_figure(6, 4)
        handles = figure.subplots().plot([0], np.zeros((1, len(names))))
        legend_below(figure, handles, names, 3, room=room)
        assert cut(figure) == []
        (legend,) = figure.legends
        return legend._ncols, figure.get_figheight()

    assert drawn("a", "b", "c", room=1) == (3, 4.0)
    assert drawn("a" * 30, "b" * 30, "c", room=1)[0] == 2
    columns, height = drawn("a" * 50, "b" * 50, "c" * 50, room=1)
    assert columns == 1
    assert height > 4.2
    assert drawn("a" * 200, room=0)[1] > drawn("a" * 20, room=0)[1]


# --------------------------------------------------------------------------------------------------------- titles, legends


def evaluated(classes: int = 3) -> Any:
    labels = np.arange(60) % classes
    names = tuple(f"class_{label}" for label in range(classes))
    return evaluate(made(np.where(np.arange(60) % 5, labels, 0), labels=labels, classes=names, seed=1, split="val"))


PIXELS = photographs(8)
CURVES = [
    {"epoch": epoch, "lr": 0.1, "train_targets": "hard"}
    | {f"{part}_{key}": 0.1 * epoch for part in ("train", "val") for key in ("loss", "accuracy")}
    for epoch in (1, 2, 3)
]
TITLED: dict[str, Callable[[str], Figure]] = {
    "confusion": lambda title: draw_confusion(evaluated().counts, ("a", "b", "c"), title),
    "confused": lambda title: draw_confused(evaluated().confused, title),
    "per_class": lambda title: draw_per_class(evaluated().classes, title),
    "reliability": lambda title: draw_reliability(evaluated(), title),
    "class_counts": lambda title: draw_class_counts({"train": np.arange(1, 4)}, ("a", "b", "c"), title),
    "samples": lambda title: draw_samples([("a", PIXELS[:3]), ("b", PIXELS[3:6])], title),
    "tiles": lambda title: draw_tiles([(pixels, "a", "called b\n99 %") for pixels in PIXELS], title),
    "curves": lambda title: draw_curves(CURVES, [], title),
    "cells": lambda title: draw_cells([("a", [90.0, 91.0])], title),
    "timeline": lambda title: draw_timeline([0.1] * 4, 2, [0, 2], {"mixup": [(0, 2, "0.2", 0.3)]}, title),
    "contact_sheet": lambda title: draw_contact_sheet([(PIXELS[0], "a")], [("b", ["c"], [[(PIXELS[0], "d")]])], title),
}


@pytest.mark.parametrize("name", TITLED)
def test_a_long_title_is_folded_and_costs_the_panels_nothing(name: str) -> None:
    short, long = TITLED[name]("short"), TITLED[name](TITLE)
    assert cut(long) == []
    assert cut(short) == []
    heights = [figure.axes[0].get_window_extent().height for figure in (short, long)]
    assert heights[1] == pytest.approx(heights[0], rel=0.06)
    assert TITLE[:20] in "".join(text.get_text() for text in texts_of(long))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_an_ordinary_title_and_the_words_of_the_color_bar_fit_a_matrix_of_few_classes(classes: int, style: Style) -> None:
    counts = np.full((classes, classes), 3) + np.diag([90] * classes)
    with style():
        figure = draw_confusion(counts, NAMES[:classes], ORDINARY)
    assert cut(figure) == []
    assert figure.axes[0].get_window_extent().width > 0.4 * figure.get_figwidth() * figure.dpi


@pytest.mark.parametrize("letters", [1, 14, 40])
@pytest.mark.parametrize("title", ["", "a line", ORDINARY])
def test_the_words_beside_a_matrix_of_many_classes_are_whole(letters: int, title: str) -> None:
    counts = np.diag([90] * 30) + np.diag([10] * 29, 1)
    figure = draw_confusion(counts, [f"{label:x>{letters}}" for label in range(30)], title)
    assert cut(figure) == []
    assert figure.axes[0].get_window_extent().width > 0.4 * figure.get_figwidth() * figure.dpi


def test_titles_of_ensembles_say_how_many_nets_there_are() -> None:
    labels = np.arange(20) % 10
    members = [made(labels, labels=labels, seed=seed, name=LONG, split="val", run=f"run{seed}") for seed in range(3)]
    evaluation = evaluate(combine(members, "probabilities"))
    assert title_of(evaluation, short=True).startswith("mean of probabilities of 3 nets: val, ")
    assert title_of(evaluation).count(LONG) == 3
    assert plain_evaluation(evaluation)["predictions"]["name"].count(LONG) == 3  # type: ignore[index]
    assert "short_name" not in plain_evaluation(evaluation)
    assert title_of(evaluate(members[0]), short=True) == title_of(evaluate(members[0]))


@pytest.mark.parametrize("style", STYLES)
def test_lines_of_val_accuracy_differ_and_many_or_long_names_stand_below_them(style: Style) -> None:
    with style():
        few, many, long = (draw_val_accuracy(runs) for runs in (curve(3, "net"), curve(20, "net"), curve(2, LONG * 2)))
    (axes,) = many.axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 20
    assert few.axes[0].get_legend() is not None
    assert not few.legends
    for figure in (many, long):
        assert figure.axes[0].get_legend() is None
        assert cut(figure) == []
        (legend,) = figure.legends
        assert legend.get_window_extent().y1 <= figure.axes[0].get_window_extent().y0
        heights = [one.axes[0].get_window_extent().height for one in (few, figure)]
        assert 0.95 < heights[1] / heights[0] < 1.15
    named = ["".join(text.get_text().split()) for text in many.legends[0].get_texts()]
    assert named == [name for name, _ in curve(20, "net")]


def progress(name: str, share: float, val: list[float]) -> Progress:
    test = (400.0, share, wilson_interval(round(share * 10_000), 10_000))
    return Progress(name, [100.0 * (1 + place) for place in range(len(val))], val, [test], 5000, 10_000)


def test_long_names_in_the_picture_of_time_stand_in_one_column() -> None:
    short, long = (
        draw_accuracy_over_time(
            [progress(f"{name}{one}: 94.14 % on test, n = 2", 0.9, [0.5, 0.9]) for one in range(8)], "cifar10"
        )
        for name in ("net", LONG)
    )
    assert [figure.legends[0]._ncols for figure in (short, long)] == [2, 1]
    assert cut(short) == cut(long) == []
    heights = [figure.axes[0].get_window_extent().height for figure in (short, long)]
    assert heights[1] == pytest.approx(heights[0], rel=0.06)


def test_an_accuracy_of_a_hundred_per_cent_is_drawn_as_half_an_image() -> None:
    figure = draw_accuracy_over_time([progress("one", 1.0, [0.5, 0.9, 1.0])], "mnist")
    (axes,) = figure.axes
    line, mark = axes.lines[:2]
    assert list(line.get_ydata()) == pytest.approx([50, 10, 0.01])
    assert list(mark.get_ydata()) == pytest.approx([0.005])
    assert min(axes.get_ylim()) < 0.005
    (whisker,) = (bars.get_segments()[0] for bars in axes.collections)
    assert sorted(whisker[:, 1]) == pytest.approx([0.005, 100 * (1 - wilson_interval(10_000, 10_000)[0])])
    figure.draw_without_rendering()
    labels = [label for label in axes.get_yticklabels() if label.get_text()]
    assert "99.995 %" in {label.get_text() for label in labels}
    assert overlapping(labels) == []


@pytest.mark.parametrize("name", ["net", LONG, TITLE])
@pytest.mark.parametrize("others", [0, 1, 11, 23])
def test_the_key_of_the_cost_picture_is_folded_into_the_figure(name: str, others: int) -> None:
    row = EntryRow(**dict.fromkeys(EntryRow.__dataclass_fields__) | {"name": name, "parameters": 20_000, "macs": 10**6})  # type: ignore[arg-type]
    facts = {"budget": 100_000, "faults": (), "lineage": (), "scores": {"val": Score(90, 100, "")}, "minutes": 2.0}
    rows = [EntryRow(**vars(row) | facts | {"minutes": 2.0 + one}) for one in range(1 + others)]
    figure = draw_accuracy_over_cost(rows, "val", "What accuracy on val costs")
    assert cut(figure) == []
    key = [text for text in figure.axes[-1].texts if text.get_text()]
    assert len(key) == len(rows) + 1
    assert overlapping(key) == []
    assert all(text.get_window_extent().x0 > figure.axes[0].get_window_extent().x1 for text in key)


def test_the_legend_of_classes_has_what_any_panel_shows() -> None:
    """Where all is called one class, no class of the first panel has a precision."""
    labels = np.arange(300) % 60
    evaluation = evaluate(made(np.full(300, 7), labels=labels, classes=tuple(f"class_{one}" for one in range(60))))
    (legend,) = draw_per_class(evaluation.classes, "collapsed").legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("95 % interval of recall", "recall: found of the class's images", "precision: right of those called so")
    ]


def test_the_legend_of_ordinary_classes_is_one_row() -> None:
    (legend,) = draw_per_class(evaluated(10).classes, ORDINARY).legends
    assert legend._ncols == 3


# ---------------------------------------------------------------------------------------------------------------- captions


@pytest.mark.parametrize(
    ("above", "below"),
    [("aquarium_fish", "sweet_pepper"), ("Black_footed_Albatross", "Laysan_Albatross"), ("x" * 27, "y" * 60)],
)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("wide", [False, True])
def test_captions_of_tiles_neither_overlap_nor_take_room_from_the_images(
    above: str, below: str, style: Style, wide: bool
) -> None:
    def drawn(above: str, below: str) -> Figure:
        images = [side_by_side(pixels, pixels) if wide else pixels for pixels in PIXELS]
        with style():
            return draw_tiles([(pixels, above, f"called {below}\n99.9 %") for pixels in images], "eight mistakes")

    short, long = drawn("cat", "dog"), drawn(above, below)
    assert cut(long) == []
    captions = texts_of(long)
    assert overlapping(captions) == []
    sizes = [[axes.get_window_extent().size for axes in figure.axes] for figure in (short, long)]
    assert np.allclose(*sizes)
    boxes = [axes.get_window_extent().padded(-1) for axes in long.axes]
    assert not any(box.overlaps(text.get_window_extent()) for box in boxes for text in captions)
    assert {"".join(axes.get_title().split()) for axes in long.axes} == {above}


# ------------------------------------------------------------------------------------------------------- scales and limits


@pytest.mark.parametrize("wrong", [1, 2, 8, 20, 55, 300])
def test_ticks_of_the_color_bar_say_their_own_values(wrong: int) -> None:
    counts = np.diag([500] * 10)
    counts[3, 5] = wrong
    bar = draw_confusion(counts, NAMES).axes[1]
    bar.figure.draw_without_rendering()
    said = [float(label.get_text().rstrip("%")) for label in bar.get_yticklabels()]
    assert said == pytest.approx([100 * tick for tick in bar.get_yticks()], rel=1e-4)
    assert len(set(said)) == len(said)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "names", [NAMES, [f"class_{one}" for one in range(20)], [f"Northern_flicker_woodpecker_{one}" for one in range(12)]]
)
def test_names_of_classes_beside_a_matrix_do_not_overlap(names: list[str], style: Style) -> None:
    with style():
        figure = draw_confusion(np.full((len(names),) * 2, 3) + np.diag([480] * len(names)), names, ORDINARY)
    assert cut(figure) == []
    axes = figure.axes[0]
    assert overlapping(axes.get_yticklabels()) == []
    columns = axes.get_xticklabels()
    angle = np.radians(columns[0].get_rotation())
    apart = np.diff([axes.transData.transform((place, 0))[0] for place in (0, 1)])[0] * np.sin(angle)
    assert apart >= columns[0].get_fontsize() / 72 * figure.dpi
    assert [label.get_text() for label in columns] == list(names)


def facts_of(kind: str, severity: int, family: str) -> ShiftFacts:
    return ShiftFacts(kind=kind, severity=severity, family=family, base="test", base_sha256="x")


def matrix_of(right: float, recipes: int, name: str = "net") -> ShiftMatrix:
    sets = (facts_of("clean", 0, "clean"), facts_of("jpeg", 1, "noise"), facts_of("jpeg", 3, "noise"))
    runs = tuple(f"r{one}" for one in range(recipes))
    correct = np.arange(200) < 200 * right
    return ShiftMatrix(
        runs, {run: (f"{name}{run}", 0) for run in runs}, sets, {(run, one.name): correct for run in runs for one in sets}
    )


@pytest.mark.parametrize(("right", "bright"), [(1.0, True), (0.995, True), (0.5, False)])
def test_numbers_on_shifts_contrast_with_their_cells(right: float, bright: bool) -> None:
    (axes,) = draw_matrix(matrix_of(right, 1)).axes
    (image,) = axes.images
    low, high = image.get_clim()
    assert low < high == 100
    cells = image.to_rgba(image.get_array()).reshape(-1, 4)[:, :3].mean(axis=1)
    assert all((cells > 0.45) == bright)
    assert {text.get_color() == INK for text in axes.texts} == {bright}


def test_titles_above_panels_of_shifts_do_not_run_into_one_another() -> None:
    figure = draw_matrix(matrix_of(0.8, 4, LONG * 2))
    assert cut(figure) == []
    assert overlapping([axes.title for axes in figure.axes]) == []


@pytest.mark.parametrize("offset", [-0.4, 0.0, 0.15])
def test_every_point_of_a_study_is_within_its_limits(offset: float) -> None:
    truths = {"a": ("f1", 0.9), "b": ("f1", 0.88), "c": ("f2", 0.85), "d": ("f2", 0.8)}
    trials = [
        Trial("r", facts_of(kind, 1, family), 2000, 5000, 0.95, truth, {"doc": truth + 0.01, "atc": truth + offset})
        for kind, (family, truth) in truths.items()
    ]
    judged = tuple(judge(name, trials, ["f1", "f2"]) for name in ("doc", "atc"))
    figure = draw_study(Study(tuple(trials), judged, fit("doc", trials), (), ()))
    for axes in figure.axes:
        for line in axes.lines:
            for places, (low, high) in ((line.get_xdata(), axes.get_xlim()), (line.get_ydata(), axes.get_ylim())):
                assert all(low <= place <= high for place in places)

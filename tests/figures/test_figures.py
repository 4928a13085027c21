"""Figures: what is drawn in them, one style, and the same figure as PNG, SVG, PDF and part of a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import made

from cifar_small.evaluation.entries import EntryRow, Score
from cifar_small.evaluation.evaluate import evaluate
from cifar_small.figures.confusion import draw_confusion
from cifar_small.figures.evaluation import draw_accuracy_over_cost, draw_reliability
from cifar_small.figures.run import Dots, draw_cells, draw_curves, draw_marginals, draw_val_accuracy
from cifar_small.figures.style import paper_style, render, save, to_html
from cifar_small.runs.predictions import Predictions

COUNTS = np.array([[3, 1], [0, 4]])
ROWS = [
    {"epoch": epoch, "lr": 0.1, "train_targets": "hard"}
    | {f"{part}_{key}": 0.1 * epoch for part in ("train", "val") for key in ("loss", "accuracy")}
    for epoch in (1, 2, 3)
]


def test_curves_have_every_epoch_and_the_phase_boundary() -> None:
    loss, accuracy, rate = draw_curves(ROWS, [2], "title").axes
    assert [list(line.get_xdata()) for line in loss.lines] == [[1, 2, 3], [1, 2, 3], [2.5, 2.5]]
    assert accuracy.get_title() == "best val 30.00 % at epoch 3"
    assert draw_curves(ROWS, [], selected=2).axes[1].get_title() == "selected: val 20.00 % at epoch 2"
    assert list(rate.lines[0].get_ydata()) == [0.1] * 3


def test_curves_say_what_the_targets_were_and_what_the_loss_is() -> None:
    def train_label(*targets: str) -> str:
        rows = [row | {"train_targets": one} for row, one in zip(ROWS, targets, strict=True)]
        return str(draw_curves(rows, []).axes[0].lines[0].get_label())

    assert train_label("mixed", "mixed", "mixed") == "train (mixed targets)"
    assert train_label("mixed", "mixed", "hard") == "train (mixed targets, epochs 1-2)"
    assert train_label("hard", "mixed", "hard") == "train (mixed targets, epochs 2)"
    assert train_label("hard", "hard", "hard") == "train (augmented)"
    assert draw_curves(ROWS, []).axes[0].get_ylabel() == "cross-entropy, nats"
    assert draw_curves(ROWS, [], distilled=True).axes[0].get_ylabel() == "loss, nats (train: with the teacher's)"


def test_no_tick_stands_above_a_hundred_per_cent() -> None:
    rows = [row | {"val_accuracy": accuracy} for row, accuracy in zip(ROWS, (0.1, 0.9, 1.0), strict=True)]
    figures = [draw_curves(rows, []).axes[1], draw_val_accuracy([("run", rows)]).axes[0]]
    for ticks in [*(axes.get_yticks() for axes in figures), draw_cells([("cell", [99.9, 100.0])], "").axes[0].get_xticks()]:
        assert len(ticks) > 2
        assert max(ticks) <= 100


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.4), (20, 80), (1e-5, 1e-2), (0.1, 0.11)])
def test_a_logarithmic_scale_has_plain_numbers(low: float, high: float) -> None:
    """matplotlib writes powers as formulas, whose source our style would show."""
    values = np.geomspace(low, high, 12)
    panel = Dots("optim.lr", values.tolist(), np.linspace(80, 90, 12).tolist(), log=True)
    figure = draw_marginals([panel], "title")
    render(figure, "png")
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    shown = [label.get_text() for label in axes.get_xticklabels() + axes.get_xticklabels(minor=True)]
    left, right = axes.get_xlim()
    numbers = [float(text) for text in shown if text]
    assert sum(left <= number <= right for number in numbers) >= 1


def test_the_cost_picture_has_the_budgets_line() -> None:
    row = EntryRow(**dict.fromkeys(EntryRow.__dataclass_fields__) | {"name": "a", "parameters": 20_000, "macs": 10**6})  # type: ignore[arg-type]
    row = replace(row, budget=100_000, faults=(), lineage=(), scores={"val": Score(90, 100, "")})
    left, right, _ = draw_accuracy_over_cost([row, replace(row, name="b", macs=2 * 10**6)], "val", "").axes
    assert [list(line.get_xdata()) for line in left.lines if line.get_linestyle() == "--"] == [[100_000, 100_000]]
    assert "budget 100,000" in {text.get_text() for text in left.texts}
    assert left.get_xlim()[1] > 100_000
    assert not [line for line in right.lines if line.get_linestyle() == "--"]


def test_the_cost_picture_has_a_panel_for_what_entries_differ_in() -> None:
    row = EntryRow(**dict.fromkeys(EntryRow.__dataclass_fields__) | {"name": "a", "parameters": 20_000, "macs": 10**6})  # type: ignore[arg-type]
    row = replace(row, budget=100_000, faults=(), lineage=(), scores={"val": Score(90, 100, "")}, train_images=500, minutes=2.0)

    def panels(*others: EntryRow) -> dict[str, list[float]]:
        *axes, _ = draw_accuracy_over_cost([row, *others], "val", "").axes
        return {one.get_xlabel(): [float(bars.lines[0].get_xdata()[0]) for bars in one.containers] for one in axes}

    assert panels() == panels(replace(row, name="b", train_images=None)) | {"parameters": [20_000]}
    assert panels(replace(row, train_images=5000, minutes=9.5), replace(row, train_images=None)) == {
        "parameters": [20_000, 20_000, 20_000],
        "training images": [500, 5000],
        "minutes of training": [2, 9.5, 2],
    }


def test_confusions_show_counts_and_shares() -> None:
    figure = draw_confusion(COUNTS, ["cat", "d&g"], "title")
    axes = figure.axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "3", (1, 0): "1", (1, 1): "4"}
    (cells,) = axes.collections  # mistakes alone are shaded
    assert [path.get_extents().bounds for path in cells.get_paths()] == [(0.5, -0.5, 1.0, 1.0)]
    assert "d&amp;g" in to_html(figure, "x")
    assert not draw_confusion(np.eye(100, dtype=np.int64), [str(one) for one in range(100)]).axes[0].texts


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_names_with_dollars_are_text(kind: str) -> None:
    figure = draw_confusion(COUNTS, ["$x_{$", "a $ b $\\frac$"], "from $5 to $\\bad$")
    content = render(figure, kind)
    assert kind != "svg" or b"$x_{$" in content


def test_reliability_leaves_empty_bins_out() -> None:
    logits = np.log(np.array([[0.6, 0.4]] * 10 + [[0.95, 0.05]] * 30, np.float32))
    base = made(np.zeros(40), labels=np.zeros(40), classes=("a", "b"), split="val")
    predictions = Predictions(base.ids, logits, base.labels, base.classes, base.meta)
    above, below = draw_reliability(evaluate(predictions)).axes
    (bins,) = above.containers
    assert bins.lines[0].get_xdata() == pytest.approx([60, 95])
    assert bins.lines[0].get_linestyle() == "None"
    assert sum(patch.get_height() for patch in below.patches) == pytest.approx(100)


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("", b"\x89PNG")])
def test_the_ending_decides_the_format(ending: str, start: bytes, tmp_path: Path) -> None:
    path = (tmp_path / "figure").with_suffix(f".{ending}" if ending else "")
    save(draw_curves(ROWS, []), path)
    first = path.read_bytes()
    assert first.startswith(start)
    save(draw_curves(ROWS, []), path)
    assert path.read_bytes() == first  # the same figure, the same bytes


def test_a_paper_gets_figures_as_wide_as_a_column() -> None:
    with paper_style():
        figure = draw_confusion(COUNTS, ["cat", "dog"])
        assert b"/Type3" not in render(figure, "pdf")
    assert figure.get_figwidth() == pytest.approx(3.3)
    assert draw_confusion(COUNTS, ["cat", "dog"]).get_figwidth() > 3.3


def test_pictures_have_two_hundred_dots_an_inch(tmp_path: Path) -> None:
    save(draw_curves(ROWS, []), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (2400, 720)

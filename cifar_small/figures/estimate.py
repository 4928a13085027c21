"""Pictures of estimates without labels: estimated against true accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from cifar_small.evaluation.calibrate import Study, Trial
from cifar_small.figures.fitting import legend_below
from cifar_small.figures.style import GRAY, INK, LINES, Figure, in_style, new_figure

MARKERS = "o^sDv"  # when the colors are used up


@in_style
def draw_study(study: Study) -> Figure:
    """A panel for each estimator as published, and one for the chosen one after its slope: each run on each shift a point."""
    methods = [one.method for one in study.judged]
    panels: list[tuple[str, list[float]]] = [
        (name, [trial.raw[name] for trial in study.trials])
        for name in methods
        if all(name in trial.raw for trial in study.trials)
    ]
    chosen = study.chosen
    scaled = [chosen.apply(trial.raw[chosen.method], trial.val, trial.images, trial.val_images)[0] for trial in study.trials]
    panels.insert(0, (f"{chosen.method}, drops x {chosen.slope:g} (chosen)", scaled))
    rows = -(-len(panels) // 4)
    figure = new_figure(12.5, 0.7 + 3.3 * rows)
    grid = figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False)
    # Each trial stands once: under its family, or as untouched.
    groups = ["" if trial.shift.kind in study.untouched_kinds else trial.shift.family for trial in study.trials]
    truths = [trial.truth for trial in study.trials]
    low = 100 * min(truths) - 3
    estimates = [value for _, values in panels for value in values]
    lowest, highest = min(low, 100 * min(estimates) - 3), 100 * max(1.0, *estimates)
    for axes, (title, values) in zip(grid.flat, panels, strict=False):
        axes.plot([low, 100], [low, 100], color=GRAY, linewidth=1, linestyle="--")
        for number, family in enumerate(sorted({*groups} - {""})):
            places = [place for place, group in enumerate(groups) if group == family]
            marker, color = MARKERS[number // len(LINES) % len(MARKERS)], LINES[number % len(LINES)]
            axes.plot(*_points(study.trials, values, places), marker, color=color, markersize=3, alpha=0.6, mew=0, label=family)
        if places := [place for place, group in enumerate(groups) if not group]:
            axes.plot(*_points(study.trials, values, places), "x", color=INK, markersize=4, mew=0.8, label="untouched")
        axes.set_title(title)
        axes.set_xlim(low, 100)
        axes.set_ylim(lowest, highest)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[max(len(panels) - 4, 0) : len(panels)]:  # the lowest of each column
        axes.set_xlabel("true accuracy, %")
        axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("estimated accuracy, %")
    handles, names = grid[0, 0].get_legend_handles_labels()
    legend_below(figure, handles, names, 6, room=1, markerscale=2)
    return figure


def _points(trials: Sequence[Trial], values: Sequence[float], places: Sequence[int]) -> tuple[list[float], list[float]]:
    return [100 * trials[place].truth for place in places], [100 * values[place] for place in places]

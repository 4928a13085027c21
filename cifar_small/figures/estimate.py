"""Pictures of estimates without labels: estimated against true accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from cifar_small.evaluation.calibrate import Study, Trial
from cifar_small.figures.style import GREY, INK, LINES, Figure, in_style, new_figure

FAMILY_COLORS = dict(zip(("noise", "blur", "weather", "digital", "jpeg", "resample", "color"), LINES, strict=True))


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
    scaled = [chosen.apply(trial.raw[chosen.method], trial.val, trial.images)[0] for trial in study.trials]
    panels.insert(0, (f"{chosen.method}, drops x {chosen.slope:g} (the default)", scaled))
    rows = -(-len(panels) // 4)
    figure = new_figure(12.5, 0.7 + 3.3 * rows)
    grid = figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False)
    low = 100 * min(trial.truth for trial in study.trials) - 3
    for axes, (title, values) in zip(grid.flat, panels, strict=False):
        axes.plot([low, 100], [low, 100], color=GREY, linewidth=1, linestyle="--")
        for family, color in FAMILY_COLORS.items():
            places = [place for place, trial in enumerate(study.trials) if trial.shift.family == family]
            axes.plot(*_points(study.trials, values, places), "o", color=color, markersize=3, alpha=0.6, mew=0, label=family)
        places = [place for place, trial in enumerate(study.trials) if trial.shift.kind in study.untouched_kinds]
        if places:
            axes.plot(*_points(study.trials, values, places), "x", color=INK, markersize=4, mew=0.8, label="untouched")
        axes.set_title(title)
        axes.set_xlim(low, 100)
        axes.set_ylim(low, 100)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("true accuracy, %")
    for axes in grid[:, 0]:
        axes.set_ylabel("estimated accuracy, %")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=10, markerscale=2)
    return figure


def _points(trials: Sequence[Trial], values: Sequence[float], places: Sequence[int]) -> tuple[list[float], list[float]]:
    return [100 * trials[place].truth for place in places], [100 * values[place] for place in places]

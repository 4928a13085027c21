"""Pictures of other sources: accuracy by kind and severity of shift."""

from __future__ import annotations

import numpy as np

from cifar_small.evaluation.shift import CLEAN, ShiftMatrix, recipe_runs
from cifar_small.figures.fitting import fold, grow, set_title
from cifar_small.figures.style import INK, WHITE, Figure, in_style, new_figure


@in_style
def draw_matrix(matrix: ShiftMatrix) -> Figure:
    """A panel for each recipe, mean over its seeds: accuracy in % of each kind (row) and severity (column)."""
    recipes, kinds = recipe_runs(matrix), matrix.kinds()
    clean, rows = kinds.get(CLEAN), {kind: shifts for kind, shifts in kinds.items() if kind != CLEAN}
    columns = sorted({one.severity for shifts in rows.values() for one in shifts})
    panel = max(0.62 * len(columns), 2.6)  # inches
    width = 2.0 + panel * len(recipes)
    figure = new_figure(width, 1.4 + 0.24 * len(rows))
    panels = figure.subplots(1, len(recipes), sharey=True, squeeze=False)[0]
    grids = {recipe: np.full((len(rows), len(columns)), np.nan) for recipe in recipes}
    for recipe, runs in recipes.items():
        for row, shifts in enumerate(rows.values()):
            for one in shifts:
                mean = np.mean([matrix.accuracy(run, one) for run in runs.values()])
                grids[recipe][row, columns.index(one.severity)] = 100 * mean
    # Where all is right there must be a range yet, whose upper end that is.
    low = min(99.0, float(np.nanmin([np.nanmin(grid) for grid in grids.values()])))
    names: list[str] = []
    for axes, (recipe, grid) in zip(panels, grids.items(), strict=True):
        axes.imshow(grid, cmap="cividis", vmin=low, vmax=100, aspect="auto")
        for row, column in zip(*np.nonzero(np.isfinite(grid)), strict=True):
            value = grid[row, column]
            dark = value < (low + 100) / 2
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=WHITE if dark else INK)
        axes.set_xticks(range(len(columns)), [str(one) if one else "all" for one in columns])
        axes.set_yticks(range(len(rows)), list(rows), fontsize=8.5)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        runs = recipes[recipe]
        untouched = (
            "" if clean is None else f"\nclean {100 * np.mean([matrix.accuracy(run, clean[0]) for run in runs.values()]):.1f} %"
        )
        seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
        names.append(fold(figure, f"{recipe}{seeds}{untouched}", 0.9 * panel * figure.get_figwidth() / width, 9))
        axes.set_title(names[-1], fontsize=9)
        axes.set_xlabel("severity")
    grow(figure, max(name.count("\n") for name in names) - (clean is not None), 9)
    set_title(figure, "Accuracy under shifts, %")
    return figure

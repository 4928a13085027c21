"""Accuracy under shifts for readers: tables for the terminal; CSV, Markdown and a picture in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cifar_small.evaluation.shift import ShiftMatrix, ShiftTest, mean_error, recipe_runs, recipe_tests
from cifar_small.figures.shift import draw_matrix
from cifar_small.figures.style import save
from cifar_small.files import to_csv, write_atomic
from cifar_small.reporting.comparison_tables import p_text
from cifar_small.reporting.tables import Table, to_markdown, to_text

COLUMNS = ("run", "recipe", "seed", "kind", "family", "severity", "base", "images", "accuracy")


def describe_matrix(matrix: ShiftMatrix) -> str:
    """The tables, for the terminal."""
    return to_text(shift_tables(matrix))


def shift_tables(matrix: ShiftMatrix) -> list[Table]:
    """A row for each kind, a column for each recipe, and the tests against the first."""
    recipes, tests = recipe_runs(matrix), recipe_tests(matrix)
    named = {(test.kind, test.second): test for test in tests}
    first, *others = recipes
    header = ["kind", "severities", first]
    for other in others:
        header += [other, "difference", "Holm"]
    rows = []
    for kind, shifts in matrix.kinds().items():
        cells = [kind, " ".join(str(one.severity) for one in shifts) if shifts[0].severity else ""]
        for recipe, runs in recipes.items():
            means = [float(np.mean([matrix.accuracy(run, one) for one in shifts])) for run in runs.values()]
            cells.append(_mean_text(means))
            cells += [] if recipe == first else _test_cells(named.get((kind, recipe)))
        rows.append(tuple(cells))
    errors = {recipe: [mean_error(matrix, run) for run in runs.values()] for recipe, runs in recipes.items()}
    if all(None not in found for found in errors.values()):
        cells = ["mean corruption error", ""]
        for recipe, found in errors.items():
            cells += [_mean_text([value for value in found if value is not None]), *([] if recipe == first else ["", ""])]
        rows.append(tuple(cells))
    notes = [f"accuracy in %, mean over severities, on {_images_text(matrix)}; over several seeds their mean and sd"]
    if tests:
        ways = " and ".join(sorted({test.by for test in tests}))
        notes.append(
            f"difference: points above {first} with its 95 % interval, by Student's t over {ways}; Holm: p corrected for all "
            f"{len(tests)} tests"
        )
    if len(rows) > len(matrix.kinds()):
        notes.append("mean corruption error: 100 - accuracy, mean over the 15 kinds of Hendrycks & Dietterich, not relative")
    return [Table("Accuracy under shifts", tuple(header), tuple(rows), tuple(notes), "shifts")]


def _images_text(matrix: ShiftMatrix) -> str:
    """How many images a set has; where sets differ, which have how many."""
    counts: dict[int, list[str]] = {}
    for kind, shifts in matrix.kinds().items():
        counts.setdefault(len(matrix.correct[matrix.runs[0], shifts[0].name]), []).append(kind)
    most, *others = sorted(counts, key=lambda count: -len(counts[count]))
    return ", ".join([f"{most:,} images", *(f"{count:,} of {' and '.join(counts[count])}" for count in others)])


def _mean_text(values: list[float]) -> str:
    mean = f"{100 * np.mean(values):.2f}"
    return f"{mean} ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


def _test_cells(test: ShiftTest | None) -> list[str]:
    if test is None:
        return ["", ""]
    return [f"{100 * test.difference:+.2f} [{100 * test.low:+.2f}, {100 * test.high:+.2f}]", p_text(test.p_holm)]


def write_matrix(matrix: ShiftMatrix, folder: Path) -> list[Path]:
    """Write every accuracy (CSV), the tables (Markdown) and the picture; returns the paths."""
    rows = [
        [run, *matrix.recipes[run], one.kind, one.family, one.severity, one.base, len(right), f"{right.mean():.6f}"]
        for run in matrix.runs
        for one in matrix.sets
        for right in [matrix.correct[run, one.name]]
    ]
    paths = [folder / name for name in ("matrix.csv", "matrix.md", "matrix.png")]
    write_atomic(paths[0], to_csv(COLUMNS, rows).encode())
    write_atomic(paths[1], (to_markdown(shift_tables(matrix)) + "\n").encode())
    save(draw_matrix(matrix), paths[2])
    return paths

"""The results of a sweep: a row per cell, the winner's config, a picture. Chosen on val; the test split is never read."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_small.config.hashing import dump_config
from cifar_small.figures.run import Dots, draw_cells, draw_marginals
from cifar_small.figures.style import save
from cifar_small.files import to_csv, write_atomic
from cifar_small.reporting.tables import Table, aligned, to_markdown
from cifar_small.sweep.cells import Cell
from cifar_small.sweep.claims import holder
from cifar_small.sweep.spec import Range, Sweep
from cifar_small.sweep.states import RunState, SweepDirectory, job_name
from cifar_small.wording import plural

SHOWN = 20  # rows on the terminal; the table file has them all
MOST_DRAWN = 40  # cells that a picture with a line for each can hold
NOTE = (
    "Sorted by val: the mean over seeds of the accuracy of the weights each run selected. The winner was chosen on val only, "
    "so its own accuracy is slightly optimistic; the test split was not read. sd: between seeds. minutes: all seeds together."
)


@dataclass(frozen=True)
class CellResult:
    """The runs of a cell so far, and what they add up to."""

    cell: Cell
    states: tuple[RunState, ...]  # by seed
    running: int  # seeds that are being trained

    @property
    def accuracies(self) -> list[float]:
        """Val accuracy of each seed that is done, as shares."""
        return [state.facts["val_accuracy"] for state in self.states if state.kind == "done"]

    @property
    def complete(self) -> bool:
        """Are all seeds done? Only such a cell can win: means over different sets of seeds are not comparable."""
        return len(self.accuracies) == len(self.states)

    @property
    def mean(self) -> float | None:
        """Mean val accuracy of the seeds done."""
        return statistics.mean(self.accuracies) if self.accuracies else None

    @property
    def sd(self) -> float | None:
        """Standard deviation between seeds, from two on."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def minutes(self) -> float | None:
        """Of all seeds done together; None without any: what was stopped early is not counted."""
        seconds = [float(state.facts["seconds"]) for state in self.states if state.kind == "done"]
        return sum(seconds) / 60 if seconds else None

    @property
    def state(self) -> str:
        """In words: done, skipped, failed with the reason, pruned, running or open."""
        if self.cell.excess:
            return f"skipped: {self.cell.excess:,} parameters over the budget"
        for state in self.states:
            if state.kind == "failed":
                return f"failed: {state.facts['reason']}"
            if state.kind == "pruned":
                return f"pruned after epoch {state.facts['epoch']} at val {state.facts['val_accuracy']:.2%}"
        if self.complete:
            return "done"
        done = f", {len(self.accuracies)} of {len(self.states)} seeds done" if self.accuracies else ""
        return ("running" if self.running else "open") + done


def collect(sweep: Sweep, directory: SweepDirectory, cells: Sequence[Cell]) -> list[CellResult]:
    """A row per cell: whole cells first, by mean val accuracy; of equal ones the smaller net, then the sweep's order."""
    rows = []
    for cell in cells:
        states = tuple(directory.state(cell, seed) for seed in sweep.seeds)
        jobs = {cell.name, *(job_name(cell.name, seed) for seed in sweep.seeds)}  # a tpe trial is claimed as a whole
        running = 0
        if any(state.kind == "open" for state in states) and not cell.excess:
            running = sum(holder(directory.claims, job, sweep.stale_minutes) is not None for job in jobs)
        rows.append(CellResult(cell, states, running))
    return sorted(
        rows, key=lambda row: (not row.complete, -(row.mean if row.mean is not None else -1.0), row.cell.parameters or 0)
    )


def write_results(sweep: Sweep, directory: SweepDirectory, cells: Sequence[Cell], *, picture: bool = True) -> list[CellResult]:
    """Write `table.csv`, `table.md`, `best.yaml` once a cell is complete, and `sweep.png`; returns the rows."""
    rows = collect(sweep, directory, cells)
    write_atomic(directory.folder / "table.csv", _csv(sweep, rows).encode())
    write_atomic(directory.folder / "table.md", f"{to_markdown([_table(sweep, rows, _columns(rows))])}\n".encode())
    if rows and rows[0].complete:
        write_atomic(directory.folder / "best.yaml", (_best_header(sweep, rows[0]) + dump_config(rows[0].cell.config)).encode())
    else:
        (directory.folder / "best.yaml").unlink(missing_ok=True)  # left by cells that are no longer in the sweep
    if picture and any(row.accuracies for row in rows):
        _draw(sweep, directory, rows)
    return rows


def list_cells(sweep: Sweep, directory: SweepDirectory, cells: Sequence[Cell]) -> str:
    """Every cell in the sweep's order with its trainable parameters and its state."""
    by_name = {row.cell.name: row for row in collect(sweep, directory, cells)}
    lines = tuple((cell.name, _count(cell), by_name[cell.name].state) for cell in cells)
    return aligned(Table(sweep.name, ("cell", "parameters", "state"), lines))


def report(sweep: Sweep, directory: SweepDirectory, rows: Sequence[CellResult]) -> str:
    """What a terminal shows at the end: the first rows, what is wrong or open, and the winner."""
    text = aligned(_table(sweep, rows[:SHOWN], ()))
    if len(rows) > SHOWN:
        text += f"\n... and {len(rows) - SHOWN} more"
    text += f"\nfull table: {directory.folder / 'table.md'}"
    if rows and rows[0].complete:
        best = rows[0]
        spread = "" if best.sd is None else f" ± {100 * best.sd:.2f} sd"
        text += (
            f"\nbest on val: {best.cell.name}, {_percent(best.mean)} %{spread}, {plural(len(best.states), 'seed')}, "
            f"{_count(best.cell)} parameters "
            f"(the test split was not read) -> {directory.folder / 'best.yaml'}"
        )
    failed = sum(state.kind == "failed" for row in rows for state in row.states)
    if failed and sweep.method != "tpe":
        text += (
            f"\n{plural(failed, 'run')} failed and will be skipped unless retried (a run that diverged will diverge again). If "
            "its cell gets other settings, the run is trained anew; a cell with finished seeds then needs a new label"
        )
    return text


def _columns(rows: Sequence[CellResult]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.cell.settings))


def _csv(sweep: Sweep, rows: Sequence[CellResult]) -> str:
    """Values as JSON where they are lists or mappings, accuracies as shares, also of each seed; unknown: empty."""
    keys = _columns(rows)
    seeds = [f"val_seed{seed}" for seed in sweep.seeds]
    lines = []
    for row in rows:
        values = [_value(row.cell.settings, key) for key in keys]
        shares = [None if share is None else round(share, 6) for share in (row.mean, row.sd)]
        each = [round(state.facts["val_accuracy"], 6) if state.kind == "done" else None for state in row.states]
        minutes = None if row.minutes is None else round(row.minutes, 2)
        numbers = [row.cell.parameters, len(row.accuracies), *shares, *each, minutes]
        lines.append([row.cell.name, *values, *numbers, row.state])
    return to_csv(["cell", *keys, "parameters", "seeds", "val_mean", "val_sd", *seeds, "minutes", "state"], lines)


def _table(sweep: Sweep, rows: Sequence[CellResult], keys: Sequence[str]) -> Table:
    """A row per cell, with its settings of these keys."""
    lines = []
    for row in rows:
        values = [_value(row.cell.settings, key) for key in keys]
        numbers = [_count(row.cell), _seeds(row), _percent(row.mean), _percent(row.sd), _minutes(row)]
        lines.append((row.cell.name, *values, *numbers, row.state))
    header = ("cell", *keys, "parameters", "seeds", "val %", "sd", "minutes", "state")
    return Table(sweep.name, header, tuple(lines), (NOTE,))


def _best_header(sweep: Sweep, row: CellResult) -> str:
    spread = "" if row.sd is None else f", sd {100 * row.sd:.2f}"
    return (
        f"# The best cell of the sweep {sweep.name} on val: {row.cell.name}, mean {_percent(row.mean)} %{spread}, "
        f"{plural(len(row.states), 'seed')}. Chosen on val only.\n"
    )


def _value(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return ""
    value = settings[key]
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _count(cell: Cell) -> str:
    return "?" if cell.parameters is None else f"{cell.parameters:,}"


def _seeds(row: CellResult) -> str:
    return str(len(row.states)) if row.complete else f"{len(row.accuracies)} of {len(row.states)}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _minutes(row: CellResult) -> str:
    return "" if row.minutes is None else f"{row.minutes:.1f}"


def _draw(sweep: Sweep, directory: SweepDirectory, rows: Sequence[CellResult]) -> None:
    """One line per cell where they fit on a page; of more, or of drawn numbers, the mean of each value of each parameter.

    Into these means go whole cells only, once there are some.
    """
    shown = [row for row in rows if row.accuracies]
    few = len(sweep.spaces) <= 2 and not any(isinstance(space, Range) for space in sweep.spaces.values())
    if not few or (sweep.spaces and len(shown) > MOST_DRAWN):
        shown, few = [row for row in shown if row.complete] or shown, False
    path = directory.folder / "sweep.png"
    seeds = plural(len(sweep.seeds), "seed")
    title = f"{sweep.name}: {len(shown)} of {len(rows)} cells, {seeds}; val accuracy of the selected weights"
    if not sweep.spaces and len(shown) > MOST_DRAWN:  # cells written by hand have no parameters to draw means over
        shown = sorted(shown, key=lambda row: -(row.mean or 0))[:MOST_DRAWN]
        title += f"; the best {MOST_DRAWN}"
    if few and len(shown) <= MOST_DRAWN:
        save(draw_cells([(row.cell.name, [100 * one for one in row.accuracies]) for row in shown], title), path)
        return
    panels = []
    for key, space in sweep.spaces.items():
        values = [row.cell.settings[key] for row in shown]
        heights = [100 * (row.mean or 0) for row in shown]
        if isinstance(space, Range):
            panels.append(Dots(key, values, heights, [], space.log))
        else:
            panels.append(
                Dots(key, [space.index(value) for value in values], heights, [_value({key: one}, key) for one in space])
            )
    save(draw_marginals(panels, title), path)

"""A sweep from its file to its table: what `cifar-small sweep` does, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cifar_small.errors import UserError
from cifar_small.sweep.cells import Cell, plan
from cifar_small.sweep.search import work_through_trials
from cifar_small.sweep.spec import Sweep, load_sweep
from cifar_small.sweep.states import FAILED, SweepDirectory, refuse_changed
from cifar_small.sweep.table import Row, list_cells, report, write_results
from cifar_small.sweep.worker import Worker


def prepare(path: Path, folder: Path | None = None) -> tuple[Sweep, SweepDirectory, list[Cell]]:
    """Read a sweep and resolve its cells (of tpe: the trials begun so far). Raises ConfigError before anything trains."""
    sweep = load_sweep(path)
    place = SweepDirectory(sweep, folder)
    place.refuse_another(sweep)
    cells = plan(sweep)
    current = place.trial_cells(sweep) if sweep.method == "tpe" else cells
    refuse_changed(place, sweep, current)
    return sweep, place, current


def run_sweep(
    path: Path, folder: Path | None = None, *, command: str = "", quiet: bool = False, retry_failed: bool = False
) -> int:
    """Train what is left of a sweep and nobody else has, write its table, and return the exit code.

    0: nothing failed, also while other workers are still at it; else that of the gravest failure in the table.
    """
    sweep, place, cells = prepare(path, folder)
    place.mark(sweep)
    if retry_failed:
        _forget_failures(sweep, place, cells)

    def current() -> list[Cell]:
        return place.trial_cells(sweep) if sweep.method == "tpe" else cells

    worker = Worker(sweep, place, command, quiet, lambda: write_results(sweep, place, current(), picture=False))
    if sweep.method == "tpe":
        work_through_trials(worker)
    else:
        worker.work_through(cells, len(sweep.seeds) * sum(not cell.excess for cell in cells))
    if worker.busy:
        worker.say(
            f"{len(worker.busy)} left to other workers ({sorted(worker.busy)[0]}{', ...' if len(worker.busy) > 1 else ''}); "
            f"should one of them die, start again: after {sweep.stale_minutes:g} minutes of silence its run is taken over"
        )
    return finish(sweep, place, current(), quiet=quiet)


def finish(sweep: Sweep, place: SweepDirectory, cells: Sequence[Cell], *, quiet: bool = False) -> int:
    """Write the table and the picture, print them in short, and return the exit code they call for."""
    place.mark(sweep)
    rows = write_results(sweep, place, cells)
    if not quiet:
        print(report(sweep, place, rows), flush=True)
    return exit_code(rows)


def show(path: Path, folder: Path | None = None) -> str:
    """The cells with their parameters and states; trains and writes nothing."""
    sweep, place, cells = prepare(path, folder)
    legal = [cell for cell in cells if not cell.excess]
    done = sum(place.state(cell, seed).kind == "done" for cell in legal for seed in sweep.seeds)
    begun = f"{len(cells)} of {sweep.trials} trials begun" if sweep.method == "tpe" else f"{len(cells)} cells"
    skipped = f", {len(cells) - len(legal)} skipped" if len(legal) < len(cells) else ""
    total = (sweep.trials if sweep.method == "tpe" else len(legal)) or 0
    seeds = "1 seed" if len(sweep.seeds) == 1 else f"{len(sweep.seeds)} seeds"
    return f"{list_cells(sweep, place, cells)}\n{begun}{skipped}, {seeds}: {done} of {total * len(sweep.seeds)} runs done"


def exit_code(rows: Sequence[Row]) -> int:
    """0, or the largest exit code among the failed runs."""
    failed = [state.facts["exit_code"] for row in rows for state in row.states if state.kind == "failed"]
    return max(failed, default=0)


def _forget_failures(sweep: Sweep, place: SweepDirectory, cells: Sequence[Cell]) -> None:
    if sweep.method == "tpe":
        raise UserError("--retry-failed is for grid and random: a failed trial of tpe was told to Optuna; raise trials instead")
    for cell in cells:
        for seed in sweep.seeds:
            if not place.was_mended(cell, seed):  # otherwise it is open anyway
                (place.run(cell, seed).folder / FAILED).unlink(missing_ok=True)

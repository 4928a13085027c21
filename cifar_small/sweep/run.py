"""A sweep from its file to its table: what `cifar-small sweep` does, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cifar_small.errors import UserError
from cifar_small.runs.directory import FAILED
from cifar_small.sweep.cells import Cell, plan
from cifar_small.sweep.ranks import RankAgreement, agreement
from cifar_small.sweep.search import work_through_trials
from cifar_small.sweep.spec import Sweep, load_sweep
from cifar_small.sweep.states import SweepDirectory, refuse_changed
from cifar_small.sweep.table import CellResult, collect, list_cells, report, write_results
from cifar_small.sweep.worker import Worker
from cifar_small.wording import plural


def prepare(path: Path, folder: Path | None = None) -> tuple[Sweep, SweepDirectory, list[Cell]]:
    """Read a sweep and resolve its cells (of tpe: the trials begun so far). Raises ConfigError before anything trains."""
    sweep = load_sweep(path)
    directory = SweepDirectory(sweep, folder)
    directory.refuse_another(sweep)
    cells = plan(sweep)
    current = directory.trial_cells(sweep) if sweep.method == "tpe" else cells
    refuse_changed(directory, sweep, current)
    return sweep, directory, current


def run_sweep(
    path: Path, folder: Path | None = None, *, command: str = "", quiet: bool = False, retry_failed: bool = False
) -> int:
    """Train the runs of a sweep that are open and not held by another worker, write its table, and return the exit code.

    0: nothing failed, even if other workers are still running; else the highest exit code among the failures in the table.
    """
    sweep, directory, cells = prepare(path, folder)
    directory.mark(sweep)
    if retry_failed:
        _forget_failures(sweep, directory, cells)

    def current() -> list[Cell]:
        return directory.trial_cells(sweep) if sweep.method == "tpe" else cells

    worker = Worker(sweep, directory, command, quiet, lambda: write_results(sweep, directory, current(), picture=False))
    if sweep.method == "tpe":
        work_through_trials(worker)
    else:
        worker.work_through(cells, len(sweep.seeds) * sum(not cell.excess for cell in cells))
    if worker.busy:
        worker.say(
            f"{plural(len(worker.busy), 'run')} held by other workers ({sorted(worker.busy)[0]}"
            f"{', ...' if len(worker.busy) > 1 else ''}). If one died, start this command again; its run is taken over after "
            f"{sweep.stale_minutes:g} minutes without a heartbeat"
        )
    return finish(sweep, directory, current(), quiet=quiet)


def finish(sweep: Sweep, directory: SweepDirectory, cells: Sequence[Cell], *, quiet: bool = False) -> int:
    """Write the table and the picture, print a summary, and return the exit code."""
    directory.mark(sweep)
    rows = write_results(sweep, directory, cells)
    if not quiet:
        print(report(sweep, directory, rows), flush=True)
    return exit_code(rows)


def show(path: Path, folder: Path | None = None) -> str:
    """The cells with their parameters and states; trains and writes nothing."""
    sweep, directory, cells = prepare(path, folder)
    legal = [cell for cell in cells if not cell.excess]
    done = sum(directory.state(cell, seed).kind == "done" for cell in legal for seed in sweep.seeds)
    begun = f"{len(cells)} of {sweep.trials} trials begun" if sweep.method == "tpe" else plural(len(cells), "cell")
    skipped = f", {len(cells) - len(legal)} skipped" if len(legal) < len(cells) else ""
    total = (sweep.trials if sweep.method == "tpe" else len(legal)) or 0
    seeds = plural(len(sweep.seeds), "seed")
    return f"{list_cells(sweep, directory, cells)}\n{begun}{skipped}, {seeds}: {done} of {total * len(sweep.seeds)} runs done"


def compare_ranks(cheap: Path, full: Path, folder: Path | None = None) -> RankAgreement:
    """How far a cheap sweep (in `folder`) ranks its cells as a full one does; trains and writes nothing."""
    rows = [collect(*prepare(path, place)) for path, place in ((cheap, folder), (full, None))]
    return agreement(*rows)


def exit_code(rows: Sequence[CellResult]) -> int:
    """0, or the largest exit code among the failed runs."""
    failed = [state.facts["exit_code"] for row in rows for state in row.states if state.kind == "failed"]
    return max(failed, default=0)


def _forget_failures(sweep: Sweep, directory: SweepDirectory, cells: Sequence[Cell]) -> None:
    if sweep.method == "tpe":
        raise UserError("failed trials of tpe cannot be retried: Optuna has counted them; increase trials instead")
    for cell in cells:
        for seed in sweep.seeds:
            if not directory.was_mended(cell, seed):  # a mended run is open anyway
                (directory.run(cell, seed).folder / FAILED).unlink(missing_ok=True)

"""The runs below a folder as a table: how far each is, what it reached, and how to go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cifar_small.errors import UserError
from cifar_small.models.counting import trainable_parameters
from cifar_small.reporting.tables import Table
from cifar_small.runs.directory import FAILED, PRUNED, Run, read_json, read_metrics
from cifar_small.runs.locks import is_locked
from cifar_small.wording import command_line, plural

HEADER = ("run", "state", "epoch", "best val %", "parameters", "MB", "to go on")


@dataclass(frozen=True)
class RunStatus:
    """How a run stands."""

    run: Run
    state: str  # training, finished, stopped, pruned or failed in a sweep, or what is wrong
    epoch: int  # epochs completed
    epochs: float  # planned; 0: a soup, or not known
    best: float | None  # accuracy on val, 0..1
    parameters: int | None  # trainable; None: the number of classes is not known before the data is read
    size: int  # bytes of its files

    @property
    def to_go_on(self) -> str:
        """The command that continues it, where something is left to do."""
        return command_line("train", resume=self.run.folder) if self.state == "stopped" else ""

    def row(self) -> tuple[str, ...]:
        """Its cells below `HEADER`."""
        best = "" if self.best is None else f"{100 * self.best:.2f}"
        parameters = "" if self.parameters is None else f"{self.parameters:,}"
        epoch, megabytes = f"{self.epoch}/{self.epochs:g}" if self.epochs else "-", f"{self.size / 1e6:,.1f}"
        return (str(self.run.folder), self.state, epoch, best, parameters, megabytes, self.to_go_on)


def find_runs(folder: Path) -> Iterator[Run]:
    """The run directories below a folder, in order; records, which have no env.json, are none."""
    for path in sorted(folder.rglob("config.yaml")):
        run = Run(path.parent)
        if run.is_run:
            yield run


def status_of(run: Run) -> RunStatus:
    """How a run stands, read from its small files; a damaged one is said to be so and hides no other."""
    size = run.size()
    try:
        config, rows, summary = run.config(), read_metrics(run.metrics_file), run.finished()
        classes = config.data.num_classes
        parameters = summary.parameters if summary else trainable_parameters(config.model, classes) if classes else None
        best = max((row["val_accuracy"] for row in rows), default=None)
        epochs, ended = config.epochs, _ended_in_sweep(run)
        if summary is not None and summary.soup:  # its epochs are those of the runs that it was made of
            best, epochs = summary.val_accuracy_plain, 0
    except UserError as error:
        return RunStatus(run, f"damaged: {error}", 0, 0, None, None, size)
    state = "training" if is_locked(run.folder) else ended or "stopped"
    if summary is not None and state != "training":
        state = "ended early" if summary.ended_early else "finished"
    return RunStatus(run, state, len(rows), epochs, best, parameters, size)


def _ended_in_sweep(run: Run) -> str:
    """Why its sweep does not go on with a run, in words; empty if it does, or is none."""
    if (run.folder / FAILED).exists():
        return f"failed: {read_json(run.folder / FAILED).get('reason', 'see failed.json')[:100]}"
    if (run.folder / PRUNED).exists():
        return "pruned by its sweep"
    return ""


def list_runs(folder: Path) -> Table:
    """The table of the runs below a folder. Raises UserError where there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: train a run first, or name the folder that holds some")
    found = [status_of(run) for run in find_runs(folder)]
    if not found:
        raise UserError(f"{folder} holds no run directories")
    total = sum(status.size for status in found) / 1e6
    return Table("", HEADER, tuple(status.row() for status in found), (f"{plural(len(found), 'run')}, {total:,.1f} MB",))

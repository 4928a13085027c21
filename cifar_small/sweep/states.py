"""The layout of a sweep's folder, and the status of each of its runs.

sweep folder: <cell>-seed<n>/   a run directory; failed.json or pruned.json in it says why it ended early
              set_aside/        run directories of cells that failed and were then given other settings
              claims/           who works on what (see `claims`)
              sweep.json        whose folder it is
              trials/           tpe only: what each trial sets, and Optuna's journal
              table.csv table.md best.yaml sweep.png
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cifar_small.config.hashing import config_hash
from cifar_small.config.schema import Config
from cifar_small.errors import ConfigError
from cifar_small.files import write_json
from cifar_small.runs.directory import FAILED, PRUNED, Run, config_differences, read_json
from cifar_small.runs.locks import locked
from cifar_small.sweep.cells import Cell, resolve
from cifar_small.sweep.spec import Settings, Sweep
from cifar_small.training.initial_weights import with_recorded_input


@dataclass(frozen=True)
class RunState:
    """The status of a run; `open` means still to do or being trained."""

    kind: Literal["done", "failed", "pruned", "open"]
    facts: dict[str, Any] = field(default_factory=dict)  # summary.json of a run that is done, else failed.json or pruned.json


class SweepDirectory:
    """The folder of a sweep."""

    def __init__(self, sweep: Sweep, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else Path("runs") / sweep.name
        self.claims = self.folder / "claims"
        self.trials = self.folder / "trials"
        self.journal = self.trials / "journal.log"
        self.marker = self.folder / "sweep.json"
        self.opened = time.time()

    def run(self, cell: Cell, seed: int) -> Run:
        """The run directory of a cell with a seed."""
        return Run(self.folder / job_name(cell.name, seed))

    def state(self, cell: Cell, seed: int) -> RunState:
        """The status of a run."""
        run = self.run(cell, seed)
        if (summary := run.finished_with(cell.config.patience)) is not None:
            return RunState("done", summary.plain())
        for kind, name in (("failed", FAILED), ("pruned", PRUNED)):
            if (run.folder / name).exists() and not self._is_of_other_settings(cell, seed, name):
                return RunState(kind, read_json(run.folder / name))  # type: ignore[arg-type]
        return RunState("open")

    def was_mended(self, cell: Cell, seed: int) -> bool:
        """Did the run fail under settings that its cell no longer has, so that it cannot be resumed?"""
        run = self.run(cell, seed)
        if not (run.folder / FAILED).exists() or not self._is_of_other_settings(cell, seed, FAILED):
            return False
        return not run.config_file.exists() or bool(_differences(run, cell.seeded(seed)))

    def _is_of_other_settings(self, cell: Cell, seed: int, name: str) -> bool:
        """Was the end of a run recorded for other settings, before this process read its own? (A later one may have newer.)

        Not where Optuna was told of it: that trial is over, and a base config of other settings is refused.
        """
        if self.is_told(cell.name):
            return False
        path = self.run(cell, seed).folder / name
        trained = read_json(path).get("config_sha256")  # older files have none
        return trained not in (None, config_hash(cell.seeded(seed))) and path.stat().st_mtime < self.opened

    def make_room(self, cell: Cell, seed: int) -> None:
        """Clear a failed run to be trained: resumed, or moved aside if its cell has changed since. Raises InUseError."""
        run = self.run(cell, seed)
        if not self.was_mended(cell, seed):
            (run.folder / FAILED).unlink(missing_ok=True)  # the run directory refuses files it does not know
            return
        aside = self.folder / "set_aside"
        aside.mkdir(exist_ok=True)
        target = next(path for n in itertools.count() if not (path := aside / f"{run.name}.{n}").exists())
        with locked(run.folder):  # somebody may be training it by hand
            run.folder.rename(target)

    def record(self, cell: Cell, seed: int, name: str, facts: dict[str, Any]) -> None:
        """Write into the run directory why the run ended early."""
        write_json(self.run(cell, seed).folder / name, {**facts, "config_sha256": config_hash(cell.seeded(seed))})

    def refuse_another(self, sweep: Sweep) -> None:
        """Raise ConfigError if the folder is that of another sweep, whose tables would be overwritten."""
        if self.marker.exists() and (name := read_json(self.marker)["name"]) != sweep.name:
            raise ConfigError(f"{self.folder} is the folder of the sweep {name}, not of {sweep.name}", remedy="output")

    def mark(self, sweep: Sweep) -> None:
        """Write the sweep's name into the folder."""
        if not self.marker.exists():
            write_json(self.marker, {"name": sweep.name})

    def trial_file(self, number: int) -> Path:
        """What a tpe trial sets, and Optuna's number for it."""
        return self.trials / f"{trial_name(number)}.json"

    def is_told(self, trial: str) -> bool:
        """Was Optuna told how a tpe trial ended? Not for cells of other sweeps."""
        path = self.trials / f"{trial}.json"
        return path.exists() and read_json(path)["told"] is not None

    def trial_settings(self, sweep: Sweep) -> dict[int, Settings]:
        """What each trial begun so far sets."""
        files = [(number, self.trial_file(number)) for number in range(sweep.trials or 0)]
        return {number: read_json(path)["settings"] for number, path in files if path.exists()}

    def trial_cells(self, sweep: Sweep) -> list[Cell]:
        """The trials begun so far, as cells."""
        return [resolve(sweep, trial_name(number), settings) for number, settings in self.trial_settings(sweep).items()]


def job_name(cell: str, seed: int) -> str:
    """The name of a run directory within the sweep's folder."""
    return f"{cell}-seed{seed}"


def trial_name(number: int) -> str:
    """The cell's name of a tpe trial."""
    return f"trial{number:04}"


def refuse_changed(directory: SweepDirectory, sweep: Sweep, cells: Sequence[Cell]) -> None:
    """Raise ConfigError if a run of the folder was trained with other settings than its cell has now."""
    for cell in cells:
        for seed in sweep.seeds:
            run = directory.run(cell, seed)
            if run.begun and not directory.was_mended(cell, seed):
                _refuse_changed_run(run, cell.seeded(seed), told=directory.is_told(cell.name))


def _differences(run: Run, config: Config) -> list[str]:
    """The settings in which a run differs from its cell, except those that may change on resuming."""
    before = run.config()
    config = with_recorded_input(config, run)
    differences = config_differences(before, config)
    was, now = before.epochs, config.epochs
    if was != now and not differences:  # a run may be extended, but then its schedule differs from those of the other cells
        differences = [f"epochs: {was} -> {now}"]
    return differences


def _refuse_changed_run(run: Run, config: Config, *, told: bool) -> None:
    differences = _differences(run, config)
    if told and not differences and run.finished() != run.finished_with(config.patience):
        # Optuna has counted what the run ended with, so that it cannot go on; others do.
        differences = [f"patience: {run.config().patience} -> {config.patience}"]
    if differences:
        raise ConfigError(
            f"{run.folder} was trained with other settings than the sweep has now: {'; '.join(differences)}; restore them, "
            "or give the changed sweep another name"
        )

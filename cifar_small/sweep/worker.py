"""A worker: claims and trains one free run after another, and ends when none is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cifar_small.config.loading import load_config
from cifar_small.config.resolved import resolve_config
from cifar_small.data import load_train
from cifar_small.environment import resolve_device
from cifar_small.errors import DiskError, DivergedError, InUseError, UserError
from cifar_small.runs.directory import FAILED, Run
from cifar_small.runs.locks import is_locked
from cifar_small.sweep.cells import Cell
from cifar_small.sweep.claims import Claim, ClaimLost, take
from cifar_small.sweep.spec import Sweep
from cifar_small.sweep.states import RunState, SweepDirectory, job_name
from cifar_small.training.initial_weights import prepare_init
from cifar_small.training.teacher_files import require_teachers
from cifar_small.training.train import train
from cifar_small.wording import plural

Row = Mapping[str, Any]  # an epoch's line of metrics.csv
OnEpoch = Callable[[Row], None]

CPU_MEMORY = "can't allocate memory"  # torch's words for it, in a plain RuntimeError


@dataclass
class Worker:
    """One process at work on a sweep."""

    sweep: Sweep
    directory: SweepDirectory
    command: str = ""
    quiet: bool = False
    after_each: Callable[[], object] = lambda: None  # called after each run, to bring the tables up to date
    trained: int = 0
    busy: set[str] = field(default_factory=set)  # jobs that other workers held in the last round

    def work_through(self, cells: Sequence[Cell], total: int) -> None:
        """Train all free runs of these cells, the first seed of every cell first, until a whole round finds none."""
        while self._round(cells, total):
            pass

    def _round(self, cells: Sequence[Cell], total: int) -> bool:
        self.busy.clear()
        trained = self.trained
        for seed in self.sweep.seeds:
            for cell in cells:
                if cell.excess or self.directory.state(cell, seed).kind != "open":
                    continue
                claim = self.claim(job_name(cell.name, seed))
                if claim is None:
                    continue
                with claim:
                    # Checked again: it may have been finished between the first look and the claim.
                    if self.directory.state(cell, seed).kind == "open":
                        self.say(f"{self.sweep.name}: {job_name(cell.name, seed)}, one of {plural(total, 'run')}")
                        self.run(cell, seed, claim)
        return self.trained > trained

    def claim(self, job: str) -> Claim | None:
        """The claim on a job, or None while another worker has it; the job is then listed in `busy`."""
        names = [job, *(job_name(job, seed) for seed in self.sweep.seeds)]  # a tpe trial is claimed as a whole
        runs = [Run(self.directory.folder / name) for name in names]
        claim = take(self.directory.claims, job, self.sweep.stale_minutes, lambda: any(is_locked(run.folder) for run in runs))
        if claim is None:
            self.busy.add(job)
        return claim

    def run(self, cell: Cell, seed: int, claim: Claim, on_epoch: OnEpoch | None = None) -> RunState:
        """Train a run, or resume it; an error of the cell itself is recorded and returned, not raised."""

        run = self.directory.run(cell, seed)
        try:
            self.directory.make_room(cell, seed)
            train(
                cell.seeded(seed),
                run.folder,
                resume=True,
                command=self.command,
                quiet=self.quiet,
                on_epoch=on_epoch,
                before_save=claim.check,
            )
        except InUseError:  # held by a process without a claim, such as cifar-small train
            self.busy.add(run.name)
            return RunState("open")
        except ClaimLost as lost:
            self.say(str(lost))
            self.busy.add(run.name)
            return RunState("open")
        except DiskError:
            raise  # the next run would end the same way
        except (UserError, torch.OutOfMemoryError, MemoryError) as error:
            if isinstance(error, UserError) and not isinstance(error, DivergedError):  # that one had its data and device
                self._raise_if_shared(cell, error)
            self._record(cell, seed, error)
        except RuntimeError as error:
            self._record(cell, seed, error)
            if CPU_MEMORY not in str(error):
                raise  # unforeseen, so with its traceback; recorded, so that other workers do not run into it too
        self.trained += 1
        self.after_each()
        return self.directory.state(cell, seed)

    def _raise_if_shared(self, cell: Cell, error: UserError) -> None:
        """Raise the error of a run if every cell would end in it: data, device, weights or teachers of all are not there."""
        base, own = load_config(self.sweep.config), {part for key in cell.settings for part in key.split(".")}
        try:
            load_train(base.data)
            if "engine.device" not in cell.settings:
                resolve_device(base.engine.device)
            if not own & {"weights", "model"}:
                prepare_init(base, Run(self.directory.folder / "none"))
            if not own & {"distill", "select"} and "phases" not in cell.settings:
                require_teachers(resolve_config(base))
        except UserError:
            raise error from None

    def _record(self, cell: Cell, seed: int, error: Exception) -> None:
        reason = " ".join(str(error).split())
        facts = {"error": type(error).__name__, "reason": reason, "exit_code": getattr(error, "exit_code", 1)}
        self.directory.record(cell, seed, FAILED, facts)
        self.say(f"{job_name(cell.name, seed)} failed: {reason}")

    def say(self, text: str) -> None:
        """Print a line."""
        if not self.quiet:
            print(text, flush=True)

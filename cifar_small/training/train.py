"""`train`: a config becomes a finished run directory, or one continues where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from cifar_small.config.resolved import ResolvedConfig, resolve_config
from cifar_small.config.schema import Config
from cifar_small.data.sources import classes_at_hand
from cifar_small.environment import machine_facts
from cifar_small.errors import ConfigError
from cifar_small.models.counting import check_budget
from cifar_small.runs.directory import Run, can_resume, write_start
from cifar_small.runs.locks import locked
from cifar_small.runs.records import Summary
from cifar_small.training.build import build_trainer
from cifar_small.training.distributed import joined
from cifar_small.training.initial_weights import prepare_init
from cifar_small.training.selected_weights import can_go_on, mend_selected, require_selected
from cifar_small.training.selection import stale_epochs
from cifar_small.training.signals import collected_signals, leave_if_asked
from cifar_small.training.summary import closing_line, summarize
from cifar_small.training.teacher_files import require_teachers
from cifar_small.training.trainer import OnEpoch, Trainer
from cifar_small.training.view_cache import remove_cache
from cifar_small.training.watching import LiveCurves, TensorBoardLog, check_tracking
from cifar_small.transforms.per_image import check_pipelines
from cifar_small.wording import plural


def train(
    config: Config,
    folder: str | Path,
    *,
    resume: bool = False,
    command: str = "",
    quiet: bool = False,
    on_epoch: OnEpoch | None = None,
    before_save: Callable[[], object] | None = None,
) -> Summary | None:
    """Train a config into a run directory and return its summary; one rank of several when torchrun started us.

    Ranks other than the first, which write no files, may return None.

    `on_epoch` is given each epoch's row of `metrics.csv` once all is saved, `before_save` is called before anything is written
    over; what they raise ends the run, which can be resumed.

    Raises ConfigError (over budget, or resumed with other settings), CheckpointError (directory in use or damaged),
    DivergedError (loss not finite) and Terminated (saved after a signal of `environment.ENDING_SIGNALS`; resume to go on).
    """
    clock = time.monotonic()
    known = classes_at_hand(config.data)
    parameters = None if known is None else check_budget(config, known)  # before any image is read
    run = Run(folder)
    config, init = prepare_init(config, run)
    resolved = resolve_config(config)
    check_pipelines(resolved)
    check_tracking(config)
    with joined(config.engine.device) as world, ExitStack() as held:

        def may_go_on() -> bool:
            held.enter_context(locked(run.folder))
            return can_resume(run, config, resume)

        quiet = quiet or not world.first
        world.require_same(f"{resolved.config_sha256} {run.folder}", "config or run directory", "start all with the same")
        going_on = world.first_then_all(may_go_on)
        if world.first_then_all(lambda: going_on and _is_complete(run, resolved)):
            summary = run.summary()  # which a rank on another machine may not see
            if summary is not None and not quiet:
                early = f"; {summary.ended_early}" if summary.ended_early else ""
                done = plural(summary.epochs, "epoch")
                print(f"{run.folder} is already complete: {done}, val {summary.val_accuracy:.2%}{early}")
            return summary
        if going_on:
            world.first_then_all(lambda: can_go_on(run))
        require_teachers(resolved)
        stop: list[int] = []
        trainer = build_trainer(
            resolved, run, parameters=parameters, init=init, world=world, stop=stop, quiet=quiet, clock=clock
        )
        trainer.checkpoints = replace(trainer.checkpoints, before_save=before_save)
        if going_on:
            trainer.restore()
            world.first_then_all(lambda: mend_selected(trainer.checkpoints, trainer.state, ended=trainer.ended))
            trainer.tell_extension(resolve_config(run.config()))
        world.require_same(
            f"{trainer.data.facts} {trainer.state.precision} {torch.__version__}",
            "dataset, precision or torch",
            "give all machines the same data and versions, and set engine.precision where their defaults differ",
        )
        if world.first:
            environment = {**machine_facts(trainer.device, trainer.state.precision), "processes": world.size}
            write_start(run, config, environment, command, resolved.epochs)
        watched = _watchers(trainer) if world.first else []

        def after_epoch(row: dict[str, object]) -> None:
            for watcher in watched:
                watcher.after_epoch(trainer.state.rows)
            if on_epoch is not None:
                on_epoch(row)

        with collected_signals(stop):
            trainer.fit(after_epoch)
            summary = _finish(trainer)
            for watcher in watched:
                if summary is not None and isinstance(watcher, TensorBoardLog):
                    watcher.end(config, summary)
            leave_if_asked(stop, run.folder, finished=True)  # it came while the summary was made; what follows shall not begin
            return summary


def _watchers(trainer: Trainer) -> list[LiveCurves | TensorBoardLog]:
    run, config = trainer.checkpoints.run, trainer.config
    logs = [TensorBoardLog(run, trainer.state.rows)] if config.engine.track == "tensorboard" else []
    return [LiveCurves(run), *logs]


def _is_complete(run: Run, resolved: ResolvedConfig) -> bool:
    """Has the run ended as it is asked for now? Raises ConfigError for more epochs, where patience ended it before the last."""
    summary = run.finished_with(resolved.config.patience)
    if summary is None:
        return False
    if summary.ended_early and summary.epochs_planned < resolved.epochs:
        raise ConfigError(
            f"{run.folder} {summary.ended_early}, so {resolved.epochs} epochs would change nothing but the schedule of those "
            "done; to train on, raise patience, or set patience: null"
        )
    return summary.epochs_planned == resolved.epochs


def _finish(trainer: Trainer) -> Summary | None:
    """Predict val with the selected weights, draw the pictures, write the summary; rank 0 alone."""
    if not trainer.world.first:
        return None
    state, run, resolved = trainer.state, trainer.checkpoints.run, trainer.resolved
    require_selected(run, state, resolved.config.selection)
    trainer.checkpoints.end_run(state)
    remove_cache(run)  # where patience ended the phase
    summary = summarize(run, resolved.config, resolved.phases, trainer.data, state)
    if summary.ended_early:
        counted = " that took weights into the average" if resolved.phases[-1].settings.swa else ""
        trainer.say(
            f"warning: {summary.ended_early}: no better accuracy on val for {plural(stale_epochs(state, resolved), 'epoch')}"
            f"{counted}; to train on, resume it with more patience, or with patience: null"
        )
    trainer.say(closing_line(summary, run))
    return summary

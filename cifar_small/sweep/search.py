"""Trials proposed by Optuna's TPE; all workers share one journal in the sweep's folder.

We number the trials ourselves, by claims, so that there are as many as the sweep asks for however many workers there are. A
trial's random numbers depend on its number alone; what is made of them, past the first trials, on the trials done by then. What
a trial sets stands in its own file before anything trains, so that a killed trial goes on as the same one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any, assert_never

from cifar_small.config.resolved import resolve_config
from cifar_small.errors import CheckpointError, ConfigError, UserError
from cifar_small.files import append_whole, write_json
from cifar_small.randomness import numpy_generator, stream_seed
from cifar_small.runs.directory import PRUNED, read_json
from cifar_small.sweep.cells import SWEEP, Cell, draw_one, resolve, starts
from cifar_small.sweep.spec import Range, Space, canonical
from cifar_small.sweep.states import job_name, trial_name
from cifar_small.sweep.worker import OnEpoch, Row, Worker
from cifar_small.transforms.per_image import check_pipelines
from cifar_small.wording import plural

MOST_DRAWS = 100  # for one trial, until the parameters are reported as hardly ever valid together


class Pruned(Exception):  # noqa: N818  (not an error: the pruner's decision)
    """The trial is below the median of the others at this epoch."""


def work_through_trials(worker: Worker) -> None:
    """Run all free trials, until a whole round finds none."""
    optuna = _import_optuna()
    sweep, directory = worker.sweep, worker.directory
    assert sweep.trials is not None
    directory.trials.mkdir(parents=True, exist_ok=True)
    _refuse_other_space(worker)
    _refuse_lost_journal(worker)
    while True:
        worker.busy.clear()
        ended = 0
        for number in range(sweep.trials):
            if worker.directory.is_told(trial_name(number)):
                continue
            claim = worker.claim(trial_name(number))
            if claim is None:
                continue
            with claim:
                if not worker.directory.is_told(trial_name(number)):  # checked again under the claim
                    ended += _Trial(worker, optuna, number).finish(claim)
        if not ended:
            return


def _import_optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(f"method tpe needs Optuna ({error}): pip install 'cifar_small[sweep]', or use method random") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its lines on every trial repeat ours
    return optuna


def _refuse_other_space(worker: Worker) -> None:
    """Trials are told apart by number alone, so all of a folder must be drawn from one space."""
    path, sweep = worker.directory.trials / "space.json", worker.sweep
    space = json.loads(canonical({"parameters": sweep.parameters, "seeds": list(sweep.seeds)}))
    if sweep.start_with:
        space["start_with"] = json.loads(canonical(list(sweep.start_with)))
    if not path.exists():
        write_json(path, space)
    elif (old := read_json(path)) != space:
        raise ConfigError(
            f"{worker.directory.folder} contains trials of other parameters, seeds or start_with, {json.dumps(old)[:200]}; "
            "restore them, or give the changed sweep another name"
        )


def _refuse_lost_journal(worker: Worker) -> None:
    """A new journal would number its trials from 0 again, and TPE would know nothing of those that are done."""
    begun = sum(worker.directory.trial_file(number).exists() for number in range(worker.sweep.trials or 0))
    if begun and not worker.directory.journal.exists():
        raise UserError(
            f"{worker.directory.journal} is missing, but {plural(begun, 'trial')} stood in it: restore it, or remove "
            f"{worker.directory.folder} to begin anew"
        )


class _Journal:
    """Optuna's journal in a file, for JournalStorage; each line whole, whoever is killed or however full the disk is.

    Its own file backend locks by a link to the journal's path, which dangles where that path is relative or mounted elsewhere,
    and then never expires; a plain file does, 30 seconds after its holder was killed.
    """

    def __init__(self, worker: Worker, optuna: Any) -> None:
        self.path, self.say, journal = worker.directory.journal, worker.say, optuna.storages.journal
        old = Path(f"{self.path}.lock")
        if old.is_symlink() and not old.exists():  # of an earlier version
            old.unlink(missing_ok=True)
        self.lock = journal.JournalFileOpenLock(str(self.path))
        self.file = journal.JournalFileBackend(str(self.path), self.lock)
        self.append_logs([])

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from this number on. Raises CheckpointError for a damaged journal."""
        try:
            yield from self.file.read_logs(log_number_from)
        except ValueError as error:
            raise CheckpointError(
                f"{self.path} is damaged ({error}); restore it, or remove {self.path.parent.parent} to begin anew"
            ) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries, after removing one that a killed worker did not finish. Raises DiskError."""
        self.lock.acquire()
        try:
            torn = append_whole(self.path, "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())
        finally:
            self.lock.release()
        if torn:
            self.say(f"{self.path}: its last line was cut off ({torn:,} bytes) and is dropped; the whole lines go on")


class _Trial:
    """A claimed trial: what it sets, its runs, and what Optuna is told."""

    def __init__(self, worker: Worker, optuna: Any, number: int) -> None:
        self.worker, self.optuna, self.name = worker, optuna, trial_name(number)
        self.file = worker.directory.trial_file(number)
        sweep = worker.sweep
        self.seed = stream_seed(sweep.search_seed, SWEEP, number) % 2**32
        self.study = optuna.create_study(
            study_name=sweep.name,
            direction="maximize",
            storage=optuna.storages.JournalStorage(_Journal(worker, optuna)),
            load_if_exists=True,
            # A sampler made for each trial, so that its random numbers depend on the trial's number and on nothing before.
            sampler=optuna.samplers.TPESampler(
                n_startup_trials=sweep.random_trials or min(10, (sweep.trials or 0) // 2),
                seed=self.seed,
            ),
            pruner=optuna.pruners.NopPruner(),  # see _below_median
        )
        self.fixed = number < len(sweep.start_with)
        if self.fixed:
            self._fix(starts(sweep)[number])
        self.content = read_json(self.file) if self.file.exists() else self._ask()
        found = [one for one in self.study.get_trials(deepcopy=False) if one.number == self.content["optuna_number"]]
        if not found:
            raise UserError(
                f"{self.file} belongs to a trial that is missing from {worker.directory.journal}; restore or remove both"
            )
        self.state = found[0].state
        self.reported = found[0].intermediate_values.values()  # in a session before
        self.trial = optuna.trial.Trial(self.study, found[0]._trial_id)  # also for one that another process asked for

    def _fix(self, settings: Mapping[str, Any]) -> None:
        """Let Optuna propose just these. Queued in the study instead, another worker's trial could take them."""
        spaces = self.worker.sweep.spaces
        fixed = {key: value if isinstance(spaces[key], Range) else json.dumps(value) for key, value in settings.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.study.sampler = self.optuna.samplers.PartialFixedSampler(fixed, self.study.sampler)

    def _ask(self) -> dict[str, Any]:
        """What the trial sets: a valid combination that no other trial has, or the one that it starts with."""
        states, sweep = self.optuna.trial.TrialState, self.worker.sweep
        for orphan in self.study.get_trials(deepcopy=False, states=[states.RUNNING]):
            if orphan.user_attrs.get("cell") == self.name:  # its worker was killed before it could write the trial's file
                self.study.tell(orphan.number, state=states.FAIL)
        known = {canonical(settings) for settings in self.worker.directory.trial_settings(sweep).values()}
        rng, problem = numpy_generator(self.seed, SWEEP), "all that were drawn are those of other trials"
        for _ in range(MOST_DRAWS):
            trial = self.study.ask()
            trial.set_user_attr("cell", self.name)
            settings = {key: _suggest(trial, key, space) for key, space in sweep.spaces.items()}
            try:
                if canonical(settings) not in known or self.fixed:  # the runs of another trial would only be repeated
                    check_pipelines(resolve_config(resolve(sweep, self.name, settings).config))
                    content = {"optuna_number": trial.number, "settings": settings, "told": None}
                    write_json(self.file, content)
                    return content
            except ConfigError as error:  # values that are possible one by one but not together, such as lr below min_lr
                problem = f"the last one: {_shown(settings)}: {error}"
                self.worker.say(f"{sweep.name}: {self.name}: invalid combination, drawing again: {_shown(settings)}: {error}")
            self.study.tell(trial.number, state=states.FAIL)
            known.add(canonical(settings))
            # By chance, as TPE learns nothing from a combination that was not run, and might propose it for ever.
            draws = (draw_one(sweep.spaces, rng) for _ in range(MOST_DRAWS**2))
            if (other := next((one for one in draws if canonical(one) not in known), None)) is None:
                break
            self._fix(other)
        raise ConfigError(
            f"{sweep.name}: no valid combination is left for {self.name}; narrow the parameters, or lower trials ({problem})"
        )

    def finish(self, claim: Any) -> bool:
        """Train what is left of the trial and tell Optuna; False if another process holds a run of it. Raises ConfigError."""
        worker, states = self.worker, self.optuna.trial.TrialState
        cell = resolve(worker.sweep, self.name, self.content["settings"])
        if self.state.is_finished():  # Optuna was told, but the worker was killed before the trial's file was updated
            return self._written(self.state.name)
        if cell.excess:
            if not worker.sweep.skip_illegal:
                raise ConfigError(
                    f"{self.name} ({_shown(cell.settings)}) has {cell.parameters:,} trainable parameters, {cell.excess:,} over "
                    f"the budget of {cell.config.rules.max_params:,}; narrow the parameters or set skip_illegal: true"
                )
            return self._tell(states.PRUNED)  # the worst outcome, so that TPE learns to stay within the budget
        worker.say(f"{worker.sweep.name}: {self.name} of {worker.sweep.trials}: {_shown(cell.settings)}")
        accuracies = []
        for index, seed in enumerate(worker.sweep.seeds):
            state = worker.directory.state(cell, seed)
            if state.kind == "open":
                state = self._train(cell, index, seed, claim)
            if state.kind == "open":
                return False
            if state.kind != "done":  # failed too: what is told as FAIL is ignored, and proposed again
                return self._tell(states.PRUNED)
            accuracies.append(state.facts["val_accuracy"])
        return self._tell(states.COMPLETE, mean(accuracies))

    def _train(self, cell: Cell, index: int, seed: int, claim: Any) -> Any:
        worker = self.worker
        try:
            return worker.run(cell, seed, claim, self._reporter(cell) if worker.sweep.prune and index == 0 else None)
        except Pruned as pruned:
            worker.directory.record(cell, seed, PRUNED, pruned.args[0])
            worker.say(f"{job_name(cell.name, seed)}: pruned after epoch {pruned.args[0]['epoch']}, below the median")
            worker.trained += 1
            worker.after_each()
            return worker.directory.state(cell, seed)

    def _reporter(self, cell: Cell) -> OnEpoch:
        """Reports each epoch's val accuracy to Optuna: of the first seed, for the pruner compares one curve with others."""
        epochs = cell.config.epochs
        alone = len(self.worker.sweep.seeds) == 1  # after its last epoch there is then nothing to save
        values = list(self.reported)

        def report(row: Row) -> None:
            self.trial.report(row["val_accuracy"], row["epoch"])
            values.append(row["val_accuracy"])
            if not (alone and row["epoch"] == epochs) and self._below_median(max(values), row["epoch"]):
                raise Pruned({"epoch": row["epoch"], "val_accuracy": row["val_accuracy"]})

        return report

    def _below_median(self, best: float, epoch: int) -> bool:
        """Is the best so far below the median of all trials at this epoch, whether they ended there or went on?

        Optuna's own median is of the trials that were kept, so that its bar only rises: of 200 in random order it keeps 33.
        """
        prune, states = self.worker.sweep.prune, self.optuna.trial.TrialState
        assert prune is not None
        others = self.study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
        complete = sum(other.state == states.COMPLETE for other in others)
        seen = [other.intermediate_values[epoch] for other in others if epoch in other.intermediate_values]
        return epoch >= prune.warmup_epochs and complete >= prune.startup_trials and bool(seen) and best < median(seen)

    def _tell(self, state: Any, value: float | None = None) -> bool:
        self.study.tell(self.content["optuna_number"], value, state=state)
        return self._written(state.name)

    def _written(self, state: str) -> bool:
        write_json(self.file, {**self.content, "told": state})
        return True


def _suggest(trial: Any, key: str, space: Space) -> Any:
    if not isinstance(space, Range):
        # As text, because Optuna takes no lists for choices.
        return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in space]))
    match space.type:
        case "int":
            return trial.suggest_int(key, int(space.low), int(space.high), log=space.log)
        case "float":
            return trial.suggest_float(key, space.low, space.high, log=space.log)
        case unknown:
            assert_never(unknown)


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items())

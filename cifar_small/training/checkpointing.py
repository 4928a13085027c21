"""What a run saves as it goes: `last.pt` to resume from, `best.pt` to predict with, and the epochs kept beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from cifar_small.config.hashing import config_dict
from cifar_small.config.resolved import ResolvedConfig
from cifar_small.data.datamodule import DataModule
from cifar_small.errors import CheckpointError
from cifar_small.runs.checkpoints import load_checkpoint, load_newest, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.keeping import keep_epoch, keep_final
from cifar_small.runs.lineage import lineage_of
from cifar_small.runs.records import DataFacts, TeacherFacts, parse, parse_all, plain_all
from cifar_small.training.distillation import check_same_teachers
from cifar_small.training.distributed import World
from cifar_small.training.state import State


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint files of a run, with the facts that stand in each; rank 0 alone writes them."""

    run: Run
    resolved: ResolvedConfig
    data: DataModule
    parameters: int
    teachers: list[TeacherFacts]
    world: World
    before_save: Callable[[], object] | None = None  # raises if this process may no longer write

    def save(self, state: State) -> None:
        """Write `last.pt`: all that changes during a run."""
        if self.world.first:
            self._check()
            content = {
                **state.saved(),
                "config_sha256": self.resolved.config_sha256,
                "data": self.data.facts.plain(),
                "train_images": len(self.data.images),
                "teachers": plain_all(self.teachers),
            }
            save_checkpoint(self.run.last, content, previous=self.run.previous)
            if state.step == 0 and self.run.next_best.exists():
                os.replace(self.run.next_best, self.run.best)

    def end_epoch(self, state: State, selected: bool) -> None:
        """Write the weights if the epoch was selected, its own file if it is to be kept, and `metrics.csv`.

        To be called before `save`, so that all are on the disk when `last.pt` counts the epoch; only then do the weights become
        `best.pt`, since an epoch that is trained again, on a GPU, may turn out otherwise.
        """
        if not self.world.first:
            return
        self._check()
        weights = self._weights(state)
        if selected:
            save_checkpoint(self.run.next_best, weights)
        keep_epoch(self.run, self.resolved.config.engine, state.epoch, weights)
        self.run.write_metrics(state.rows)

    def write_best(self, state: State) -> None:
        """Write the weights of the epoch just completed as the selected ones."""
        self._check()
        save_checkpoint(self.run.best, self._weights(state))

    def end_run(self, state: State) -> None:
        """Write `final.pt` if it is to be kept."""
        self._check()
        keep_final(self.run, self.resolved.config.engine, self._weights(state))

    def _check(self) -> None:
        if self.before_save is not None:
            self.before_save()

    def _weights(self, state: State) -> dict[str, object]:
        """The weights that count after the epoch just completed, with all that prediction needs."""
        return {
            "weights": state.evaluated.state_dict(),
            "averaged": state.averaged,
            "config": config_dict(self.resolved.config),
            "classes": list(self.data.classes),
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "pixels": self.data.pixels.plain(),
            "parameters": self.parameters,
            "epoch": state.epoch,
            "val_accuracy": state.rows[-1]["val_accuracy"],
            "selection": self.resolved.config.selection,
            "data": self.data.facts.plain(),
            "ancestors": plain_all(state.ancestors),
            "teachers": plain_all(self.teachers),
            "lineage": lineage_of(state.ancestors, self.teachers),
        }

    def load(self) -> Mapping[str, Any]:
        """The newest whole checkpoint to resume from. Raises CheckpointError: none, or of other data or teachers."""
        run = self.run
        self.world.first_then_all(self._mend)
        if not run.last.exists():
            raise CheckpointError(
                f"rank {self.world.rank} cannot see {run.last}, rank 0 can; put the run directory on a shared file system"
            )
        saved, _ = load_newest(run.last, run.previous)
        before, now = parse(DataFacts, saved["data"], run.last, CheckpointError), self.data.facts
        if before != now and before.updated(side=now.side) == now:
            raise CheckpointError(
                f"{run.folder} was begun on pictures brought to {before.side}x{before.side} as they were read; now they are "
                f"read at {now.side}x{now.side}: start a new run, or end this one with the version that began it"
            )
        if before != now:
            raise CheckpointError(self._other_data(before, saved.get("train_images")), remedy=("data_root", "output"))
        check_same_teachers(parse_all(TeacherFacts, saved.get("teachers", []), run.last), self.teachers, run.folder)
        return saved

    def _other_data(self, before: DataFacts, images: int | None) -> str:
        """What to say where a run was begun on other data than are there now; images: how many it trained on, if recorded."""
        summary, data = self.run.summary(), self.resolved.config.data
        then, now = images or (summary.train_images if summary else None), len(self.data.images)
        counts = f"{now:,} images to train on now" + (f", {then:,} then" if then else "")
        where = data.source if data.root is None else f"{data.root} ({data.source})"
        return (
            f"{self.run.folder} was trained on other data than {where} holds now: {before.unlike(self.data.facts)}; {counts}, "
            f"and {len(self.data.val):,} of val; put back the files as they were, or give their place as data.root; to train "
            "on the data of now, begin a new run"
        )

    def _mend(self) -> bool:
        """Put the previous checkpoint in the place of a damaged `last.pt`, and selected weights in theirs; returns no news."""
        saved, warning = load_newest(self.run.last, self.run.previous)
        if warning:
            tqdm.write(f"warning: {warning}")
            os.replace(self.run.previous, self.run.last)  # or the next save would put the damaged file in its place
        if self.run.next_best.exists():
            try:
                selected = load_checkpoint(self.run.next_best)
            except CheckpointError as error:
                raise CheckpointError(f"{error}; or remove it, to go on without the weights of that epoch") from None
            if selected["epoch"] == saved["epoch"]:
                os.replace(self.run.next_best, self.run.best)
            else:  # of an epoch that is to be trained again
                self.run.next_best.unlink()
        return True

"""Checkpoints kept for people beside `best.pt`: `epoch-0010.pt` and `final.pt`, weights and what prediction needs, no more.

Which files there are follows from the settings in force and the epochs done, so a run that was killed anywhere and resumed has
those of one that was not. A new file is whole on the disk before an older one is removed.
"""

from __future__ import annotations

from cifar_small.config.schema import Engine
from cifar_small.runs.checkpoints import save_checkpoint
from cifar_small.runs.directory import Run


def epochs_to_keep(engine: Engine, epochs: int) -> set[int]:
    """The epochs whose weights there are after so many epochs."""
    every = range(engine.keep_every, epochs + 1, engine.keep_every) if engine.keep_every else ()
    last = range(max(1, epochs + 1 - engine.keep_last), epochs + 1) if engine.keep_last else ()
    return {*every, *last}


def copies_kept(engine: Engine, epochs: int) -> int:
    """How many copies of the weights a run of so many epochs needs space for, one more while an older is to be removed."""
    return len(epochs_to_keep(engine, epochs)) + bool(engine.keep_last) + engine.keep_final


def keep_epoch(run: Run, engine: Engine, epoch: int, content: dict[str, object]) -> None:
    """After an epoch: write its weights if they are to be kept, and remove what is not (or no longer) to be there.

    A run that keeps no epochs leaves those of earlier settings alone.
    """
    if engine.keep_every is None and engine.keep_last is None:
        return
    wanted = epochs_to_keep(engine, epoch)
    if epoch in wanted:
        save_checkpoint(run.kept_file(epoch), content)
    for kept in run.kept_epochs():
        if kept not in wanted:
            run.kept_file(kept).unlink()


def keep_final(run: Run, engine: Engine, content: dict[str, object]) -> None:
    """At the end of the run: write its last weights if they are to be kept."""
    if engine.keep_final:
        save_checkpoint(run.final, content)

"""The selected weights of a run that is resumed: is `best.pt` what the run selected and, if not, where else are they?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from cifar_small.config.schema.run import Selection
from cifar_small.errors import CheckpointError
from cifar_small.files import sha256_file, write_atomic
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.training.checkpointing import Checkpoints
from cifar_small.training.state import State


def mend_selected(checkpoints: Checkpoints, state: State, *, ended: bool) -> bool:
    """See that `best.pt` holds the selected weights, and write it again from where else they are; was it written?

    ended: no epoch is left to train, so that none can take the place of weights that are lost: CheckpointError is raised, with
    nothing changed. Before the end that is a warning.
    """
    run, rule = checkpoints.run, checkpoints.resolved.config.selection
    epoch = selected_epoch(state, rule)
    fault = _fault(run, state, epoch)
    if not fault:
        return False
    kept = run.kept_file(epoch)
    if not _difference(kept, state, epoch):
        write_atomic(run.best, kept.read_bytes())
        source = kept.name
    elif state.step == 0 and state.epoch == epoch:
        checkpoints.write_best(state)
        source = run.last.name
    elif ended:
        raise CheckpointError(f"{fault}; {_loss(run, state, epoch)}; nothing was changed", remedy="output")
    else:
        if rule == "best":  # else the epoch under way takes its place
            tqdm.write(f"warning: {fault}; {_loss(run, state, epoch)}; or a later epoch must be better, to be selected")
        return False
    tqdm.write(f"{fault}; written again from {source}, the weights of epoch {epoch}")
    return True


def require_selected(run: Run, state: State, rule: Selection) -> None:
    """Raise CheckpointError, at the end of a run, where `best.pt` does not hold the weights that it selected."""
    epoch = selected_epoch(state, rule)
    if difference := _difference(run.best, state, epoch):
        raise CheckpointError(f"{difference}; {_loss(run, state, epoch)}", remedy="output")


def can_go_on(run: Run) -> bool:
    """True; raises CheckpointError for a run that has ended and has nothing to go on from, such as a soup."""
    summary = run.summary()
    if summary is None or run.last.exists() or run.previous.exists():
        return True
    fault = _unlike_summary(run)
    if summary.soup:
        raise CheckpointError(
            f"{fault or f'{run.folder} is complete'}; a soup is not trained, and so not resumed: make it again from its members"
        )
    if not fault:
        raise CheckpointError(
            f"{run.folder} has ended, and there is no {run.last.name} to go on from; start a new run from its weights "
            f"(weights: {run.folder})",
            remedy="output",
        )
    raise CheckpointError(
        f"{fault}; there is no {run.last.name} to write it again from; {_still_there(run)}restore one of them from a copy, or "
        "train again; nothing was changed",
        remedy="output",
    )


def selected_epoch(state: State, rule: Selection) -> int:
    """The epoch, of those completed, whose weights count; 0 before the first."""
    return state.best_epoch if rule == "best" else state.epoch


def _fault(run: Run, state: State, epoch: int) -> str:
    """Why `best.pt` does not hold the selected weights, in words; empty if it does, or if no epoch was completed."""
    if epoch == 0:
        return ""
    if run.summary() is not None and (fault := _unlike_summary(run)):
        return fault
    return _difference(run.best, state, epoch, later=True)


def _unlike_summary(run: Run) -> str:
    """Why `best.pt` is not the one that the summary tells of, in words; empty if it is."""
    summary = run.summary()
    if fault := _damage(run.best):
        return fault
    if summary is not None and sha256_file(run.best) != summary.weights_sha256:
        return f"{run.best} was overwritten: it is not the file that {run.summary_file.name} tells of"
    return ""


def _difference(path: Path, state: State, epoch: int, *, later: bool = False) -> str:
    """Why a file does not hold the weights of an epoch, in words; empty if it does.

    later: weights of an epoch that `state` does not count will do: it is to be trained again.
    """
    content, fault = _read(path)
    if fault:
        return fault
    found, accuracy = content.get("epoch"), content.get("val_accuracy")
    if later and isinstance(found, int) and found > state.epoch:
        return ""
    expected = state.rows[epoch - 1]["val_accuracy"]
    if "weights" in content and (found, accuracy) == (epoch, expected):
        return ""
    return f"{path} does not hold the weights of epoch {epoch}, which were selected"


def _damage(path: Path) -> str:
    """Why a checkpoint cannot be read, in words; empty if it can."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """What a checkpoint holds, with an empty text; or nothing, with why it cannot be read, in words."""
    if not path.exists():
        return {}, f"{path} is missing"
    try:
        return load_checkpoint(path), ""
    except CheckpointError as error:
        return {}, str(error).rpartition("; ")[0] or str(error)


def _loss(run: Run, state: State, epoch: int) -> str:
    """What is lost with `best.pt`, and what works all the same."""
    accuracy = float(str(state.rows[epoch - 1]["val_accuracy"]))
    kept = run.kept_file(epoch)
    last = f"epoch {state.epoch}" if state.step == 0 else f"step {state.step} of epoch {state.epoch + 1}"
    return (
        f"the selected weights, of epoch {epoch} with {accuracy:.2%} on val, are lost: {run.last.name} is of {last}, and "
        f"{kept.name} {'is damaged' if kept.exists() else 'was not kept'}; {_still_there(run)}to have them again, restore "
        f"{run.best.name} from a copy, or train again"
    )


def _still_there(run: Run) -> str:
    """Which other weights can be predicted with, in words."""
    paths = [run.kept_file(epoch) for epoch in run.kept_epochs()] + [run.final]
    names = [path.stem for path in paths if path.exists() and not _damage(path)]
    if not names:
        return ""
    return f"the {'checkpoint' if len(names) == 1 else 'checkpoints'} {', '.join(names)} can still be predicted with; "

"""Removing a run directory, unless a record or another run needs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cifar_small.config.schema import Config
from cifar_small.errors import CheckpointError, InUseError, UserError
from cifar_small.files import sha256_file
from cifar_small.runs.directory import Run
from cifar_small.runs.locks import is_locked
from cifar_small.wording import plural


def remove_run(run: Run, *, records: Sequence[Path], others: Iterable[Run], force: bool = False) -> int:
    """Remove a run directory and return how many bytes that freed; `force`: although something needs it.

    records: folders whose .json files may name its weights; others: runs that may start or learn from it. The directory is
    renamed first, so that a removal that is interrupted leaves no half of a run.

    Raises CheckpointError for no run, InUseError while it trains, UserError where it is needed.
    """
    if is_locked(require_removable(run).folder):
        raise InUseError(f"{run.folder} is in training; stop it first")
    reasons = list(_needed_by(run, records, others))
    if reasons and not force:
        raise UserError(f"{run.folder} is needed: {'; '.join(reasons)}", remedy="force")
    size, folder = run.size(), run.folder.resolve()  # which a link, or `.`, stands for
    gone = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)  # of a removal that was interrupted
    os.replace(folder, gone)
    if run.folder.is_symlink():
        run.folder.unlink()
    shutil.rmtree(gone)
    return size


def require_removable(run: Run) -> Run:
    """The run, if it is one. Raises CheckpointError for a record, an export, or a folder of the user's own with a config."""
    if not run.require().is_run:
        raise CheckpointError(
            f"{run.folder} holds a config.yaml, and neither env.json nor a checkpoint of a run: it may be a record, an export "
            "or work of yours; expected a run directory written by cifar-small train"
        )
    return run


def _needed_by(run: Run, records: Sequence[Path], others: Iterable[Run]) -> Iterator[str]:
    """Who needs a run, or may need it, in words."""
    recorded: set[str] = set()
    weights = [path for path in (run.best, run.final, *map(run.kept_file, run.kept_epochs())) if path.exists()]
    hashes = [sha256_file(path).encode() for path in weights]
    for path in dict.fromkeys(path for folder in records for path in sorted(folder.rglob("*.json"))):
        content = path.read_bytes()
        if any(digest in content for digest in hashes):
            recorded.add(path.name)
            yield f"{path} is a record of its weights"
    for other in others:
        if other.folder.samefile(run.folder):
            continue
        try:
            if _builds_on(other.config(), run.folder):
                yield f"{other.folder} starts or learns from it"
        except UserError as error:
            yield f"{other.folder} may start or learn from it, which cannot be told: {error}"
    if recorded:
        return
    try:
        if readings := len(run.test_readings()):
            yield f"it alone knows of {plural(readings, 'reading')} of the test split"
    except UserError as error:
        yield f"how often it read the test split cannot be told: {error}"


def _builds_on(config: Config, folder: Path) -> bool:
    """Does a config name this run directory, or a file in it, as weights, teacher, predictions of one or proxy?"""
    named = [config.weights] if config.starts_from_run else []
    whole = config.model_dump(include={"distill", "select"})
    for recipe in (whole, *config.phases):
        distill, select = recipe.get("distill") or {}, recipe.get("select") or {}
        named += [*distill.get("teachers", ()), distill.get("predictions"), select.get("proxy")]
    here = folder.resolve()
    # Names count from where that run was trained, which is not recorded: here, or any folder above.
    paths = [(base / name).resolve() for name in named if name for base in (Path.cwd(), *here.parents)]
    return any(here in (path, *path.parents) for path in paths)

"""Writing the record of a finished run, where results are kept."""

from __future__ import annotations

from pathlib import Path

from cifar_small.config.hashing import config_dict
from cifar_small.config.own_code import files_of
from cifar_small.errors import CheckpointError
from cifar_small.files import refuse_existing, sha256_file, write_atomic, write_json
from cifar_small.runs.directory import Run
from cifar_small.runs.records import FORMAT, Record, RunRecord

COPIED = ("config.yaml", "metrics.csv", "confusion.png")  # the curves can be drawn again from metrics.csv


def run_record(run: Run) -> RunRecord:
    """What a record says of a run, once its selected weights are those of its summary. Raises CheckpointError."""
    record = run.record()
    if not run.best.exists() or sha256_file(run.best) != record.summary.weights_sha256:
        raise CheckpointError(f"{run.best} does not match the hash in {run.summary_file.name}; resume the run to its end")
    return record


def copy_pictures(run: Run, folder: Path, *, overwrite: bool) -> list[Path]:
    """Put the small files of a run beside its record; returns the new ones. Replaces none without `overwrite`."""
    own = files_of(config_dict(run.config()))
    names = [name for name in (*COPIED, *own) if (run.folder / name).exists()]
    for name in names:
        refuse_existing(folder / name, overwrite)
    for name in names:
        write_atomic(folder / name, (run.folder / name).read_bytes())
    return [folder / name for name in names]


def write_record(run: Run, folder: Path, *, overwrite: bool = False) -> Path:
    """Write `record.json` with a run's record into a folder, its config, metrics and pictures beside it."""
    target = folder / "record.json"
    refuse_existing(target, overwrite)
    record = Record(format=FORMAT, run=run_record(run))
    copy_pictures(run, folder, overwrite=overwrite)
    write_json(target, record.plain())
    return target

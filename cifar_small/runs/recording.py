"""Writing the record of a finished run, where results are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cifar_small.config.hashing import config_dict, config_hash, dump_config
from cifar_small.config.loading import parse_config
from cifar_small.config.own_code import files_of, trusted_source_of
from cifar_small.config.strict_yaml import parse_yaml
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.files import refuse_existing, sha256_bytes, sha256_file, write_atomic, write_json
from cifar_small.runs.directory import Run
from cifar_small.runs.formats import FORMAT
from cifar_small.runs.records import Record, RunRecord, load_record

COPIED = ("config.yaml", "metrics.csv", "confusion.png")  # the curves can be drawn again from metrics.csv


def run_record(run: Run) -> RunRecord:
    """What a record says of a run, once its selected weights are those of its summary. Raises CheckpointError."""
    record = run.record()
    if not run.best.exists() or sha256_file(run.best) != record.summary.weights_sha256:
        raise CheckpointError(f"{run.best} does not match the hash in {run.summary_file.name}; resume the run to its end")
    return record


def copy_run_files(run: Run, record: Path, *, overwrite: bool) -> dict[Path, bytes | None]:
    """Put the small files of a run beside its record; returns what was at the places that changed, None for nothing.

    Replaces nothing without `overwrite`, and with it only pictures and what the record that is written anew names as of its
    own: the folder may be the one where the user works, with a net and a config that were edited since, or hold another
    record, which would prove nothing without its files. Raises UserError, and ConfigError for code that has not been used on
    this machine: a run of somebody else's plants none.
    """
    folder = record.parent
    others = [path for path in sorted(folder.glob("*.json")) if path != record and _is_record(path)]
    own = files_of(config_dict(run.config()))
    contents = {folder / name: (run.folder / name).read_bytes() for name in COPIED if (run.folder / name).exists()}
    contents |= {folder / name: trusted_source_of(name, sha256) for name, sha256 in own.items()}
    before = {path: path.read_bytes() for path in contents if path.is_file()}
    for path, content in contents.items():
        if before.get(path) == content:
            continue
        if path in before and (other := next((one for one in others if _names(one, path, before[path])), None)):
            raise UserError(
                f"{path} is of the record {other.name} beside it and differs from {run.folder / path.name}; expected a folder "
                "of its own for each record: write to another, or move the other one there with its files",
                remedy="output",
            )
        if path in before and path.suffix != ".png" and not (record.is_file() and _names(record, path, before[path])):
            raise UserError(
                f"{path} exists already, differs from {run.folder / path.name}, and no record beside it names it, so it may be "
                "work of yours; move it, or give the record a folder of its own",
                remedy="output",
            )
        refuse_existing(path, overwrite)
    changed = {path: before.get(path) for path, content in contents.items() if before.get(path) != content}
    for path in changed:
        write_atomic(path, contents[path])
    return changed


def put_back(before: Mapping[Path, bytes | None]) -> None:
    """Give places the content that they had; None: nothing was there."""
    for path, content in before.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            write_atomic(path, content)


def _is_record(path: Path) -> bool:
    """Is a JSON file a record, of a submission or a run, and not an estimate, a comparison or somebody's own?"""
    try:
        return load_record(path) is not None
    except DataError:
        return False


def _names(record: Path, path: Path, content: bytes) -> bool:
    """Does a record name the content of a file beside it, so that a run wrote it there?"""
    beside = path.with_name("config.yaml")
    named = record.read_bytes()
    if path == beside:
        return _hash_of_dump(content).encode() in named
    if beside.is_file() and _hash_of_dump(config := beside.read_bytes()).encode() in named:
        named += config  # a record of a run names the hash of its config, which names those of the user's own files
    return sha256_bytes(content).encode() in named


def _hash_of_dump(content: bytes) -> str:
    """The hash of a config as a run wrote it; for one that was written by hand, that of the file, which no record names."""
    try:
        plain = parse_yaml(content.decode(), "config.yaml")
        config = parse_config(plain) if isinstance(plain, dict) else None
    except (UserError, UnicodeDecodeError):
        config = None
    return config_hash(config) if config and dump_config(config).encode() == content else sha256_bytes(content)


def write_record(run: Run, folder: Path, *, overwrite: bool = False) -> Path:
    """Write `record.json` with a run's record into a folder, its config, metrics and pictures beside it."""
    target = folder / "record.json"
    refuse_existing(target, overwrite)
    record = Record(format=FORMAT, run=run_record(run))
    copy_run_files(run, target, overwrite=overwrite)
    write_json(target, record.plain())
    return target

"""A run directory: what is in it, and whether a config may resume it.

config.yaml   the resolved configuration          last.pt      everything needed to go on, bit for bit
env.json      machine, versions, commit            previous.pt  the one before, kept until last.pt is whole
metrics.csv   a row per epoch                      best.pt      the selected weights
summary.json  parameters, accuracy, time           predictions/ one file per split
curves.png, confusion.png                          test_readings.jsonl  every reading of the test split
epoch-0010.pt, ...  weights kept of some epochs       final.pt     those of the run's end, where they are kept too
failed.json, pruned.json  of a run of a sweep that ended early: why
.lock         held by the process that trains
fp32.onnx, int8.onnx  the selected weights for use elsewhere, where `cifar-small onnx` and `quantize` were asked for them
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from cifar_small.config.hashing import config_dict, dump_config
from cifar_small.config.loading import load_config
from cifar_small.config.own_code import files_of, source_of
from cifar_small.config.schema import Config
from cifar_small.errors import CheckpointError, ConfigError, DiskError, UserError
from cifar_small.files import sha256_bytes, sha256_file, to_csv, write_atomic, write_json
from cifar_small.runs.locks import briefly_alone
from cifar_small.runs.records import RunRecord, Session, Summary, TestReading, parse, parse_all, plain_all

FAILED, PRUNED = "failed.json", "pruned.json"  # a sweep's word on why it does not go on with a run
UNSET = "not set"  # of a key that one of two configs lacks
# What may differ between a run and its continuation: it touches last bits and the masks of dropout at most, never the recipe.
FREE_TO_CHANGE = (
    "data.root",
    "engine.device",
    "engine.threads",
    "engine.compile",
    "engine.deterministic",
    "engine.eval_batch_size",
    "engine.checkpoint_steps",
    "engine.workers",
    "engine.track",
    "engine.keep_every",
    "engine.keep_last",
    "engine.keep_final",
)


class Run:
    """The paths of a run directory and the small files in it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / "config.yaml"
        self.env_file = self.folder / "env.json"
        self.metrics_file = self.folder / "metrics.csv"
        self.summary_file = self.folder / "summary.json"
        self.last = self.folder / "last.pt"
        self.previous = self.folder / "previous.pt"
        self.best = self.folder / "best.pt"
        self.next_best = self.folder / ".next_best.pt"  # until last.pt counts its epoch
        self.final = self.folder / "final.pt"
        self.predictions = self.folder / "predictions"
        self.test_readings_file = self.folder / "test_readings.jsonl"

    @property
    def name(self) -> str:
        """What the folder is called, also where it was given as `.`."""
        return self.folder.resolve().name

    def require(self) -> Run:
        """This run if it is one. Raises CheckpointError for a folder that is not a run directory."""
        if not self.config_file.exists():
            if self.folder.is_file():
                raise CheckpointError(
                    f"{self.folder} is a file; expected a run directory written by cifar-small train: name its folder, "
                    f"{self.folder.parent}{_and_checkpoint(self.folder)}"
                )
            what = "has no config.yaml" if self.folder.is_dir() else "does not exist"
            raise CheckpointError(f"{self.folder} {what}: expected a run directory written by cifar-small train")
        return self

    def kept_file(self, epoch: int) -> Path:
        """Where the weights of an epoch are kept: `epoch-0010.pt`."""
        return self.folder / f"epoch-{epoch:04d}.pt"

    def kept_epochs(self) -> list[int]:
        """The epochs whose weights are there, in order."""
        found = (re.fullmatch(r"epoch-([0-9]{4}|[1-9][0-9]{4,})\.pt", path.name) for path in self.folder.glob("epoch-*.pt"))
        return sorted(int(match[1]) for match in found if match)

    def checkpoint(self, name: str) -> Path:
        """The weights called `best`, `final` or `epoch-0010`. Raises CheckpointError that names those there are."""
        kept = [self.kept_file(epoch) for epoch in self.kept_epochs()]
        there = {path.stem: path for path in (self.best, self.final, *kept) if path.exists()}
        if name != "best" and name not in there:
            expected = f"expected {'one of ' if len(there) > 1 else ''}{', '.join(there)}" if there else "nor any other yet"
            raise CheckpointError(f"{self.folder} has no checkpoint {name}; {expected}")
        return there.get(name, self.best)

    def weights_sha256(self, checkpoint: str) -> str:
        """The SHA-256 of the weights called `best`, `final` or `epoch-0010`; empty where there are none."""
        try:
            path = self.checkpoint(checkpoint)
        except CheckpointError:
            return ""
        return sha256_file(path) if path.exists() else ""

    def finished(self) -> Summary | None:
        """The summary, if `best.pt` is still the one it tells of."""
        summary = self.summary()
        if summary is None or not self.best.exists():
            return None
        status = self.best.stat()
        return summary if _hash_of(self.best, status.st_mtime_ns, status.st_size) == summary.weights_sha256 else None

    def finished_with(self, patience: int | None) -> Summary | None:
        """The same, unless another patience than this one ended the run early: it would go on with this one."""
        summary = self.finished()
        return None if summary is not None and summary.ended_early and self.config().patience != patience else summary

    @property
    def begun(self) -> bool:
        """Is there anything to resume, or to lose?"""
        return any(path.exists() for path in (self.last, self.previous, self.summary_file))

    @property
    def is_run(self) -> bool:
        """Was it written by training? A record, an export or a folder of one's own may hold a config.yaml too."""
        return self.config_file.is_file() and (self.env_file.exists() or self.begun)

    def size(self) -> int:
        """Bytes of its files; one that vanishes meanwhile, as a temporary one does while a run trains, counts nothing."""
        paths = (os.path.join(folder, name) for folder, _, names in os.walk(self.folder) for name in names)
        return sum(_size_of(path) for path in paths)

    def checkpoints_size(self) -> int:
        """Bytes of its weights and of what it resumes from."""
        return sum(_size_of(str(path)) for path in self.folder.glob("*.pt"))

    def config(self) -> Config:
        """The resolved configuration the run was started with."""
        return load_config(self.require().config_file, trusted=False)

    def summary(self) -> Summary | None:
        """What the run ended with, or None while it has not ended."""
        if not self.summary_file.exists():
            return None
        return parse(Summary, read_json(self.summary_file), self.summary_file, CheckpointError)

    def sessions(self) -> list[Session]:
        """Each time the run was started or resumed: command, machine, versions, commit."""
        if not self.env_file.exists():
            return []
        plain = read_json(self.env_file)
        return parse_all(Session, plain.get("sessions") if isinstance(plain, dict) else None, self.env_file)

    def record(self) -> RunRecord:
        """What a record says of the run. Raises CheckpointError while it has not finished."""
        summary = self.require().summary()
        if summary is None:
            raise CheckpointError(f"{self.folder} has not finished (no summary.json); resume it to its end")
        return RunRecord(summary=summary, sessions=self.sessions(), test_readings=self.test_readings())

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write all epochs' rows; a resumed run rewrites them from its checkpoint, so no row is duplicated."""
        write_atomic(self.metrics_file, to_csv(list(rows[0]), ([row.get(key) for key in rows[0]] for row in rows)).encode())

    def test_readings(self) -> list[TestReading]:
        """Every reading of the test split so far, oldest first."""
        lines = [_parse_json(line, self.test_readings_file) for line in self.test_reading_lines()]
        return parse_all(TestReading, lines, self.test_readings_file)

    def test_reading_lines(self) -> list[str]:
        """The whole lines of the file; a last one that was cut off is of a reading whose result was never shown."""
        if not self.test_readings_file.exists():
            return []
        lines = self.test_readings_file.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith(("\n", "}")):
            lines.pop()
        return [line.rstrip("\n") for line in lines]

    def append_test_reading(self, **reading: object) -> None:
        """Record that the test split was read, by which command and with what result: the keys of `TestReading`.

        Each line names the hash of the line before it, so that none can be removed from the middle unnoticed. The file is
        replaced as a whole: a line cut off by a full disk would make evidence of all before it unreadable.
        """
        with briefly_alone(self.folder):
            lines = self.test_reading_lines()
            previous = sha256_bytes(lines[-1].encode()) if lines else None
            time = datetime.now(UTC).isoformat(timespec="seconds")
            stamped = TestReading.model_validate({"time": time, **reading, "previous_sha256": previous})
            lines.append(json.dumps(stamped.plain(), allow_nan=False))
            write_atomic(self.test_readings_file, "".join(f"{line}\n" for line in lines).encode())


def _and_checkpoint(file: Path) -> str:
    """How to ask for the weights in a file of a run directory, where they are not the ones taken anyway."""
    return f", and the checkpoint {file.stem}" if file.suffix == ".pt" and file.stem not in ("best", "last", "previous") else ""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.csv`, one an epoch, its numbers as floats; none before the first epoch has ended.

    Raises CheckpointError for a damaged one, such as a spreadsheet leaves.
    """
    if not path.exists():
        return []
    try:
        table = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        if "val_accuracy" not in (table.fieldnames or ()):
            raise ValueError("it has no column val_accuracy")
        return [{key: value if key == "train_targets" else float(value) for key, value in row.items()} for row in table]
    except (ValueError, TypeError, csv.Error) as error:  # no number, no text, a cell too many or too few
        raise CheckpointError(
            f"{path} is damaged ({error}); expected commas and a number in every cell, as training writes it; restore the file"
        ) from None


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


@cache
def _hash_of(path: Path, changed: int, size: int) -> str:
    """SHA-256 of a file, taken once until it changes: a sweep asks for that of each of its runs again and again."""
    return sha256_file(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run directory. Raises CheckpointError if it is damaged."""
    return _parse_json(path.read_bytes(), path)


def _parse_json(text: str | bytes, path: Path) -> Any:
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); expected JSON as cifar-small writes it; restore or remove the file"
        ) from None


def can_resume(run: Run, config: Config, resume: bool) -> bool:
    """True if there is a run to resume; removes leftovers of killed writers, and changes nothing else.

    Raises UserError for an existing run without `resume`, CheckpointError for a folder of other files, ConfigError when the
    config differs from the run's in anything but more epochs of its last phase, more patience, and `FREE_TO_CHANGE`.
    """
    found = {path.name for path in run.folder.iterdir() if path.name != ".lock" and not path.name.startswith(".config.yaml.")}
    if found and not run.is_run and not _start_was_cut_off(run, config, found):
        raise CheckpointError(
            f"{run.folder} is not empty and is not a run directory (contains {min(found)}, ...)", remedy="output"
        )
    for leftover in (path for end in ("tmp", "new") for path in run.folder.glob(f".*.{end}")):
        leftover.unlink()  # of a process killed while writing; we hold the lock
    if not run.begun:
        run.next_best.unlink(missing_ok=True)  # of a first epoch that no last.pt counts
        return False  # nothing to lose: no epoch was completed
    if not resume:
        raise UserError(f"{run.folder} already holds a run", remedy=("resume", "output"))
    own = run.config()
    differences = config_differences(own, config)
    if differences:
        longer = any(line.startswith("phases.") and ".epochs:" in line for line in differences)
        advice = (
            f"; to train longer, raise phases.{len(own.phases) - 1}.epochs, the last phase's, or start a new run from its "
            f"weights (weights: {run.folder})"
        )
        raise ConfigError(
            f"cannot resume {run.folder}: the config differs from the run's: {'; '.join(differences)}; "
            f"use the run's own settings{advice if longer else ''}",
            remedy="output",
        )
    return True


def _start_was_cut_off(run: Run, config: Config, names: set[str]) -> bool:
    """Does a folder hold what `write_start` of this config writes before `env.json`, and nothing else?"""
    own, written = {run.config_file.name, *files_of(config_dict(config))}, dump_config(config).encode()
    return names <= own and run.config_file.is_file() and run.config_file.read_bytes() == written


def config_differences(old: Config, new: Config) -> list[str]:
    """The settings that forbid resuming, each as `key: old -> new`."""
    before, after = (flatten(config_dict(config), whole=True) for config in (old, new))
    last_epochs = f"phases.{len(old.phases) - 1}.epochs"
    differences = []
    for key in sorted(before.keys() | after.keys()):
        # In a phase null is not the same as nothing: it switches off what the phase before has.
        was, now = before.get(key, UNSET), after.get(key, UNSET)
        if was == now or key in FREE_TO_CHANGE:
            continue
        if key == last_epochs and len(new.phases) == len(old.phases) and isinstance(was, int) and float(now) > was:
            continue  # not of a run that ends within an epoch, which has no place where it could go on
        if key == "patience" and was is not None and (now is None or int(now) > int(was)):
            continue  # the same epochs as with this patience from the start
        differences.append(f"{key}: {was} -> {now}")
    return differences


def flatten(value: Any, prefix: str = "", *, whole: bool = False) -> dict[str, Any]:
    """Nested dicts and lists as one dict by dotted keys, such as `phases.0.epochs`; empty ones leave nothing, unless whole."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix.rstrip("."): value}
    if whole and not items:
        return {prefix.rstrip("."): value}
    return {key: item for name, child in items for key, item in flatten(child, f"{prefix}{name}.", whole=whole).items()}


def require_space(run: Run, needed: int) -> None:
    """Raise DiskError before training if the disk cannot hold `needed` bytes of checkpoints."""
    free = shutil.disk_usage(run.folder).free
    if free < needed:
        raise DiskError(f"{run.folder} has {free / 1e6:,.0f} MB free; checkpoints need {needed / 1e6:,.0f} MB; free some space")


def write_start(run: Run, config: Config, environment: Mapping[str, Any], command: str, epochs: int) -> None:
    """Write `config.yaml`, and append this session to `env.json`: one entry for each time the run was started or resumed."""
    own = {run.folder / name: source_of(sha256) for name, sha256 in files_of(config_dict(config)).items()}
    for path, content in own.items():
        if content is not None and path.is_file() and path.read_bytes() != content:
            raise CheckpointError(f"{path} was edited, and is not the code that this run is trained with; move it elsewhere")
    write_atomic(run.config_file, dump_config(config).encode())
    for path, content in own.items():
        if content is not None:
            write_atomic(path, content)
    for ended in (run.summary_file, run.final):
        ended.unlink(missing_ok=True)  # of the shorter run that this one makes longer
    started = datetime.now(UTC).isoformat(timespec="seconds")
    session = Session.model_validate({"started": started, "command": command, "epochs_planned": epochs, **environment})
    write_json(run.env_file, {"sessions": plain_all([*run.sessions(), session])})

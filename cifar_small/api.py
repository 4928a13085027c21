"""The toolkit from Python, for notebooks and scripts: the functions behind the commands, under a dozen names.

Each name is also one of the package: `import cifar_small as cs; run = cs.train("configs/smoke.yaml")`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cifar_small.config.loading import load_config as _read_config
from cifar_small.config.loading import parse_config, with_changes
from cifar_small.config.own_code import with_hashes
from cifar_small.config.schema import Config
from cifar_small.data.sources import classes_at_hand
from cifar_small.errors import ConfigError, DataError, UserError
from cifar_small.evaluation.compare import Comparison
from cifar_small.evaluation.compare import compare as _compare
from cifar_small.evaluation.entries import load_entries
from cifar_small.evaluation.estimate import Estimation
from cifar_small.evaluation.estimate import estimate as _estimate
from cifar_small.figures.run import draw_run
from cifar_small.figures.style import render, save
from cifar_small.files import sha256_file, write_atomic, write_json
from cifar_small.inference.blend import Method
from cifar_small.inference.predict import Split, check_split, images_or_note, predict, predictions_file, views_or
from cifar_small.models.counting import footprint
from cifar_small.reporting.comparison_tables import comparison_tables
from cifar_small.reporting.estimate_files import estimation_record, estimation_table
from cifar_small.reporting.tables import Table, to_html, to_text
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions as Predictions
from cifar_small.runs.predictions import load_predictions as load_predictions
from cifar_small.runs.records import SubmissionRecord, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cifar_small.training.trainer import OnEpoch

AnyConfig = str | Path | Mapping[str, Any] | Config


class Shown:
    """What a notebook shows as a table and `print` as text."""

    tables: Sequence[Table]

    def __str__(self) -> str:
        return to_text(self.tables)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return to_html(self.tables)


@dataclass(frozen=True)
class Plot:
    """A figure that a notebook shows, and that is saved as PNG, SVG or PDF by its ending."""

    figure: Figure

    def save(self, path: str | Path) -> None:
        """Write the picture."""
        save(self.figure, Path(path))

    def _repr_png_(self) -> bytes:
        return render(self.figure, "png")


@dataclass(frozen=True, repr=False)
class ParameterCount(Shown):
    """What a net costs, against the budget of its rules."""

    name: str
    trainable: int  # what the budget limits
    total: int
    macs: int  # multiply-adds for one image
    budget: int

    @property
    def headroom(self) -> int:
        """Parameters left in the budget; negative: over.

        >>> param_count("resnet_hour", {"rules.max_params": 2_000_000}).headroom
        -703690
        """
        return self.budget - self.trainable

    @property
    def tables(self) -> Sequence[Table]:  # type: ignore[override]
        """One row."""
        header = ("config", "trainable", "total", "MMACs", "budget", "headroom")
        left = f"{self.headroom:,}" + (" OVER" if self.headroom < 0 else "")
        row = (self.name, f"{self.trainable:,}", f"{self.total:,}", f"{self.macs / 1e6:,.1f}", f"{self.budget:,}", left)
        return [Table("", header, (row,))]


@dataclass(frozen=True, repr=False)
class Compared(Shown):
    """The tables of a comparison; `comparison` has the numbers."""

    comparison: Comparison

    @property
    def tables(self) -> Sequence[Table]:  # type: ignore[override]
        """Entries, scores, paired tests and notes."""
        return comparison_tables(self.comparison)


@dataclass(frozen=True, repr=False)
class Estimated(Shown):
    """What runs are expected to score on a file without labels; `estimation` has the numbers."""

    estimation: Estimation

    @property
    def tables(self) -> Sequence[Table]:  # type: ignore[override]
        """A row for each run, with the warnings below."""
        table = estimation_table(self.estimation)
        return [replace(table, notes=(*table.notes, *(f"warning: {warning}" for warning in self.estimation.warnings)))]


@dataclass(frozen=True)
class TrainedRun:
    """A run directory whose training has finished."""

    folder: Path
    summary: Summary = field(repr=False)

    @cached_property
    def config(self) -> Config:
        """The resolved configuration."""
        return Run(self.folder).config()

    @property
    def accuracy(self) -> float:
        """On val, with the views of the config, as a share."""
        return self.summary.val_accuracy

    @property
    def parameters(self) -> int:
        """Trainable parameters, which the budget limits."""
        return self.summary.parameters

    @property
    def lineage(self) -> list[str]:
        """The weights it started from or learned from, in words; empty: from scratch."""
        return self.summary.lineage

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row for each epoch: rates, losses in nats, accuracies as shares. Raises UserError for a soup, which has none."""
        return pd.read_csv(self._trained().metrics_file)

    def curves(self) -> Plot:
        """Losses, accuracies and learning rate by epoch. Raises UserError for a soup, which has none."""
        return Plot(draw_run(self._trained()))

    def _trained(self) -> Run:
        if self.summary.soup:
            raise UserError(f"{self.folder} is a soup, whose weights are a mean: it has no epochs; its members have")
        return Run(self.folder)

    def predict(
        self,
        split: Split = "val",
        *,
        file: str | Path | None = None,
        views: str | None = None,
        checkpoint: str = "best",
        allow_rows: int | None = None,
    ) -> Predictions:
        """Logits of a split, or of the unlabelled `file` (split submit), from the run's predictions file.

        The file is written if it is not there yet; later calls read it, so that a notebook run twice reads test once.
        Predictions of an unlabelled file are always made anew, with a note where they replace those of another file. Raises
        UserError, DataError and CheckpointError.
        """
        run = Run(self.folder)
        check_split(split)
        path_of_file = None if file is None else _path(file, "file")
        target = predictions_file(run, split, checkpoint, views_or(self.config, views), self.config.views)
        if split != "submit" and target.exists() and file is None:
            known = load_predictions(target)
            if known.meta.weights_sha256 == sha256_file(run.checkpoint(checkpoint)):
                return known
        former = None
        if split == "submit" and target.exists():
            with suppress(DataError):  # a damaged one is replaced
                former = load_predictions(target).meta
        path, found, notes = predict(
            run,
            split,
            file=path_of_file,
            views=views,
            checkpoint=checkpoint,
            allow_rows=allow_rows,
            overwrite=True,
            command="cifar_small.TrainedRun.predict",
        )
        if former is not None and former.images_sha256 != found.meta.images_sha256:
            notes = [*notes, f"{path} held predictions of {former.source}, which those of {found.meta.source} have replaced"]
        for note in notes:
            print(f"note: {note}")
        return load_predictions(path)

    def __str__(self) -> str:
        return f"{self.folder}: {self.parameters:,} parameters, val {self.accuracy:.2%}, epoch {self.summary.selected_epoch}"


def load_config(config: AnyConfig, settings: Mapping[str, Any] | None = None) -> Config:
    """A config from a YAML file or a mapping, with settings such as {"seed": 1, "optim.lr": 0.2} in place of its own.

    Raises ConfigError that lists every problem, each with its dotted key.

    >>> load_config("smoke", {"seed": 1, "optim.lr": 0.2}).optim.lr
    0.2
    """
    if settings is not None and not (isinstance(settings, Mapping) and all(isinstance(key, str) for key in settings)):
        raise ConfigError(f'settings are {settings!r}; expected a mapping such as {{"seed": 1, "optim.lr": 0.2}}')
    changes = [(key, _as_text(value, key)) for key, value in (settings or {}).items()]
    if isinstance(config, Config):
        if changes:
            raise UserError("settings have no effect on a config that is loaded already; give them where it is loaded")
        return config
    if isinstance(config, Mapping):
        return parse_config(with_hashes(with_changes(_plain(config), changes), trusted=True))
    return _read_config(_path(config, "config", "a mapping, or the path of a YAML file"), changes)


def param_count(config: AnyConfig, settings: Mapping[str, Any] | None = None, *, classes: int = 10) -> ParameterCount:
    """What the net of a config costs, before anything is read or trained.

    classes: of data whose classes are unknown without reading its images. Raises ConfigError for a net that cannot
    be built.

    >>> print(param_count("resnet_hour"))
    config       trainable      total  MMACs     budget   headroom
    resnet_hour  2,703,690  2,703,690  345.7  5,000,000  2,296,310
    """
    loaded = load_config(config, settings)
    size = footprint(loaded.model, classes_at_hand(loaded.data) or classes, loaded.side)
    return ParameterCount(loaded.name, size.trainable, size.total, size.macs, loaded.rules.max_params)


def train(
    config: AnyConfig,
    folder: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    on_epoch: OnEpoch | None = None,
    quiet: bool = False,
) -> TrainedRun:
    """Train a config into a run directory (default: runs/<name>-seed<seed>), or continue or read the run that is there.

    on_epoch is given each epoch's row of `metrics.csv`; quiet leaves out bar and lines. Interrupted, it goes on when called
    again, to the same weights bit for bit. Raises ConfigError (over budget, or the run there has other settings), DataError,
    CheckpointError and DivergedError.
    """
    from cifar_small.training.train import train as run_training

    if on_epoch is not None and not callable(on_epoch):
        raise UserError(f"on_epoch is {on_epoch!r}; expected a function that is given each epoch's row")
    loaded = load_config(config, settings)
    target = Path("runs") / f"{loaded.name}-seed{loaded.seed}" if folder is None else _path(folder, "folder")
    run_training(loaded, target, resume=True, command="cifar_small.train", quiet=quiet, on_epoch=on_epoch)
    return load_run(target)


def load_run(folder: str | Path) -> TrainedRun:
    """A finished run. Raises CheckpointError for another folder, or a run that has not finished.

    >>> load_run("runs/nowhere")
    Traceback (most recent call last):
    cifar_small.errors.CheckpointError: runs/nowhere does not exist: expected a run directory written by cifar-small train
    """
    run = Run(_path(folder, "folder", "the path of a run directory"))
    return TrainedRun(run.folder, run.record().summary)


Member = TrainedRun | str | Path


def ensemble(
    members: Sequence[Member],
    output: str | Path,
    *,
    method: Method = "logits",
    split: Split | None = None,
    file: str | Path | None = None,
    config: AnyConfig | None = None,
) -> Predictions:
    """Combine runs, or predictions files, into the predictions file `output`, which is written anew, and return what it holds.

    method: as in `cifar-small ensemble`; the fitted ones, weighted and greedy, use the members' predictions of val. split,
    file: what runs are to predict (None: val), as `TrainedRun.predict` does. config: whose rules hold; None: those of the
    members, which must agree. Raises UserError and DataError for members that cannot be combined.
    """
    from cifar_small.inference.ensemble import combine, find_val

    if not isinstance(members, Sequence) or isinstance(members, str):
        raise UserError(f"members are {members!r}; expected a list of runs and predictions files")
    target = _path(output, "output")
    runs = [member for member in members if isinstance(member, TrainedRun)]
    if not runs and (split is not None or file is not None):
        raise UserError("split and file say what runs predict, and all members are predictions files: leave them out")
    split = split or "val"
    for run in runs:
        run.predict(split, file=file)
        if method in ("weighted", "greedy"):
            run.predict("val")
    paths = [
        predictions_file(Run(member.folder), split, "best", member.config.views, member.config.views)
        if isinstance(member, TrainedRun)
        else _path(member, "a member", "a run, or the path of a predictions file")
        for member in members
    ]
    predictions = [load_predictions(path) for path in paths]
    rules = None if config is None else load_config(config).rules
    combine(predictions, method, find_val(paths, predictions), rules).save(target)
    return load_predictions(target)


def compare(
    *entries: Member, split: Literal["val", "test"] = "val", names: Sequence[str] = (), pairs: bool = False
) -> Compared:
    """Which is better, by how much, and is it more than chance? Runs, or predictions files, on the same images.

    names: of the entries, in their order; pairs: test each against each instead of against the first. Uses predictions that
    are there and reads no data. Raises UserError and CheckpointError.
    """
    if split not in ("val", "test"):
        raise UserError(f"split is {split!r}; expected val or test")
    return Compared(_compare(load_entries(_named(entries, names)), split, all_pairs=pairs))


def estimate(*runs: TrainedRun, file: str | Path, output: str | Path = "estimate.json") -> Estimated:
    """What runs are expected to score on the unlabelled `file`, each with an interval, from their predictions of val and of it.

    These are made as `TrainedRun.predict` makes them, and lie in the runs afterwards. `output` is written anew: the record that
    the file was looked at. Raises UserError and DataError.
    """
    if lone := [run for run in runs if not isinstance(run, TrainedRun)]:
        raise UserError(f"{lone[0]!r} is no run; expected runs of load_run or train, one by one: *runs for a list of them")
    if not runs:
        raise UserError("no runs; expected one or more")
    target = _path(output, "output")
    files, vals = [run.predict("submit", file=file) for run in runs], [run.predict("val") for run in runs]
    found = _estimate(files, vals)
    write_json(target, estimation_record(found, "cifar_small.estimate").plain())
    return Estimated(found)


def submit(
    predictions: str | Path,
    output: str | Path,
    *,
    runs: Sequence[Member] = (),
    config: AnyConfig | None = None,
    sample: str | Path | None = None,
    estimate: str | Path | None = None,
    overwrite: bool = False,
) -> SubmissionRecord:
    """Write the submission CSV of a predictions file of an unlabelled file, and its record beside it; returns the record.

    runs: those that predicted, where the file does not lie in one, as that of an ensemble: their checkpoints are counted.
    config: whose rules apply, instead of the runs' own. sample: the competition's sample submission, for header, ids and
    labels. estimate: what `estimate` wrote of this file, where the choice was made by it: the record then says so. Raises
    ConfigError for a model that breaks the rules.
    """
    from cifar_small.submission.submission_file import submit_file

    if isinstance(predictions, Predictions):
        raise UserError(
            f"predictions are those of {predictions.meta.name}, read from {predictions.meta.file or 'no file'}; expected the "
            "path of that file, which names its run: RUN/predictions/submit.npz, where run.predict wrote it"
        )
    if not isinstance(runs, Sequence) or isinstance(runs, str):
        raise UserError(f"runs are {runs!r}; expected a list of runs")
    folders = [run.folder if isinstance(run, TrainedRun) else _path(run, "a run", "a run, or its directory") for run in runs]
    _, record = submit_file(
        _path(predictions, "predictions", "the path of a predictions file"),
        _path(output, "output"),
        runs=folders,
        rules=None if config is None else load_config(config).rules,
        sample=None if sample is None else _path(sample, "sample"),
        estimate=None if estimate is None else _path(estimate, "estimate"),
        overwrite=overwrite,
        command="cifar_small.submit",
    )
    if record.uncounted:
        print(
            f"note: parameters of {', '.join(record.uncounted)} were counted by config alone, without the checkpoint; give the "
            "runs that predicted as runs"
        )
    return record


def report(
    *entries: Member, output: str | Path = "report.html", title: str = "Small image classifiers", names: Sequence[str] = ()
) -> Path:
    """Write one web page about runs and predictions files, as `cifar-small report` does, and return its path.

    Mistakes are shown where the images can be read; a note says where they cannot.
    """
    from cifar_small.reporting.page import common_split, render_page

    target = _path(output, "output")
    found = load_entries(_named(entries, names))
    images = partial(images_or_note, data_root=None, note=lambda text: print(f"note: {text}"))
    page = render_page(title, found, _compare(found, common_split(found), all_recipes=True), images)
    write_atomic(target, page.encode())
    return target


def _plain(value: Any) -> Any:
    """Mappings and lists with paths as text and numpy's numbers as Python's; what no config can hold is left to its reader."""
    match value:
        case Mapping():
            return {key: _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case os.PathLike():
            return os.fspath(value)
        case np.generic():
            return value.item()
    return value


def _as_text(value: Any, key: str) -> str:
    """A setting as the command line would be given it. Raises ConfigError for what no config can hold."""

    def refuse(one: Any) -> Any:
        raise TypeError(f"{key} holds a {type(one).__name__}")

    try:
        return json.dumps(_plain(value), default=refuse)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key} is {value!r:.60}; expected text, numbers, lists and mappings of them ({error})") from None


def _path(value: Any, what: str, expected: str = "a path") -> Path:
    """A path that was given as text or as one. Raises UserError for anything else."""
    if not isinstance(value, str | Path):
        raise UserError(f"{what} is a {type(value).__name__}; expected {expected}")
    return Path(value)


def _named(entries: Sequence[Member], names: Sequence[str]) -> list[tuple[str, Path]]:
    """The entries with their names, empty for those that were given none."""
    if not entries:
        raise UserError("no entries; expected runs or predictions files")
    for entry in entries:
        if not isinstance(entry, TrainedRun):
            _path(entry, "an entry", "runs or paths of predictions files, one by one: *runs for a list of them")
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"names are {names!r}; expected a list of as many as entries")
    if names and len(names) != len(entries):
        raise UserError(f"{len(names)} names for {len(entries)} entries; expected as many")
    paths = [entry.folder if isinstance(entry, TrainedRun) else Path(entry) for entry in entries]
    return list(zip(names or [""] * len(paths), paths, strict=True))

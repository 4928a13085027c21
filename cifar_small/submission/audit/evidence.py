"""What an audit looks at: the CSV, its record, predictions files, run directories, data; each read when first needed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.schema import Config, Data, Rules
from cifar_small.data import Images, is_available, load_unlabelled
from cifar_small.data.cifar import VARIABLE
from cifar_small.data.datamodule import load_splits
from cifar_small.data.images import SIDE
from cifar_small.data.unlabelled import AskedLayout
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.files import sha256_bytes, sha256_file
from cifar_small.inference.onnx_session import load_onnx, require_extra
from cifar_small.inference.predict import Net, load_net, relocate_net
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.runs.records import DataFacts, NetFacts, PredictionsMeta, RunRecord, SubmissionRecord, Summary, parse
from cifar_small.submission.audit.card import CheckResult, Unavailable
from cifar_small.submission.csv_form import label_texts, rules_of_sample
from cifar_small.submission.submission_file import read_csv
from cifar_small.wording import command_line


class Sources:
    """The images at hand: the data of the runs, and the unlabelled file."""

    def __init__(self, data_root: str | None, file: Path | None, layout: AskedLayout) -> None:
        self.data_root, self.file, self.layout = data_root, file, layout
        self._splits: dict[tuple[Data, int], tuple[Images, Images, DataFacts]] = {}
        self._unlabelled: dict[tuple[tuple[str, ...], int], Images] = {}

    def located(self, data: Data) -> Data:
        """The same data where it lies now. Raises Unavailable where it would have to be downloaded."""
        here = data.model_copy(update={"root": self.data_root or data.root or os.environ.get(VARIABLE)})
        if not is_available(here):
            raise Unavailable(f"the {data.source} data are not at hand: give their folder")
        return here

    def splits(self, data: Data, side: int) -> tuple[Images, Images, DataFacts]:
        """Training and validation images, and their hashes. Raises Unavailable when they are not at hand."""
        here = self.located(data)
        if (here, side) not in self._splits:
            try:
                self._splits[here, side] = load_splits(here, side)
            except DataError as error:
                if self.data_root is not None:
                    raise
                raise Unavailable(f"{error}; give the folder of the data") from None
        return self._splits[here, side]

    def unlabelled(self, classes: tuple[str, ...], side: int = SIDE) -> Images:
        """The images of the unlabelled file, for a net trained on those of `side` pixels. Raises Unavailable without one."""
        if self.file is None:
            raise Unavailable("no unlabelled file: give it")
        if (classes, side) not in self._unlabelled:
            found, _ = load_unlabelled(self.file, classes=classes, layout=self.layout, side=side)
            self._unlabelled[classes, side] = found
        return self._unlabelled[classes, side]


class PredictionsFile:
    """A predictions file, and what the record says of it."""

    def __init__(self, recorded_meta: PredictionsMeta, file: Path | None, otherwise: str) -> None:
        self.recorded_meta, self._file, self._otherwise = recorded_meta, file, otherwise

    @property
    def file(self) -> Path:
        """The file. Raises Unavailable when it is not at hand."""
        if self._file is None:
            raise Unavailable(self._otherwise)
        return self._file

    @cached_property
    def predictions(self) -> Predictions:
        """What is in the file. Raises Unavailable for a missing or damaged one, of which the link `predictions` speaks."""
        try:
            return load_predictions(self.file)
        except DataError as error:
            raise Unavailable(str(error)) from None


@dataclass
class Member:
    """One net of a submission: what the record says of it, and its run directory where that is at hand."""

    recorded_meta: PredictionsMeta  # of its predictions
    label: str  # "" for a submission of one net
    given_run: Run | None
    made: PredictionsFile
    recorded: RunRecord | None  # the run as it was when the CSV was written
    written: str  # time at which the CSV was written
    copies: Path  # where the record keeps copies of the run's config and metrics
    classes: tuple[str, ...]
    rules: Rules  # that it is judged by
    sources: Sources
    ancestor_runs: tuple[Run, ...] = ()  # run directories of nets that nets of the submission started from
    soup_runs: tuple[Run, ...] = ()  # run directories of nets that were averaged into nets of the submission

    @property
    def run(self) -> Run:
        """Its run directory. Raises Unavailable when none was given."""
        if self.given_run is None:
            raise Unavailable(f"no run directory: give it (recorded as {self.recorded_meta.run})")
        return self.given_run

    @property
    def weights_file(self) -> Path:
        """The checkpoint that predicted: best.pt or a kept one. Raises CheckpointError when the run does not have it."""
        return self.run.checkpoint(self.recorded_meta.checkpoint)

    @property
    def selected(self) -> bool:
        """Did the weights predict that the run selected, or others that it kept?"""
        return self.recorded_meta.checkpoint == "best"

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """What is in that file. Raises Unavailable for a missing or damaged one, of which the link `weights` speaks."""
        try:
            return load_checkpoint(self.weights_file)
        except CheckpointError as error:
            raise Unavailable(str(error)) from None

    @cached_property
    def best(self) -> dict[str, Any]:
        """What is in best.pt, of which the summary speaks. Raises Unavailable for a missing or damaged one."""
        try:
            return load_checkpoint(self.run.best)
        except CheckpointError as error:
            raise Unavailable(str(error)) from None

    def net(self, checkpoint: str | None = None) -> Net:
        """The net of that checkpoint, or of another, for the devices of this machine. Raises CheckpointError."""
        return relocate_net(load_net(self.run, checkpoint or self.recorded_meta.checkpoint), "auto", None)

    def onnx_net(self) -> Net:
        """The net as the ONNX file computes it. Raises Unavailable, or CheckpointError for a file of other weights."""
        try:
            require_extra()
        except UserError as error:
            raise Unavailable(str(error)) from None
        return load_onnx(self.run, self.onnx_file, self.recorded_meta.checkpoint)

    @property
    def onnx_file(self) -> Path:
        """The ONNX file that computed: by its recorded name in the run directory, else by its hash. Raises Unavailable."""
        assert self.recorded_meta.onnx is not None
        named = self.run.folder / Path(self.recorded_meta.onnx.file).name
        others = (
            path for path in sorted(self.run.folder.glob("*.onnx")) if sha256_file(path) == self.recorded_meta.onnx.sha256
        )
        found = named if named.is_file() else next(others, None)
        if found is None:
            raise Unavailable(f"{self.run.folder} holds no {named.name}: put the ONNX file there")
        return found

    @cached_property
    def config(self) -> Config:
        """Its config: the checkpoint's, else the run's, else the record's copy, else the one that the predictions name."""
        if self.given_run is not None:
            try:
                return parse_config(self.checkpoint["config"], self.recorded_meta.checkpoint)
            except Unavailable:
                return self.given_run.config()
        if self.copied("config.yaml") is not None:
            return load_config(self.copies / "config.yaml", trusted=False)
        if self.recorded_meta.config is None:
            raise Unavailable("the record is of a version whose predictions did not name their config; give the run directory")
        return parse_config(self.recorded_meta.config, "the record")

    @property
    def data(self) -> DataFacts:
        """What the predictions' record says of the data. Raises DataError where it says nothing."""
        if self.recorded_meta.data is None:
            raise DataError("the record does not name the data of this net")
        return self.recorded_meta.data

    @cached_property
    def splits(self) -> tuple[Images, Images, DataFacts]:
        """Training and validation images of its config, and their hashes. Raises Unavailable."""
        return self.sources.splits(self.config.data, self.data.side)

    @cached_property
    def val(self) -> Predictions:
        """What the run predicted for val when it ended. Raises Unavailable, or DataError for a damaged file."""
        path = self.run.predictions / "val.npz"
        if not path.exists():
            raise Unavailable(f"{path} is missing; {command_line('predict', self.run.folder, split='val')} makes one")
        return load_predictions(path)

    @property
    def summary(self) -> Summary:
        """The run's summary, or the record's copy. Raises Unavailable when there is neither."""
        if self.given_run is not None:
            summary = self.given_run.summary()
            if summary is None:
                raise Unavailable(f"{self.given_run.folder} has no summary.json")
            return summary
        if self.recorded is None:
            raise Unavailable("the record holds no summary of the run: give its directory")
        return self.recorded.summary

    def copied(self, name: str) -> Path | None:
        """The record's copy of a file of the run, if it has one."""
        path = self.copies / name
        return path if self.recorded is not None and path.exists() else None


@dataclass
class Submission:
    """A CSV and what is at hand of the chain that made it."""

    csv: Path
    content: bytes
    record: SubmissionRecord
    rules: Rules  # that it is judged by
    csv_rules: Rules  # that the CSV was written by
    made: PredictionsFile  # of the ensemble, where it is one
    members: list[Member]
    sources: Sources
    left_out: tuple[Run, ...] = ()  # run directories of nets that an ensemble was offered and left out
    sample: Path | None = None  # the competition's sample submission

    @property
    def recorded_meta(self) -> PredictionsMeta:
        """The meta of the predictions, as recorded."""
        return self.made.recorded_meta

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, as recorded."""
        return tuple(self.record.class_counts)

    def ordered(self, ids: npt.NDArray[np.int64], result: CheckResult) -> npt.NDArray[np.int64]:
        """These ids in the order that the CSV must have: of the sample submission that the record names, else as they are.

        Where the sample is not at hand, the order of the CSV is taken as its, and a gap says so.
        """
        order = self.record.order
        if order is None and self.sample is None:
            return ids
        if order is None:  # it is held against the CSV all the same
            assert self.sample is not None
            of_sample, listed = rules_of_sample(self.sample.read_bytes(), ids, self.classes, self.csv_rules, str(self.sample))
            forms = [(each.submission, each.ids, label_texts(self.classes, each)) for each in (of_sample, self.csv_rules)]
            result.same(f"header, form of ids and labels as in {self.sample.name}", *forms)
            return listed
        if self.sample is not None:
            content = self.sample.read_bytes()
            result.same(f"SHA-256 of {self.sample.name}", order.sha256, sha256_bytes(content))
            return rules_of_sample(content, ids, self.classes, self.csv_rules, str(self.sample))[1]
        result.gap(f"the rows have the order of {order.file} (SHA-256 {order.sha256}), which is not at hand: give it")
        answers, _ = read_csv(self.content, ids, self.classes, self.csv_rules)
        return np.array(list(answers), np.int64) if len(answers) == len(ids) else ids

    def ids(self) -> tuple[npt.NDArray[np.int64], str]:
        """The ids to answer, in order, and where they come from: the unlabelled file, else the predictions."""
        if self.sources.file is not None:
            return self.sources.unlabelled(self.classes).ids, "the unlabelled file"
        try:
            return self.made.predictions.ids, "the predictions"
        except Unavailable:
            raise Unavailable("neither the unlabelled file nor the predictions are at hand: give one") from None


def gather(
    csv: Path,
    *,
    runs: Sequence[Path] = (),
    predictions: Path | None = None,
    file: Path | None = None,
    sample: Path | None = None,
    layout: AskedLayout = "auto",
    data_root: str | None = None,
    config: Path | None = None,
) -> Submission:
    """Find the record beside a submission and match the given files with it.

    runs: of the nets, and of those that they started from or were averaged from. config: whose rules hold instead of those in
    the record. Raises UserError for a path that does not exist or a run directory that is none of the submission's, DataError
    without a record.
    """
    for path in (predictions, file, sample, None if data_root is None else Path(data_root).expanduser()):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist; expected a file or folder to audit with")
    content, record = _read(csv)
    meta = record.predictions
    csv_rules = record.rules_for(csv.with_suffix(".json"), "give a config whose rules hold")
    rules = load_config(config).rules if config is not None else csv_rules
    started_from = {ancestor.weights_sha256 for net in meta.nets() for ancestor in net.ancestors}
    given = [Run(folder).require() for folder in runs]
    ancestral = tuple(run for run in given if run.weights_sha256("best") in started_from)
    averaged = tuple(run for run in given if _is_averaged(run, meta))
    submitted = {net.weights_sha256 for net in meta.nets()}
    folders = [run for run in given if run not in (*ancestral, *averaged) or run.weights_sha256("best") in submitted]
    sources = Sources(data_root, file, layout)
    written, classes = record.written, tuple(record.class_counts)
    if not meta.members:
        if len(folders) > 1:
            raise UserError(f"got {len(folders)} run directories; {csv.name} was made by one net: give one")
        run = folders[0] if folders else None
        made = PredictionsFile(meta, predictions or _file_of(meta, run), _missing(meta, run))
        alone = Member(meta, "", run, made, record.run, written, csv.parent, classes, rules, sources, ancestral, averaged)
        return Submission(csv, content, record, rules, csv_rules, made, [alone], sources, sample=sample)
    members, nets = [], list(meta.nets())
    assigned, left_out = _assign(nets, meta.left_out, folders)
    shared = meta.picked("rules", "rules_given", "images_sha256")
    for number, (member, run) in enumerate(zip(nets, assigned, strict=True), start=1):
        own = PredictionsMeta.model_validate({**member.given(), **shared})
        label = f"member {number} ({own.name}, seed {own.seed})"
        made = PredictionsFile(own, _file_of(own, run), _missing(own, run))
        kin = (ancestral, averaged)
        members.append(Member(own, label, run, made, None, written, csv.parent, classes, rules, sources, *kin))
    joined = PredictionsFile(meta, predictions, "the ensemble's predictions are not at hand: give their file")
    return Submission(csv, content, record, rules, csv_rules, joined, members, sources, left_out, sample)


def _is_averaged(run: Run, meta: PredictionsMeta) -> bool:
    """Does a run hold, or did one of its name hold, weights that went into a soup of the submission, or were tried for it?"""
    souped = [one for net in meta.nets() for one in net.soup]
    named = run.name in {one.run for one in souped} - {net.run for net in meta.nets()}
    return named or any(run.weights_sha256(one.checkpoint) == one.weights_sha256 for one in souped)


def _read(csv: Path) -> tuple[bytes, SubmissionRecord]:
    """The bytes of the CSV and its record. Raises DataError for a record that cannot be audited at all."""
    path = csv.with_suffix(".json")
    try:
        content = csv.read_bytes()
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename}: {error.strerror}; expected a CSV with the record that cifar-small submit writes "
            "beside it"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); expected the record that cifar-small submit writes") from None
    return content, parse(SubmissionRecord, record, path, expected="; expected the record that cifar-small submit writes")


def _assign(
    members: Sequence[NetFacts], left_out: Sequence[NetFacts], runs: Sequence[Run]
) -> tuple[list[Run | None], tuple[Run, ...]]:
    """The run directory of each member, by weights and name, by weights, or by name; and those of nets that were left out.

    In that order, so that a checkpoint copied into another member's run is that run's fault. Raises UserError for a run that is
    nobody's.
    """
    wanted = [*members, *(net for former in left_out for net in former.nets())]
    left = list(runs)
    found: list[Run | None] = [None] * len(wanted)

    def take(fits: Callable[[Run, NetFacts], bool]) -> None:
        for place, meta in enumerate(wanted):
            if found[place] is None and (matching := [run for run in left if fits(run, meta)]):
                found[place] = matching[0]
                left.remove(matching[0])

    def holds(run: Run, meta: NetFacts) -> bool:
        return meta.weights_sha256 is not None and run.weights_sha256(meta.checkpoint) == meta.weights_sha256

    take(lambda run, meta: run.name == meta.run and holds(run, meta))
    take(holds)
    take(lambda run, meta: run.name == meta.run)
    if left:
        names = ", ".join(str(meta.run) for meta in wanted)
        raise UserError(f"{left[0].folder} is no run of this ensemble, by weights or name; its members are {names}")
    return found[: len(members)], tuple(run for run in found[len(members) :] if run is not None)


def _file_of(meta: NetFacts, run: Run | None) -> Path | None:
    """The predictions file of a net in its run directory: by its recorded name, else by its hash."""
    if run is None or not run.predictions.is_dir():
        return None
    named = run.predictions / Path(meta.file or "").name
    if named.is_file():
        return named
    files = sorted(run.predictions.glob("*.npz"))
    equal = [path for path in files if sha256_file(path) == meta.sha256]
    return next(iter(equal), None)


def _missing(meta: NetFacts, run: Run | None) -> str:
    if run is None:
        return "no predictions file: give it, or its run directory"
    return f"{run.predictions} holds no {meta.file or 'predictions file with the recorded hash'}"

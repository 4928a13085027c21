"""What a comparison is made of: runs and predictions files, and the facts of each that a fair comparison has to state."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cifar_small.config.hashing import recipe_hash
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Rules
from cifar_small.errors import CheckpointError, ConfigError, DataError, UserError
from cifar_small.files import sha256_file
from cifar_small.inference.blend import FITTED
from cifar_small.metrics.classification import wilson_interval
from cifar_small.models.counting import footprint
from cifar_small.runs.directory import Run, read_metrics
from cifar_small.runs.lineage import fault_of, foreign_lineage, start_of
from cifar_small.runs.predictions import Predictions, load_predictions, seconds_of
from cifar_small.runs.records import NetFacts, PredictionsMeta, Session, Summary, extension_of, members_were_chosen, recipe_of
from cifar_small.wording import command_line

SPLITS = ("val", "test")  # those that have labels
DECISIVE = ("torch", "torchvision", "numpy", "albumentations", "albucore", "opencv", "pillow", "timm")


@dataclass(frozen=True)
class Entry:
    """A model to compare: its labelled predictions by split, and the run directory they lie in, if they lie in one."""

    name: str
    predictions: Mapping[str, Predictions]
    run: Run | None = None

    @property
    def meta(self) -> PredictionsMeta:
        """What made the predictions; the same for every split but for the images."""
        return next(iter(self.predictions.values())).meta

    @property
    def parts(self) -> Sequence[NetFacts]:
        """The facts of each member, one for a single net."""
        return self.meta.members or [self.meta]

    @property
    def is_ensemble(self) -> bool:
        """Is it made of other predictions?"""
        return bool(self.meta.members)


@dataclass(frozen=True)
class Score:
    """Right answers among the images of a split."""

    correct: int
    total: int
    images_sha256: str

    @property
    def accuracy(self) -> float:
        """As a share."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson_interval(self.correct, self.total)


@dataclass(frozen=True)
class EntryRow:
    """An entry as a table shows it. What its files do not tell is None or empty."""

    name: str
    title: str  # the config's name
    seed: int | None
    recipe: str | None  # equal for seeds of one recipe, predicted with the same views
    parameters: int  # of all members together
    macs: int | None  # multiply-adds of all members for one image and one view, at the size that each is evaluated at
    budget: int
    faults: tuple[str, ...]  # why the rules forbid it; empty: legal
    start: str  # scratch, pretrained or pretrained teacher
    lineage: tuple[str, ...]  # weights it started from, those of runs on its own images among them
    data: str
    train_images: int | None  # how many it was trained on, each member as many
    train_sha256: str  # of what it was trained on
    views: str
    members: int
    selection: str
    epochs: tuple[float, ...]  # of each member
    minutes: float | None  # of training, all members together
    hardware: str
    test_readings: int | None
    val_chose: str  # what was fitted to or chosen on the images of its val score, beside the epoch; empty: nothing
    scores: Mapping[str, Score]  # by split
    extended: str = ""  # how a run of its members was made longer, which bends the schedule of its recipe
    estimate: tuple[float, float, float] | None = None  # of its accuracy on a file without labels, low and high
    ended_early: str = ""  # why a run of its members ended before its last planned epoch
    versions: Mapping[str, str] = field(default_factory=dict)  # by package: of those that decide pixels, weights or logits
    predict_minutes: float | None = None  # that 10,000 images take with its views, all members together
    readings_before: int = 0  # of its readings of test, those in the runs that a soup was made of
    int8_bytes: int | None = None  # of the int8 file that it is, or that lies in its run directory

    @property
    def legal(self) -> bool:
        """Is it within the rules?"""
        return not self.faults

    @property
    def legal_text(self) -> str:
        """The same in words, with what is against them."""
        return "yes" if self.legal else "no: " + ", ".join(self.faults)


@dataclass(frozen=True)
class _Training:
    """What a finished run's directory says of its weights."""

    recipe: str
    images: int | None
    epochs: float
    minutes: float
    hardware: str
    test_readings: int
    readings_before: int
    extended: str
    ended_early: str
    versions: Mapping[str, str]


def load_entries(arguments: Sequence[str | tuple[str, Path]]) -> list[Entry]:
    """Entries from run directories and predictions files, each `PATH`, `NAME=PATH` or (name or "", path), in the order given.

    Of a run, the files of its config's views are taken; of a file in a run, also the one of the other split. Two files of one
    ensemble, val and test, become one entry. Raises UserError, DataError or CheckpointError.
    """
    entries: dict[tuple[Any, ...], Entry] = {}
    paths: dict[tuple[Any, ...], str] = {}
    for argument in arguments:
        given, path = _named(argument)
        entry = _of_run(path) if path.is_dir() else _of_file(path)
        key = entry.meta.identity
        known = entries.get(key)
        if known is not None and set(known.predictions) & set(entry.predictions):
            raise UserError(f"{paths[key]} and {path} are the same weights with the same views; name each entry once")
        if known is not None:
            entry = replace(known, predictions={**known.predictions, **entry.predictions}, run=known.run or entry.run)
        entries[key] = replace(entry, name=given) if given else entry
        paths.setdefault(key, str(path))
    often = Counter(entry.name for entry in entries.values())
    return [entry if often[entry.name] == 1 else replace(entry, name=paths[key]) for key, entry in entries.items()]


def val_chose(predictions: Predictions) -> str:
    """What was chosen on these very images of val, beside an epoch, so that their accuracy flatters; empty: nothing."""
    meta = predictions.meta
    fitted = meta.fitted_on
    if meta.split != "val":
        return ""
    own_fit = fitted is not None and fitted.images_sha256 == meta.images_sha256
    inner_fit = fitted is None and any(_fitted(member) for member in meta.members)
    if own_fit or inner_fit:
        return "the weights of its members"
    return "the members of its soup" if any(members_were_chosen(net.soup) for net in meta.nets()) else ""


def _fitted(meta: NetFacts) -> bool:
    """Were weights of members fitted, in an ensemble or in one that is a member of it?"""
    return meta.method in FITTED or any(_fitted(member) for member in meta.members)


def collect_rows(entries: Iterable[Entry], rules: Rules | None = None) -> list[EntryRow]:
    """The row of each entry. What a run directory knows of some weights also serves the ensembles they are members of.

    rules: those that all are judged by; None: each by its own.
    """
    entries = list(entries)
    runs = [(str(entry.meta.weights_sha256), entry.run) for entry in entries if entry.run is not None]
    trainings = {str(entry.meta.weights_sha256): _training(entry.run, entry.meta) for entry in entries if entry.run is not None}
    seconds = {maker: found for _, run in runs for maker, found in seconds_of(run).items()}
    return [_row(entry, trainings, seconds, rules or entry.meta.rules_for(entry.name)) for entry in entries]


def _named(argument: str | tuple[str, Path]) -> tuple[str, Path]:
    if not isinstance(argument, str):
        if not argument[1].exists():
            raise UserError(f"{argument[1]} does not exist; expected a run directory or a predictions file")
        return argument
    name, equals, path = argument.partition("=")
    if Path(argument).exists():
        return "", Path(argument)
    if equals and name and Path(path).exists():
        return name, Path(path)
    raise UserError(f"{argument} does not exist; expected a run directory or a predictions file, or NAME=PATH")


def _of_run(folder: Path) -> Entry:
    """The predictions that a run has with its config's views."""
    run = Run(folder)
    summary = run.record().summary
    found = {split: run.predictions / f"{split}.npz" for split in SPLITS}
    predictions = {split: _load(path, run, summary) for split, path in found.items() if path.exists()}
    if not predictions:
        first = command_line("predict", folder, split="val")
        raise CheckpointError(f"{folder} has no predictions of val or test; run: {first}")
    return Entry(folder.resolve().name, predictions, run)


def _of_file(path: Path) -> Entry:
    """A predictions file, and of a run's also the other split's where it was made with the same views."""
    first = load_predictions(path)
    split = _split(first, path)
    run = Run(path.resolve().parent.parent)
    if first.meta.members or not run.is_run:
        name = re.sub(rf"[-_.]?{split}$", "", path.stem) or path.stem
        return Entry(name, {split: first})
    summary = run.record().summary
    predictions = {split: _load(path, run, summary)}
    for other in SPLITS:
        sibling = path.with_name(path.name.replace(split, other, 1))
        if other != split and path.name.startswith(split) and sibling.exists():
            found = _load(sibling, run, summary)
            if found.meta.maker == first.meta.maker:
                predictions[other] = found
    unusual = [] if first.meta.views == summary.views else [str(first.meta.views)]
    return Entry(" ".join([run.name, *unusual, *first.meta.form]), predictions, run)


def _load(path: Path, run: Run, summary: Summary) -> Predictions:
    """The labelled predictions in a run directory. Raises CheckpointError for those of other weights than it has now."""
    predictions = load_predictions(path)
    meta = predictions.meta
    kept = meta.checkpoint != "best"
    has = sha256_file(run.checkpoint(meta.checkpoint)) if kept else summary.weights_sha256
    if meta.weights_sha256 != has:
        command = predict_command(run, _split(predictions, path), meta, overwrite=True)
        raise CheckpointError(f"{path} was predicted with other weights than this run has now; run: {command}")
    return predictions


def predict_command(run: Run, split: str, meta: NetFacts, *, overwrite: bool = False) -> str:
    """What predicts a split as some predictions were made: by the same checkpoint, views and form."""
    summary = run.summary()
    return command_line(
        "predict",
        run.folder,
        split=split,
        checkpoint=None if meta.checkpoint == "best" else meta.checkpoint,
        views=None if summary is not None and meta.views == summary.views else meta.views,
        onnx=run.folder / meta.onnx.file if meta.onnx else None,
        overwrite=overwrite,
    )


def _split(predictions: Predictions, path: Path) -> str:
    split = str(predictions.meta.split)
    if predictions.labels is None or split not in SPLITS:
        raise DataError(
            f"{path} is of split {split}{' without labels' if predictions.labels is None else ''}; expected val or test; "
            "what two submissions agree on: cifar-small diff A.csv B.csv"
        )
    return split


def _training(run: Run, meta: PredictionsMeta) -> _Training:
    """What is known of a run's training up to the weights that predicted: a kept epoch's had fewer epochs and minutes."""
    record = run.record()
    early = meta.checkpoint.startswith("epoch-") and meta.epoch is not None
    rows = read_metrics(run.metrics_file)[: meta.epoch] if early else []
    hardware = " then ".join(dict.fromkeys(session.hardware for session in record.sessions))
    summary = record.summary
    return _Training(
        recipe_of(record),
        summary.train_images or summary.data.train_limit,
        len(rows) if rows else summary.epochs_trained,
        (rows[-1]["seconds"] if rows else summary.seconds) / 60,
        hardware,
        record.times_read,
        summary.readings_before or 0,
        extension_of(record.sessions),
        summary.ended_early,
        _versions(record.sessions),
    )


def _versions(sessions: Sequence[Session]) -> dict[str, str]:
    """The versions that a run was trained with, of the packages that decide its result; of several sessions in order.

    OpenCV has one name, whichever of its four packages it came in.
    """
    found: dict[str, dict[str, None]] = {}
    for session in sessions:
        for name, version in session.packages.items():
            short = "opencv" if name.startswith("opencv-") else name
            if short in DECISIVE:
                found.setdefault(short, {})[version] = None
    return {name: " then ".join(versions) for name, versions in found.items()}


def _row(entry: Entry, trainings: Mapping[str, _Training], seconds: Mapping[str, float], rules: Rules) -> EntryRow:
    meta, parts = entry.meta, entry.parts
    single = len(parts) == 1
    known = [training for part in parts if (training := trainings.get(str(part.weights_sha256))) is not None]
    whole = len(known) == len(parts)
    views = _views(entry)
    lineage = tuple(sorted({line for part in (meta, *parts) for line in part.lineage}))
    foreign = foreign_lineage(meta)
    recipe = known[0].recipe if known else _planned_recipe(meta)
    return EntryRow(
        name=entry.name,
        title=meta.name,
        seed=meta.seed if single else None,
        recipe=f"{recipe} {views}" if single and recipe else None,
        parameters=meta.parameters,
        macs=_macs(parts, next(iter(entry.predictions.values())).classes),
        budget=rules.max_params,
        faults=_faults([part.parameters for part in parts], meta.parameters, foreign, rules),
        start=start_of(foreign),
        lineage=lineage,
        data=_joined(data.text for part in parts if (data := part.data)),
        train_images=counts.pop() if whole and len(counts := {training.images for training in known}) == 1 else None,
        train_sha256=_joined(data.trained_on for part in parts if (data := part.data)),
        views=views,
        members=len(parts),
        selection=_joined(_selection(part) for part in parts),
        epochs=tuple(training.epochs for training in known) if whole else _planned_epochs(parts),
        minutes=_minutes(parts, known) if whole else None,
        hardware=_joined(training.hardware for training in known) if whole else "",
        test_readings=known[0].test_readings if single and known else None,
        readings_before=known[0].readings_before if single and known else 0,
        val_chose=val_chose(entry.predictions["val"]) if "val" in entry.predictions else "",
        scores={
            split: Score(int(predictions.correct.sum()), len(predictions.ids), predictions.meta.images_sha256)
            for split, predictions in entry.predictions.items()
        },
        extended=_joined(training.extended for training in known),
        ended_early=_joined(training.ended_early for training in known),
        versions={name: _joined(training.versions.get(name, "") for training in known) for name in DECISIVE} if whole else {},
        predict_minutes=_predict_minutes(entry, seconds),
        int8_bytes=_int8_bytes(entry) if single else None,
    )


def _minutes(parts: Sequence[NetFacts], known: Sequence[_Training]) -> float:
    """Of training in all; of several checkpoints of one run those of the last."""
    of_runs: dict[tuple[object, ...], float] = {}
    for part, training in zip(parts, known, strict=True):
        run = (part.name, part.seed, part.run)
        of_runs[run] = max(of_runs.get(run, 0.0), training.minutes)
    return sum(of_runs.values())


def _predict_minutes(entry: Entry, seconds: Mapping[str, float]) -> float | None:
    """Of 10,000 images, where the time of every net is known."""
    known = [seconds.get(net.maker) for net in entry.meta.nets()]
    return None if None in known else sum(filter(None, known)) / 60


def _int8_bytes(entry: Entry) -> int | None:
    if entry.meta.onnx is not None:
        return entry.meta.onnx.bytes if entry.meta.onnx.precision == "int8" else None
    file = entry.run.folder / "int8.onnx" if entry.run is not None and entry.meta.checkpoint == "best" else None
    return file.stat().st_size if file is not None and file.is_file() else None


def _macs(parts: Sequence[NetFacts], classes: Sequence[str]) -> int | None:
    """Of the nets that the members' configs describe, None where one has none, or one that this installation cannot build."""
    plain = [(part.config, f"the config of {part.name}") for part in parts if part.config]
    if len(plain) < len(parts):
        return None
    try:
        configs = [parse_config(config, where) for config, where in plain]
        return sum(footprint(config.model, len(classes), config.side).macs for config in configs)
    except ConfigError:  # a net of timm without timm, say: all else can still be compared
        return None


def _selection(part: NetFacts) -> str:
    """How the weights of a net were chosen: by its config, or by the name of a checkpoint that is not the selected one."""
    return str((part.config or {}).get("selection", "")) if part.checkpoint == "best" else part.checkpoint


def _planned_recipe(meta: NetFacts) -> str:
    """The recipe by the config in a predictions file, empty for one that holds none."""
    if not meta.config:
        return ""
    parts = [recipe_hash(parse_config(meta.config, f"the config in {meta.file}")), meta.data.trained_on if meta.data else ""]
    return " ".join(filter(None, parts))


def _views(entry: Entry) -> str:
    """The views, and the form of the net where it is not the weights as they are: views of int8 are not views of fp32."""
    return entry.meta.views_and_form if entry.meta.views else _joined(part.views_and_form for part in entry.parts)


def _faults(each: Sequence[int], parameters: int, foreign: Sequence[str], rules: Rules) -> tuple[str, ...]:
    faults = []
    if parameters > rules.max_params:
        over = f"{parameters - rules.max_params:,} over"
        faults.append(f"sum {over}, each within" if max(each) <= rules.max_params else over)
    if (fault := fault_of(foreign, rules)) is not None:
        faults.append(fault)
    return tuple(faults)


def _planned_epochs(parts: Sequence[NetFacts]) -> tuple[float, ...]:
    """Epochs by each member's config, none where one does not say."""
    phases = [(part.config or {}).get("phases") for part in parts]
    return tuple(sum(float(phase["epochs"]) for phase in own) for own in phases if own) if all(phases) else ()


def _joined(values: Iterable[str]) -> str:
    """Different values once each, in order."""
    return " + ".join(dict.fromkeys(value for value in values if value))

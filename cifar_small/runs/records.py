"""What a run, a prediction, a reading of the test split and a submission say of themselves, as typed records.

A key to add is added here and where its value is known. Keys that this version does not know are kept and written again.
All knowledge of what former versions wrote is in `upgrade` and in the defaults, which say what a missing key means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cifar_small.config.hashing import config_hash, recipe_hash
from cifar_small.config.schema import Config, Rules
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.files import sha256_bytes
from cifar_small.runs.formats import FORMAT, upgrade
from cifar_small.wording import plural


class Facts(BaseModel):
    """A part of a record: strict about what it knows, and keeping keys that it does not."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    def plain(self) -> dict[str, Any]:
        """Plain JSON values: the keys that were given or read, and no others."""
        return self.model_dump(mode="json", exclude_unset=True)

    def picked(self, *keys: str) -> dict[str, Any]:
        """Some of its values by their keys."""
        return {key: getattr(self, key) for key in keys}

    def given(self) -> dict[str, Any]:
        """The same as the values they are, nested records included."""
        return {key: getattr(self, key) for key in self.model_fields_set}

    def updated(self, **changes: object) -> Self:
        """The same with other values."""
        return self.model_copy(update=changes)


class DataFacts(Facts):
    """Which images a net was trained on; the data of weights from elsewhere have a source alone."""

    source: str
    sha256: str | None = None  # of all training images and labels
    val_sha256: str | None = None  # of the indices held out
    train_sha256: str | None = None  # of the indices trained on
    train_limit: int | None = None
    side: int = 32  # pixels a side that pictures were brought to as they were read; runs of before 32 was not all say nothing

    @property
    def text(self) -> str:
        """Source and limit in words."""
        return self.source + (f", {self.train_limit:,} images" if self.train_limit else "")

    def unlike(self, other: DataFacts) -> str:
        """In words, how two differ, `self` the first of them; empty where they do not."""
        said = []
        if self.source != other.source:
            said.append(f"{self.source} and {other.source}")
        elif self.sha256 != other.sha256:
            said.append("other images or labels")
        if self.train_limit != other.train_limit:
            limits = [f"{limit:,}" if limit else "all" for limit in (self.train_limit, other.train_limit)]
            said.append(f"{limits[0]} and {limits[1]} of the training images")
        elif self.train_sha256 != other.train_sha256:
            said.append("other ones of them to train on")
        if self.val_sha256 != other.val_sha256:
            said.append("other ones of them held out for val")
        if self.side != other.side:
            said.append(f"pictures read at {self.side}x{self.side} and {other.side}x{other.side}")
        return ", ".join(said)

    @property
    def trained_on(self) -> str:
        """A hash of the images and labels that a net was trained on, or of their indices alone; empty where none is known."""
        if not (self.sha256 and self.train_sha256):
            return self.train_sha256 or ""
        return sha256_bytes(f"{self.sha256} {self.train_sha256}".encode())


class _Named(Facts):
    name: str
    seed: int | None = None
    run: str | None = None  # folder of the run

    def label(self, folder: bool = False) -> str:
        """The name in a sentence, with the seed and on demand the folder of the run."""
        facts = ([] if self.seed is None else [f"seed {self.seed}"]) + ([str(self.run)] if folder else [])
        return f"{self.name} ({', '.join(facts)})" if facts else self.name


class Ancestor(Facts):
    """A net whose weights another one started from."""

    name: str
    data: DataFacts
    weights_sha256: str
    taught: list[str] = []  # lines of its lineage that came through its teachers


class TeacherFacts(_Named):
    """A net, or a file of predictions, that a run learned from, or a proxy that chose its images."""

    parameters: int
    weights_sha256: list[str | None]  # of each net
    pretrained: bool
    lineage: list[str]
    val_accuracy: float | None = None
    file: str | None = None
    sha256: str | None = None  # of the file
    views: str | None = None
    role: Literal["proxy"] | None = None  # None: a teacher

    @property
    def hashes(self) -> list[str | None]:
        """What must be the same for a run to be resumed."""
        return [self.sha256] if self.sha256 else self.weights_sha256


class SoupMember(_Named):
    """A net that was averaged into a soup, or tried."""

    parameters: int
    epoch: int
    val_accuracy: float
    weights_sha256: str
    config_sha256: str
    lineage: list[str]
    taken: bool
    checkpoint: str = "best"
    test_readings: int | None = None  # in its run before it was averaged; None: not recorded

    def label(self, folder: bool = False) -> str:
        """The name in a sentence, with the checkpoint where it is not the selected one."""
        return super().label(folder) + ("" if self.checkpoint == "best" else f", {self.checkpoint}")


def members_were_chosen(soup: Sequence[SoupMember]) -> bool:
    """Did val leave some of the nets out of a soup? Not of a soup of all, nor where there is none."""
    return not all(member.taken for member in soup)


class WeightsFacts(Facts):
    """What a checkpoint of weights says of them."""

    parameters: int
    epoch: int  # after which they were taken
    val_accuracy: float  # without views
    selection: str
    data: DataFacts
    lineage: list[str]
    teachers: list[TeacherFacts] = []
    soup: list[SoupMember] = []
    ancestors: list[Ancestor] = []
    checkpoint: str = "best"
    averaged: int | None = None  # how many weights are in the average; None: not recorded
    weights_sha256: str
    config_sha256: str


class OnnxFacts(Facts):
    """The ONNX file that computed in place of the weights."""

    file: str
    sha256: str
    bytes: int
    precision: str
    onnxruntime: str  # its version
    threads: int
    quantization: dict[str, Any] = {}


class NetFacts(_Named):
    """What made predictions: a net, or an ensemble of `members`. What a file does not say is None or empty."""

    parameters: int  # of all members together
    val_accuracy: float | None = None
    views: str | None = None
    precision: str | None = None
    onnx: OnnxFacts | None = None
    checkpoint: str = "best"
    weights_sha256: str | None = None
    config_sha256: str | None = None
    sha256: str | None = None  # of the predictions file
    data: DataFacts | None = None
    lineage: list[str] = []
    ancestors: list[Ancestor] = []
    teachers: list[TeacherFacts] = []
    soup: list[SoupMember] = []
    config: dict[str, Any] | None = None
    packages: dict[str, str] | None = None
    commit: str | None = None
    dirty: bool | None = None
    code_sha256: str | None = None  # of the package's files, where it ran outside a git checkout
    file: str | None = None
    method: str | None = None  # of an ensemble
    members: list[NetFacts] = []
    weight: float | None = None  # as a member

    @property
    def form(self) -> list[str]:
        """The checkpoint that is not the selected one, and the file that computed in place of the weights: `onnx int8`."""
        kept = [] if self.checkpoint == "best" else [self.checkpoint]
        return [*kept, f"onnx {self.onnx.precision}"] if self.onnx else kept

    @property
    def views_and_form(self) -> str:
        """Views and form in words: `flip`, `flip onnx int8`."""
        return " ".join([str(self.views), *self.form])

    @property
    def maker(self) -> str:
        """What made predictions, whatever they are of: weights, form and views, or method and makers of an ensemble."""
        if self.members:
            return json.dumps([self.method, sorted([member.maker, member.weight] for member in self.members)])
        return json.dumps([self.weights_sha256 or self.label(folder=True), self.views, self.onnx.sha256 if self.onnx else None])

    @property
    def identity(self) -> tuple[str, int | None, str]:
        """Equal for predictions of one net or ensemble on different images; of an ensemble the order of members is nothing."""
        return "" if self.members else self.name, self.seed, self.maker

    def facts(self) -> NetFacts:
        """What an ensemble repeats of a member."""
        return NetFacts.model_validate({key: value for key, value in self.given().items() if key in NetFacts.model_fields})

    def nets(self) -> Iterator[NetFacts]:
        """The facts of every net that had a part, through ensembles of ensembles."""
        for member in self.members:
            yield from member.nets()
        if not self.members:
            yield self


class FittedOn(Facts):
    """The predictions of val that the weights of an ensemble's members were fitted on."""

    split: str
    images: int
    images_sha256: str | None
    predictions: list[str | None]  # SHA-256 of each file


class ShiftFacts(Facts):
    """Which labelled stand-in for another source some images are."""

    kind: str  # of `transforms.shifts.KINDS`, `clean`, or the name of a set of another source
    severity: int  # 0 where there is only one
    family: str
    base: str  # what they were made from: val, test, or files
    base_sha256: str  # of those images, or of the files' images and labels
    seed: int = 0
    version: int = 1

    @property
    def name(self) -> str:
        """Kind and severity, as in names of files."""
        return f"{self.kind}-{self.severity}"


class PredictionsMeta(NetFacts):
    """What a predictions file says of itself; `file` and `sha256` are known once it is read."""

    format: int = FORMAT
    rules: dict[str, Any]
    rules_given: bool = False  # of an ensemble: by a config, where its members may have others
    images_sha256: str
    source: str | None = None  # of the images
    split: str | None = None
    allowed_rows: int | None = None  # images of the unlabelled file, where the rules say another number
    device: str | None = None
    command: str | None = None
    epoch: int | None = None
    selection: str | None = None
    averaged: int | None = None
    left_out: list[NetFacts] = []
    fitted_on: FittedOn | None = None
    shift: ShiftFacts | None = None  # of the images, in place of a split of a run's data

    def rules_for(self, name: object) -> Rules:
        """The rules they were made under; `name` is theirs in messages. Raises DataError."""
        return rules_of(self.rules, name, "predict again")


def rules_of(plain: dict[str, Any], name: object, remedy: str) -> Rules:
    """The rules in a record; `name` is the record's in messages. Raises DataError when they cannot be read."""
    try:
        return Rules.model_validate(plain)
    except ValidationError as error:
        raise DataError(f"{name}: its rules cannot be read ({plural(error.error_count(), 'problem')}); {remedy}") from None


class Summary(Facts):
    """What a run ended with, `summary.json`."""

    format: int = FORMAT
    name: str
    seed: int
    parameters: int
    max_params: int
    epochs: int
    epochs_planned: int
    selection: str
    selected_epoch: int
    val_accuracy: float
    val_interval: list[float]  # Wilson's 95 %, low and high
    val_images: int
    train_images: int | None = None  # None: not recorded
    views: str
    val_accuracy_plain: float  # without views
    data: DataFacts
    config_sha256: str
    recipe_sha256: str
    weights_sha256: str
    val_predictions_sha256: str | None = None
    metrics_sha256: str | None = None
    lineage: list[str] = []
    ancestors: list[Ancestor] = []
    soup: list[SoupMember] = []
    seconds: float  # in all sessions
    teachers: list[TeacherFacts] = []
    ended: Literal["patience"] | None = None  # what ended the run before its last planned epoch
    last_epoch: float | None = None  # the share of the last epoch that was trained; None: all of it
    finished: str | None = None  # when training ended, UTC; None: not recorded

    @property
    def epochs_trained(self) -> float:
        """The epochs, one that was not trained to its end by its share."""
        return self.epochs if self.last_epoch is None else round(self.epochs - 1 + self.last_epoch, 6)

    @property
    def readings_before(self) -> int | None:
        """How often test was read in the runs that a soup was made of, before it was; None where one does not say."""
        runs = {(one.name, one.seed, one.run): one.test_readings for one in self.soup}
        return None if None in runs.values() else sum(filter(None, runs.values()))

    @property
    def ended_early(self) -> str:
        """Why the run ended before its last planned epoch, in words; empty if it did not."""
        if self.epochs >= self.epochs_planned or self.soup:
            return ""
        return f"ended by patience after epoch {self.epochs} of {self.epochs_planned}"

    @classmethod
    def build(
        cls,
        config: Config,
        val: PredictionsMeta,
        *,
        correct: int,
        images: int,
        interval: tuple[float, float],
        epochs: int,
        epochs_planned: int,
        seconds: float,
        val_predictions_sha256: str,
        metrics_sha256: str | None = None,
        train_images: int | None = None,
    ) -> Summary:
        """The summary of a run by the meta of its predictions of val, how many are right and the interval of that share."""
        assert val.epoch is not None
        assert val.val_accuracy is not None
        assert val.data is not None
        assert val.weights_sha256 is not None
        summary = cls(
            format=FORMAT,
            name=config.name,
            seed=config.seed,
            parameters=val.parameters,
            max_params=config.rules.max_params,
            epochs=epochs,
            epochs_planned=epochs_planned,
            selection=config.selection,
            selected_epoch=val.epoch,
            val_accuracy=correct / images,
            val_interval=list(interval),
            val_images=images,
            views=config.views,
            val_accuracy_plain=val.val_accuracy,
            data=val.data,
            config_sha256=config_hash(config),
            recipe_sha256=recipe_hash(config),
            weights_sha256=val.weights_sha256,
            val_predictions_sha256=val_predictions_sha256,
            lineage=val.lineage,
            seconds=seconds,
            teachers=val.teachers,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        extra: dict[str, object] = {
            "metrics_sha256": metrics_sha256,
            "train_images": train_images,
            "soup": val.soup,
            "ancestors": val.ancestors,
        }  # a soup has no metrics, a trained run no members
        extra["ended"] = "patience" if epochs < epochs_planned else None
        extra["last_epoch"] = config.last_epoch if epochs == epochs_planned and config.last_epoch < 1 and not val.soup else None
        return summary.updated(**{key: value for key, value in extra.items() if value})


class Session(Facts):
    """One start or resumption of a run, in `env.json`."""

    started: str
    command: str
    epochs_planned: int | None = None  # None: not recorded
    device: str
    device_type: str | None = None
    precision: str
    threads: int
    cpu_count: int | None = None
    platform: str | None = None
    python: str | None = None
    cuda: str | None = None
    packages: dict[str, str] = {}
    cifar_small: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    code_sha256: str | None = None  # of the package's files, where it ran outside a git checkout
    processes: int = 1

    @property
    def hardware(self) -> str:
        """Device, threads and precision in words."""
        return f"{self.device}, {plural(self.threads, 'thread')}, {self.precision}"


class TestReading(Facts):
    """One reading of the test split, a line of `test_readings.jsonl`."""

    __test__ = False  # for pytest

    time: str
    command: str
    views: str
    images: int
    accuracy: float
    images_sha256: str | None = None  # of the images with their labels
    predictions: str  # name of the file
    predictions_sha256: str
    checkpoint: str = "best"
    weights_sha256: str | None = None
    onnx_sha256: str | None = None
    previous_sha256: str | None = None  # of the line before it


def readings_of(
    readings: Sequence[TestReading], weights_sha256: str, onnx_sha256: str | None = None, views: str | None = None
) -> list[TestReading]:
    """The readings of test by these weights in this form, oldest first.

    onnx_sha256: of the ONNX file that computed in place of the weights; None: the weights themselves. views: only with these. A
    reading of before weights were named counts for any.
    """
    return [
        reading
        for reading in readings
        if reading.weights_sha256 in (None, weights_sha256)
        and reading.onnx_sha256 == onnx_sha256
        and views in (None, reading.views)
    ]


class RunRecord(Facts):
    """What a record says of a run."""

    summary: Summary
    sessions: list[Session]
    test_readings: list[TestReading]

    @property
    def extended(self) -> bool:
        """Was the last phase made longer on the way? That bends its schedule."""
        return bool(extension_of(self.sessions))

    @property
    def times_read(self) -> int:
        """How often test was read in this run and, as far as a soup knows, before in those that it was made of."""
        return len(self.test_readings) + (self.summary.readings_before or 0)

    @property
    def own_readings(self) -> list[TestReading]:
        """The readings of test with the weights and views of the summary, but for those of a part of its images."""
        own = readings_of(self.test_readings, self.summary.weights_sha256, views=self.summary.views)
        most = max((reading.images for reading in own), default=0)
        return [reading for reading in own if reading.images == most]


class Record(Facts):
    """`record.json`: a run alone."""

    format: int = FORMAT
    run: RunRecord


class SampleFacts(Facts):
    """The competition's sample submission."""

    file: str
    sha256: str


class SubmissionRecord(Facts):
    """The record beside a submission's CSV."""

    format: int = FORMAT
    submission: str
    sha256: str
    rows: int
    written: str
    command: str = ""
    cifar_small: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    code_sha256: str | None = None  # of the package's files, where it ran outside a git checkout
    class_counts: Annotated[dict[str, int], Field(min_length=1)]
    labels: dict[str, str] = {}  # what the CSV says for each class
    rules: dict[str, Any] | None = None  # given instead of those of the predictions
    order: SampleFacts | None = None  # whose order the rows have, where it is not that of the unlabelled file
    uncounted: list[str] = []  # nets whose parameters were counted by their configs alone, for want of their checkpoints
    predictions: PredictionsMeta
    run: RunRecord | None = None
    estimate: dict[str, Any] | None = None  # of accuracy on this very file, that the choice was made by

    def rules_for(self, name: object, remedy: str) -> Rules:
        """The rules that the CSV was written by: those given, else the predictions'. `name`, `remedy` as in `rules_of`."""
        return rules_of(self.predictions.rules if self.rules is None else self.rules, name, remedy)


def extension_of(sessions: Sequence[Session]) -> str:
    """What was done to a run whose last phase was made longer on the way, in words; empty where it was not."""
    planned = list(dict.fromkeys(session.epochs_planned or 0 for session in sessions))
    return f"extended on the way, planned for {' then '.join(map(str, planned))} epochs" if len(planned) > 1 else ""


def recipe_of(run: RunRecord) -> str:
    """A text that is equal for runs that are seeds of one recipe.

    A run whose last phase was extended is no seed of the plain recipe; nor is one of several processes, whose BatchNorm may
    have seen smaller batches, one on other images or labels, or a soup of other checkpoints.
    """
    planned = sorted({session.epochs_planned or 0 for session in run.sessions})
    processes = sorted({session.processes for session in run.sessions})
    parts = [run.summary.recipe_sha256, *filter(None, [run.summary.data.trained_on])]
    if run.summary.soup:
        parts += [f"soup {sorted((one.checkpoint, one.taken) for one in run.summary.soup)}"]
    parts += [f"extended {planned}"] if run.extended else []
    parts += [f"processes {processes}"] if processes not in ([], [1]) else []
    return " ".join(parts)


T = TypeVar("T", bound=Facts)


def parse(model: type[T], plain: object, where: object, error: type[UserError] = DataError, expected: str = "") -> T:
    """A record of any known format from plain values; raises `error`, a line naming `where`, for anything else.

    expected: ends the line where the values are of no format.
    """
    if not isinstance(plain, dict):
        raise error(f"{where} is not what cifar-small writes (no mapping){expected}")
    try:
        return model.model_validate(upgrade(plain))
    except ValidationError as problems:
        each = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}" for problem in problems.errors()]
        more = f" and {len(each) - 3} more" if len(each) > 3 else ""
        raise error(f"{where} is not what cifar-small writes ({'; '.join(each[:3])}{more}){expected}") from None
    except ValueError as problem:
        raise error(f"{where} {problem}") from None


def load_record(path: Path) -> Record | SubmissionRecord | None:
    """The record in a file; None for evaluations, comparisons and benchmarks, which lie beside records. Raises DataError."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path} is not a record ({error})") from None
    if isinstance(plain, dict) and not plain.keys() & {"run", "submission"}:
        return None
    kind: type[Record] | type[SubmissionRecord] = SubmissionRecord if isinstance(plain, dict) and "sha256" in plain else Record
    return parse(kind, plain, path)


def parse_all(model: type[T], plains: object, where: object) -> list[T]:
    """A list of records in a run directory. Raises CheckpointError."""
    if not isinstance(plains, list):
        raise CheckpointError(f"{where} is not what cifar-small writes (no list)")
    return [parse(model, plain, where, CheckpointError) for plain in plains]


def plain_all(records: Sequence[Facts]) -> list[dict[str, Any]]:
    """Plain JSON values of each."""
    return [record.plain() for record in records]

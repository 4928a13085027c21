"""What a predictions file of a labelled split says: accuracy, classes, confusions, calibration, the most confident mistakes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from cifar_small.data.splits import halves
from cifar_small.errors import DataError
from cifar_small.evaluation.entries import val_chose
from cifar_small.inference.ensemble import short_name
from cifar_small.metrics.calibration import Calibration, Reliability, calibration, fit_temperature
from cifar_small.metrics.classification import (
    confusion_matrix,
    log_softmax,
    precision_recall_f1,
    top_k_accuracy,
    wilson_interval,
)
from cifar_small.runs.predictions import Predictions

CONFUSED = 20  # pairs of classes that are listed
MISTAKES = 24  # images that are shown
MANY = 20  # classes from which on top-5 accuracy is stated; of ten, hardly an image fails


@dataclass(frozen=True)
class ClassScore:
    """One class: how many images it has, how many were called so, and shares; None where a share is 0 of 0."""

    name: str
    images: int
    predicted: int
    right: int
    precision: float | None
    recall: float | None
    recall_interval: tuple[float, float] | None  # Wilson, 95 %
    f1: float | None


@dataclass(frozen=True)
class Confused:
    """How often one class was called another; share: of the true class's images."""

    true: str
    predicted: str
    images: int
    share: float


@dataclass(frozen=True)
class Mistake:
    """An image called a class that it is not, and the probability given to that."""

    id: int
    true: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Scaling:
    """A temperature fitted on val, and the calibration it gives.

    Where the evaluated images are those of the fit, `after` is cross-fitted: each half of them is scored with the temperature
    of the other, and `of_halves` has the two.
    """

    temperature: float  # fitted on all of val: the one to use
    file: str
    images: int
    of_halves: tuple[float, float] | None
    after: Calibration

    @property
    def crossed(self) -> str:
        """How the images of the fit were scored, in words; empty where others were."""
        if self.of_halves is None:
            return ""
        halves = " and ".join(f"{temperature:.3f}" for temperature in self.of_halves)
        return f"these are the same images, so each half is scored with the temperature of the other: {halves}"


@dataclass(frozen=True)
class Evaluation:
    """All that is said of one predictions file; counts: the confusion matrix (K, K), row = true class."""

    predictions: dict[str, object]  # which they are
    short_name: str  # for titles
    images: int
    right: int
    accuracy: float
    interval: tuple[float, float]  # Wilson, 95 %
    macro_f1: float | None  # mean over the classes that have an F1
    top5: float | None  # share of images whose class is among the five most probable; None for fewer than MANY classes
    counts: npt.NDArray[np.int64]
    classes: tuple[ClassScore, ...]
    confused: tuple[Confused, ...]  # most images first
    before: Calibration
    scaling: Scaling | None
    mistakes: tuple[Mistake, ...]  # most confident first
    val_chose: str  # what was chosen on these very images, so that their accuracy flatters; empty: nothing


def evaluate(predictions: Predictions, val: Predictions | None = None) -> Evaluation:
    """Score predictions of a labelled split; val: the same net's predictions of val, to fit a temperature on.

    Raises DataError without labels, and where `val` is of another split than val or of another net or views.
    """
    labels, meta = predictions.labels, predictions.meta
    if labels is None or not len(labels):
        raise DataError(
            f"{meta.file or 'the predictions'} ({meta.split}) has no labels to compare with; "
            "expected predictions of val or test"
        )
    counts = confusion_matrix(labels, predictions.predicted, len(predictions.classes))
    right, total = int(counts.trace()), int(counts.sum())
    classes = _class_scores(predictions, counts)
    f1s = [score.f1 for score in classes if score.f1 is not None]
    which = ("name", "seed", "run", "split", "views", "parameters", "source", "file", "sha256", "weights_sha256", "selection")
    chosen = ((net.checkpoint, (net.config or {}).get("selection", meta.selection)) for net in meta.nets())
    epoch = meta.split == "val" and ("best", "best") in chosen
    return Evaluation(
        predictions={**meta.picked(*which), "form": " ".join(meta.form)},  # int8 has the hash of the weights it was made from
        short_name=short_name(meta),
        images=total,
        right=right,
        accuracy=right / total,
        interval=wilson_interval(right, total),
        macro_f1=sum(f1s) / len(f1s) if f1s else None,
        top5=top_k_accuracy(predictions.logits, labels, 5) if len(classes) >= MANY else None,
        counts=counts,
        classes=classes,
        confused=_most_confused(counts, predictions.classes),
        before=calibration(predictions.logits, labels),
        scaling=None if val is None or len(val.ids) < 2 else _scale(predictions, val),  # one image fits none
        mistakes=_most_confident_mistakes(predictions),
        val_chose=val_chose(predictions) or ("its epoch" if epoch else ""),
    )


def _class_scores(predictions: Predictions, counts: npt.NDArray[np.int64]) -> tuple[ClassScore, ...]:
    names = predictions.classes
    assert predictions.labels is not None
    shares = zip(*precision_recall_f1(predictions.labels, predictions.predicted, len(names)), strict=True)
    scores = []
    for label, (name, values) in enumerate(zip(names, shares, strict=True)):
        precision, recall, f1 = (None if math.isnan(value) else float(value) for value in values)
        images, right = int(counts[label].sum()), int(counts[label, label])
        interval = wilson_interval(right, images) if images else None
        scores.append(ClassScore(name, images, int(counts[:, label].sum()), right, precision, recall, interval, f1))
    return tuple(scores)


def _most_confused(counts: npt.NDArray[np.int64], names: tuple[str, ...]) -> tuple[Confused, ...]:
    wrong = counts * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]
    pairs = [divmod(int(place), len(names)) for place in order]
    return tuple(
        Confused(names[true], names[said], int(wrong[true, said]), float(wrong[true, said] / counts[true].sum()))
        for true, said in pairs
        if wrong[true, said]
    )


def _most_confident_mistakes(predictions: Predictions) -> tuple[Mistake, ...]:
    labels, predicted, names = predictions.labels, predictions.predicted, predictions.classes
    assert labels is not None
    confidences = np.exp(log_softmax(predictions.logits).max(axis=1))
    wrong = np.flatnonzero(predicted != labels)
    rows = wrong[np.argsort(-confidences[wrong], kind="stable")][:MISTAKES]
    return tuple(
        Mistake(int(predictions.ids[row]), names[labels[row]], names[predicted[row]], float(confidences[row])) for row in rows
    )


def _scale(predictions: Predictions, val: Predictions) -> Scaling:
    file, split = val.meta.file or "the predictions", val.meta.split
    if split != "val" or val.labels is None:
        raise DataError(
            f"{file} is of the split {split}; a temperature is fitted on val and on nothing else: "
            "give the same run's predictions of val"
        )
    nets = [(one.meta.identity, one.classes) for one in (val, predictions)]
    if nets[0] != nets[1]:
        raise DataError(
            f"{file} and {predictions.meta.file or 'the predictions'} are of different nets or views; a temperature holds "
            "for one net with one choice of views: predict val in the same way"
        )
    assert predictions.labels is not None
    temperature = fit_temperature(val.logits, val.labels)
    logits, of_halves = predictions.logits / temperature, None
    if val.meta.images_sha256 == predictions.meta.images_sha256:
        first, second = halves(predictions.labels)
        by_first, by_second = (fit_temperature(predictions.logits[half], predictions.labels[half]) for half in (first, second))
        logits[first] = predictions.logits[first] / by_second
        logits[second] = predictions.logits[second] / by_first
        of_halves = (by_first, by_second)
    return Scaling(temperature, str(file), len(val.ids), of_halves, calibration(logits, predictions.labels))


def plain_evaluation(evaluation: Evaluation) -> dict[str, object]:
    """An evaluation as plain JSON values, without the counts of the confusion matrix, which are a table of their own."""
    plain = asdict(evaluation)
    del plain["counts"], plain["short_name"]
    plain["before"] = _plain_calibration(evaluation.before)
    if evaluation.scaling:
        plain["scaling"]["after"] = _plain_calibration(evaluation.scaling.after)
    return plain


def _plain_calibration(calibration: Calibration) -> dict[str, object]:
    found: Reliability = calibration.reliability
    bins = [
        {"images": int(count), "confidence": float(confidence), "accuracy": float(accuracy)} if count else {"images": 0}
        for count, confidence, accuracy in zip(found.counts, found.confidences, found.accuracies, strict=True)
    ]
    return {
        "nll": calibration.nll,
        "brier": calibration.brier,
        "ece": found.ece,
        "ece_by_chance": found.ece_by_chance,
        "bins": bins,
    }

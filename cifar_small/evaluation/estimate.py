"""What runs will score on a file without labels: all estimators, the calibrated one with its interval, and when to trust none.

Nothing is trained on the file and its labels are never used, not even where its predictions carry some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cifar_small.errors import DataError, UserError
from cifar_small.evaluation.entries import val_chose
from cifar_small.metrics.classification import wilson_interval
from cifar_small.metrics.estimators import ESTIMATORS, Scores, Validation, agreement_line, class_shares
from cifar_small.runs.predictions import Predictions
from cifar_small.wording import differing_classes, plural

FAR = 0.20  # an estimated drop beyond which the calibration has not been asked to hold
LABEL_SHIFT = 0.10  # distance of class shares from val's (half the sum of differences) that is reported
LOOSE_LINE = 0.9  # R squared of agreements below which there is no line
RELATIVE = 0.1  # how fast the error of an estimate grows with the drop that it estimates


@dataclass(frozen=True)
class DropCalibration:
    """What labelled shifts say of an estimator: its estimates of a drop times `slope`, within `width` times `scale`.

    images, val_images: of each set that the width comes from, and of val there (older files do not say; it was 5,000). base:
    what the sets were made from, such as val or test; empty where an older file does not say. held: the share of truths within
    the interval on families of shifts that it was not fitted on, where the estimated drop was at most `FAR`; largest: the
    largest drop that it estimated of what it was fitted on. Older files say neither.
    """

    method: str
    slope: float
    width: float
    images: int
    study: str
    val_images: int = 5000
    base: str = ""
    held: float | None = None
    largest: float | None = None

    def apply(self, raw: float, val_accuracy: float, images: int, val_images: int) -> tuple[float, float, float]:
        """The estimate with its interval from an estimator's own; all shares. Fewer images, of file or val, widen it."""
        drop = self.slope * (val_accuracy - raw)
        accuracy = min(max(val_accuracy - drop, 0.0), 1.0)
        below = above = self.width * scale(drop)
        for share, number, there in ((accuracy, images, self.images), (val_accuracy, val_images, self.val_images)):
            # By Wilson's interval, which is not too narrow where a few images are wrong; less what the study had itself. Of the
            # very images of val it had none: their chance is in no error that the width comes from.
            left = 1.0 if "val" in self.base else math.sqrt(max(1 - number / there, 0))
            low, high = wilson_interval(round(share * number), number)
            below, above = math.hypot(below, left * (share - low)), math.hypot(above, left * (high - share))
        return accuracy, max(0.0, accuracy - below), min(1.0, accuracy + above)


def scale(drop: float) -> float:
    """How wrong an estimated drop may be beside others: a point, and a tenth of the drop."""
    return 0.01 + RELATIVE * abs(drop)


DEFAULT = DropCalibration("doc", 1.48, 1.8, 2000, "submissions/studies/estimate", base="test", held=0.975)
STUDIED = "cifar10"  # whose shifted images the default comes from


@dataclass(frozen=True)
class RunEstimate:
    """What one run, or an ensemble, is expected to score. Shares; raw: by each estimator that could be asked."""

    name: str
    val: Predictions
    file: Predictions
    raw: Mapping[str, float]
    accuracy: float
    low: float
    high: float

    @property
    def disagreement(self) -> float:
        """From the lowest to the highest of the estimators."""
        return max(self.raw.values()) - min(self.raw.values())


@dataclass(frozen=True)
class Estimation:
    """The estimates of all runs on one file; notes: estimators that could not be asked; warnings: reasons for doubt."""

    runs: tuple[RunEstimate, ...]
    calibration: DropCalibration
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def estimate(
    files: Sequence[Predictions],
    vals: Sequence[Predictions],
    calibration: DropCalibration = DEFAULT,
    suspicions: Sequence[str] = (),
) -> Estimation:
    """Estimate the accuracy of each run whose predictions of one file are given, by its predictions of val.

    files, vals: matched by what made them. suspicions: what a look at the images found, for the warnings. Raises DataError for
    predictions that do not belong together, UserError where the calibrated estimator cannot be asked.
    """
    pairs = [(file, _val_of(file, vals)) for file in same_images(files)]
    validations = [as_validation(val) for _, val in pairs]
    scores = [validation.score(file.logits) for validation, (file, _) in zip(validations, pairs, strict=True)]
    raws, notes = all_estimates(validations, scores, comparable=of_same_images([val for _, val in pairs]))
    runs = []
    for (file, val), raw, validation in zip(pairs, raws, validations, strict=True):
        if calibration.method not in raw:
            raise UserError(f"{calibration.method}, which was calibrated, gives no estimate here: {'; '.join(notes)}")
        found = calibration.apply(raw[calibration.method], validation.accuracy, len(file.ids), len(val.ids))
        runs.append(RunEstimate(file.meta.label(), val, file, raw, *found))
    names = [run.name for run in runs]
    runs = [replace(run, name=f"{run.name} {run.file.meta.views}") if names.count(run.name) > 1 else run for run in runs]
    return Estimation(
        tuple(runs), calibration, tuple(notes), tuple(_warnings(runs, validations, scores, calibration, suspicions))
    )


def same_images(files: Sequence[Predictions]) -> list[Predictions]:
    """The predictions in the order of the first one's ids, without labels. Raises DataError where they are of other images."""
    first = files[0]
    found: list[Predictions] = []
    for file in files:
        if file.classes != first.classes:
            raise DataError(_other_classes(file, first))
        ordered = file.reordered(first.ids)
        if file.meta.images_sha256 != first.meta.images_sha256 or ordered is None:
            raise DataError(f"{file.meta.file} and {first.meta.file} are predictions of different images; expected one file's")
        if file.meta.maker in [one.meta.maker for one in found]:
            raise UserError(f"{file.meta.file}: the same weights with the same views stand twice; name each once")
        found.append(replace(ordered, labels=None))
    return found


def _val_of(file: Predictions, vals: Sequence[Predictions]) -> Predictions:
    found = [val for val in vals if val.meta.maker == file.meta.maker]
    if not found:
        raise DataError(
            f"{file.meta.file} was made by {file.meta.label()}, views {file.meta.views}; none of the "
            f"{plural(len(vals), 'val file')} was; predict val with the same weights and views"
        )
    val = found[0]
    _labels_of(val)
    if val.classes != file.classes:
        raise DataError(_other_classes(val, file))
    return val


def _other_classes(one: Predictions, other: Predictions) -> str:
    return f"{one.meta.file} and {other.meta.file} have {differing_classes(one.classes, other.classes)}; expected the same"


def as_validation(val: Predictions) -> Validation:
    """The labelled logits for the estimators. Raises DataError where they are not of val, or val lacks a class."""
    labels = _labels_of(val)
    missing = [name for place, name in enumerate(val.classes) if not (labels == place).any()]
    if missing:
        raise DataError(f"{val.meta.file} has no image of {', '.join(missing[:5])}; expected some of every class")
    return Validation(val.logits, labels)


def _labels_of(val: Predictions) -> npt.NDArray[np.int64]:
    if val.labels is None or val.meta.split != "val":
        without = " and has no labels" if val.labels is None else ""
        raise DataError(f"{val.meta.file} is of split {val.meta.split}{without}; expected val, with labels")
    return val.labels


def of_same_images(some: Sequence[Predictions]) -> bool:
    """Are all predictions of the same images in the same order?"""
    first = some[0]
    return all(one.meta.images_sha256 == first.meta.images_sha256 and np.array_equal(one.ids, first.ids) for one in some)


def all_estimates(
    vals: Sequence[Validation], files: Sequence[Scores], *, comparable: bool = True
) -> tuple[list[dict[str, float]], list[str]]:
    """Each estimator's accuracy for each run, and why some give none; comparable: the runs have the same val images."""
    raws: list[dict[str, float]] = [{} for _ in vals]
    notes = []
    for name, estimator in ESTIMATORS.items():
        if len(vals) < estimator.runs:
            notes.append(
                f"{name} needs at least {estimator.runs} runs, and here {'is' if len(vals) == 1 else 'are'} {len(vals)}"
            )
            continue
        if estimator.runs > 1 and not comparable:
            notes.append(f"{name} needs the same val images of all runs, and these differ")
            continue
        values = estimator.estimate(vals, files)
        for raw, value in zip(raws, values.tolist(), strict=True):
            if math.isfinite(value):
                raw[name] = value
        if not np.isfinite(values).all():
            notes.append(f"{name} is not determined: on val a class is never predicted, or the confusions have no inverse")
    return raws, notes


def _warnings(
    runs: Sequence[RunEstimate],
    vals: Sequence[Validation],
    files: Sequence[Scores],
    calibration: DropCalibration,
    suspicions: Sequence[str],
) -> list[str]:
    found = list(suspicions)
    others = {net.data.source for run in runs for net in run.val.meta.nets() if net.data} - {STUDIED}
    if calibration is DEFAULT and others:
        found.append(
            f"the interval comes from shifted images of {STUDIED}; these nets were trained on other data (data.source "
            f"{', '.join(sorted(others))}): make a calibration of your own with shift and calibrate"
        )
    for run in runs:
        drop = run.val.accuracy - run.accuracy
        if drop > FAR:
            found.append(
                f"{run.name}: an estimated drop of {100 * drop:.0f} points is beyond {100 * FAR:.0f}; trust no estimate"
            )
        elif calibration.largest is not None and drop > calibration.largest:
            found.append(
                f"{run.name}: an estimated drop of {100 * drop:.1f} points is beyond the {100 * calibration.largest:.1f} that "
                "the calibration has seen: calibrate on stronger shifts"
            )
        if run.disagreement > run.high - run.low:
            found.append(
                f"{run.name}: the estimators lie {100 * run.disagreement:.1f} points apart, more than the interval of "
                f"{100 * (run.high - run.low):.1f}: some assumption fails"
            )
        if reason := val_chose(run.val):
            found.append(f"{run.name}: val chose {reason}, so its accuracy is optimistic, and so are the estimates")
    found += _shifted_classes(runs, vals, files)
    if len(vals) >= 3 and of_same_images([run.val for run in runs]):
        line = agreement_line(vals, files)
        if math.isnan(line.fit):
            found.append("all runs agree equally often on the file, so whether agreements lie on a line cannot be told")
        elif line.fit <= LOOSE_LINE:
            found.append(f"agreements do not lie on a line (R squared {line.fit:.2f}): leave agreement out")
    return found


def _shifted_classes(runs: Sequence[RunEstimate], vals: Sequence[Validation], files: Sequence[Scores]) -> list[str]:
    """How far class shares seem to be from val's, by the run that sees most of it."""
    furthest, line = LABEL_SHIFT, ""
    for run, val, file in zip(runs, vals, files, strict=True):
        if (shares := class_shares(val, file)) is None:
            continue
        more_than_usual = shares - np.bincount(val.labels, minlength=len(shares)) / len(val.labels)
        distance = float(np.abs(more_than_usual).sum() / 2)
        if distance > furthest:
            more, fewer = (run.file.classes[place] for place in (more_than_usual.argmax(), more_than_usual.argmin()))
            by = f" by {run.name}" * (len(runs) > 1)
            furthest = distance
            line = (
                f"class shares seem{by} to differ from val's by {100 * distance:.0f} % (more {more}, fewer {fewer}): label "
                "shift, or images so changed that classes merge; all but bbse assume neither"
            )
    return [line] if line else []

"""How wrong are the estimators? Estimated against true accuracy on labelled shifts, each left out of what is fitted.

For every estimator a slope (its estimates of drops times this) and a width (of the interval) are fitted on all families of
shifts but one and judged on that one, in turn. What is chosen is chosen by that table. Kinds that are called untouched have no
part in it and are judged once, at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cifar_small.errors import DataError, UserError
from cifar_small.evaluation.estimate import FAR, DropCalibration, all_estimates, as_validation, of_same_images, scale
from cifar_small.evaluation.shift import CLEAN, load_matrix
from cifar_small.metrics.estimators import ESTIMATORS, Validation
from cifar_small.runs.predictions import Predictions
from cifar_small.runs.records import ShiftFacts

COVERAGE = 0.95  # share of the sets that an interval is made to hold
MEAN = "mean"  # of the estimates of all estimators, which each may be wrong in its own way; judged beside them, never chosen


@dataclass(frozen=True)
class Trial:
    """One run on one shift: the truth, and what each estimator says of it, as shares."""

    run: str
    shift: ShiftFacts
    images: int
    val_images: int
    val: float
    truth: float
    raw: Mapping[str, float]

    @property
    def drop(self) -> float:
        """True accuracy below that on val."""
        return self.val - self.truth


@dataclass(frozen=True)
class Judged:
    """An estimator on shifts that it was not fitted on, where the true drop is below `FAR`; errors in shares.

    plain: mean absolute error as published; scaled: after its slope; covered: share of truths within the interval; width: its
    mean half. told, told_scaled, told_covered: trials, error and share where, instead, the estimated drop is at most `FAR`, as
    one can tell without labels; some of them are far off.
    """

    method: str
    trials: int
    plain: float
    scaled: float
    bias: float  # mean of estimate less truth, scaled
    covered: float
    width: float
    told: int
    told_scaled: float | None  # of none: None
    told_covered: float | None


@dataclass(frozen=True)
class Study:
    """Every trial, the estimators judged family by family, and the calibration of the best with its figures elsewhere."""

    trials: tuple[Trial, ...]
    judged: tuple[Judged, ...]  # best first
    chosen: DropCalibration
    untouched: tuple[Judged, ...]  # the same estimators on untouched kinds, fitted on all others; none where all are far
    untouched_kinds: tuple[str, ...]


def calibrate(folder: Path, vals: Sequence[Predictions], untouched: Collection[str] = ()) -> Study:
    """Judge the estimators on the predictions that `predict_shifts` wrote to a folder, with those of val of the same runs.

    untouched: kinds or families that nothing is fitted to or chosen by. Raises DataError or UserError.
    """
    trials = list(collect_trials(load_matrix(folder), vals))
    names = {trial.shift.kind for trial in trials} | {trial.shift.family for trial in trials}
    if unknown := sorted(set(untouched) - names):
        raise UserError(f"no predictions of the shift {unknown[0]!r} are in {folder}; expected of {', '.join(sorted(names))}")
    apart = [trial for trial in trials if {trial.shift.kind, trial.shift.family} & set(untouched)]
    used = [trial for trial in trials if trial not in apart]
    families = sorted({trial.shift.family for trial in used if trial.drop < FAR} - {CLEAN})
    if len(families) < 2:
        near = f"on which the accuracy is less than {100 * FAR:.0f} points below that on val"
        raise UserError(f"shifts of {len(families)} families {near}; expected at least 2, to leave each out once")
    every = sorted({trial.shift.family for trial in used} - {CLEAN})  # also those that are far off throughout
    methods = [name for name in (*ESTIMATORS, MEAN) if all(name in trial.raw for trial in trials)]
    judged = sorted((judge(method, used, every) for method in methods), key=lambda one: one.scaled)
    best = next(one for one in judged if one.method in ESTIMATORS)
    chosen = replace(fit(best.method, used), held=None if best.told_covered is None else round(best.told_covered, 3))
    some_near = any(trial.drop < FAR for trial in apart)
    later = [judge_with(one.method, [(fit(one.method, used), trial) for trial in apart]) for one in judged if some_near]
    return Study(tuple(trials), tuple(judged), chosen, tuple(later), tuple(sorted({trial.shift.kind for trial in apart})))


def collect_trials(matrix: Iterable[tuple[str, Predictions]], vals: Sequence[Predictions]) -> Iterable[Trial]:
    """One for each run and set. Raises DataError for predictions without those of val.

    Estimators that compare runs are asked where all runs of a set have the same images, of it and of val.
    """
    of_val = {val.meta.maker: val for val in vals}
    validations: dict[str, Validation] = {val.meta.maker: as_validation(val) for val in vals}
    sets: dict[str, list[tuple[str, Predictions]]] = {}
    for run, predictions in matrix:
        assert predictions.meta.shift is not None
        if predictions.meta.maker not in validations:
            raise DataError(
                f"{run} has no predictions of val with the same weights and views ({predictions.meta.views}) among those given"
            )
        sets.setdefault(predictions.meta.shift.name, []).append((run, predictions))
    for members in sets.values():
        own = [validations[predictions.meta.maker] for _, predictions in members]
        scores = [val.score(predictions.logits) for val, (_, predictions) in zip(own, members, strict=True)]
        parts = [of_val[predictions.meta.maker] for _, predictions in members], [predictions for _, predictions in members]
        raws, _ = all_estimates(own, scores, comparable=all(map(of_same_images, parts)))
        for (run, predictions), val, raw in zip(members, own, raws, strict=True):
            assert predictions.meta.shift is not None
            mean = {MEAN: float(np.mean(list(raw.values())))}
            counts = len(predictions.ids), len(val.labels)
            yield Trial(run, predictions.meta.shift, *counts, val.accuracy, predictions.accuracy, raw | mean)


def fit(method: str, trials: Sequence[Trial]) -> DropCalibration:
    """Slope and width of an estimator on the trials whose true drop is below `FAR`.

    The slope makes the mean absolute error least. The width holds `COVERAGE` of the errors, relative to `scale`, in each
    family, since a file may be of the one that is the hardest to judge; of a set its largest error over runs, which err alike.
    The rank has the small excess of split conformal prediction (Lei et al. 2018, arXiv 1604.04173), which below 19 sets is the
    largest error and promises less.
    """
    near = [trial for trial in trials if trial.drop < FAR]
    slopes = np.arange(0.5, 3.0001, 0.01)
    drops = np.array([trial.val - trial.raw[method] for trial in near])
    truths = np.array([trial.drop for trial in near])
    estimated = slopes[:, None] * drops
    slope = float(slopes[np.abs(estimated - truths).mean(1).argmin()])
    relative: dict[str, dict[str, float]] = {}
    for trial, drop, truth in zip(near, drops, truths, strict=True):
        sets, error = relative.setdefault(trial.shift.family, {}), abs(slope * drop - truth) / scale(slope * drop)
        sets[trial.shift.name] = max(error, sets.get(trial.shift.name, 0.0))
    ranks = {family: min(int(np.ceil(COVERAGE * (len(sets) + 1))), len(sets)) for family, sets in relative.items()}
    width = max(sorted(sets.values())[ranks[family] - 1] for family, sets in relative.items())
    base = ", ".join(sorted({trial.shift.base for trial in near}))
    images, val_images = (min(getattr(trial, name) for trial in near) for name in ("images", "val_images"))
    largest = round(float((slope * drops).max()), 4)
    return DropCalibration(method, round(slope, 2), round(float(width), 3), images, "", val_images, base, largest=largest)


def judge(method: str, trials: Sequence[Trial], families: Sequence[str]) -> Judged:
    """An estimator on each family in turn, fitted on the others and on clean images."""
    tried = []
    for family in families:
        fitted = fit(method, [trial for trial in trials if trial.shift.family != family])
        tried += [(fitted, trial) for trial in trials if trial.shift.family == family]
    return judge_with(method, tried)


def judge_with(method: str, tried: Sequence[tuple[DropCalibration, Trial]]) -> Judged:
    """The figures of an estimator over trials, each with the calibration that has not seen it."""
    truths = np.array([trial.truth for _, trial in tried])
    plain = np.array([trial.raw[method] for _, trial in tried])
    found = np.array([one.apply(trial.raw[method], trial.val, trial.images, trial.val_images) for one, trial in tried])
    errors, covered = found[:, 0] - truths, (found[:, 1] <= truths) & (truths <= found[:, 2])
    near = np.array([trial.drop < FAR for _, trial in tried])
    told = np.array([trial.val for _, trial in tried]) - found[:, 0] <= FAR
    return Judged(
        method,
        int(near.sum()),
        float(np.abs(plain - truths)[near].mean()),
        float(np.abs(errors[near]).mean()),
        float(errors[near].mean()),
        float(covered[near].mean()),
        float((found[:, 2] - found[:, 1])[near].mean() / 2),
        int(told.sum()),
        float(np.abs(errors[told]).mean()) if told.any() else None,
        float(covered[told].mean()) if told.any() else None,
    )

"""How many of unlabelled images are classified rightly? Published estimators behind one interface, on logits alone.

Each takes the labelled validation logits of R runs and their logits of the same unlabelled images, and gives an accuracy for
each run. All but agreement look at one run at a time. None sees a label of the file. Probabilities are those after temperature
scaling on validation (Guo et al. 2017), without which confidence says little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_small.metrics.calibration import fit_temperature
from cifar_small.metrics.classification import confusion_matrix, log_softmax

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Validation:
    """The labelled logits (N, K) of one run, with labels (N,), and what the estimators take from them."""

    logits: npt.NDArray[Any]
    labels: Ints

    @cached_property
    def temperature(self) -> float:
        """Fitted on these images."""
        return fit_temperature(self.logits, self.labels)

    @cached_property
    def scores(self) -> Scores:
        """Of these images."""
        return self.score(self.logits)

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Which predictions are right, (N,)."""
        return np.asarray(self.logits.argmax(1) == self.labels)

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return float(self.correct.mean())

    def score(self, logits: npt.NDArray[Any]) -> Scores:
        """What the estimators need of any images (M, K), at the temperature of these."""
        logs = log_softmax(logits / self.temperature)
        probabilities = np.exp(logs)
        return Scores(logits.argmax(1), probabilities.max(1), (probabilities * logs).sum(1))


class Scores(NamedTuple):
    """Of M images: the class, its probability, and the negative entropy of all probabilities in nats, (M,) each."""

    predicted: Ints
    confidence: Floats
    certainty: Floats


def average_confidence(val: Validation, file: Scores) -> float:
    """The mean confidence. Source: Guo et al. (2017); Hendrycks & Gimpel (2017), arXiv 1610.02136."""
    return float(file.confidence.mean())


def thresholded_confidence(val: Validation, file: Scores) -> float:
    """ATC: the share of images above the certainty that as many validation images exceed as are right there.

    Images that tie with the threshold count by the share of such validation images that it takes to meet that number.
    Source: Garg et al. (2022), arXiv 2201.04234, with negative entropy.
    """
    certainty, right = val.scores.certainty, int(val.correct.sum())
    if right == 0:
        return 0.0
    threshold = np.sort(certainty)[len(certainty) - right]
    ties = int((certainty == threshold).sum())
    share = (right - int((certainty > threshold).sum())) / ties
    return float((file.certainty > threshold).mean() + share * (file.certainty == threshold).mean())


def confidence_difference(val: Validation, file: Scores) -> float:
    """DoC: validation accuracy less the drop in mean confidence. Source: Guillory et al. (2021), arXiv 2107.03315."""
    return float(np.clip(val.accuracy - (val.scores.confidence.mean() - file.confidence.mean()), 0, 1))


def corrected_counts(val: Validation, file: Scores) -> float:
    """BBSE: validation recalls, weighted by `class_shares`; NaN where these are not determined. Source: there."""
    count = val.logits.shape[1]
    shares = class_shares(val, file)
    if shares is None:
        return float("nan")
    matrix = confusion_matrix(val.labels, val.scores.predicted, count)
    return float(shares @ (np.diag(matrix) / matrix.sum(1)))


def class_shares(val: Validation, file: Scores) -> Floats | None:
    """BBSE: the class shares (K,) of a file, from the predicted ones by the confusions of validation; cut off below 0.

    None where the confusions have no inverse: a class that validation lacks, or that is never predicted. Source: Lipton, Wang &
    Smola (2018), arXiv 1802.03916.
    """
    count = val.logits.shape[1]
    joint = confusion_matrix(val.labels, val.scores.predicted, count).T / len(val.labels)  # predicted, true
    if np.linalg.matrix_rank(joint) < count:
        return None
    predicted = np.bincount(file.predicted, minlength=count) / len(file.predicted)
    weights = np.maximum(np.linalg.solve(joint, predicted), 0)
    shares = weights * joint.sum(0)
    return np.asarray(shares / shares.sum(), np.float64)


class AgreementLine(NamedTuple):
    """How runs agree with each other on the file, over how on validation, in probits; fit: R squared, NaN unknown."""

    slope: float
    bias: float
    fit: float
    estimates: Floats


def agreement_line(vals: Sequence[Validation], files: Sequence[Scores]) -> AgreementLine:
    """Agreement-on-the-line (ALine-D): accuracies of R >= 3 runs from the agreement of each pair on both sets.

    Where accuracy on the file is linear in that on validation (in probits), agreement lies on the same line; it needs no label.
    Each pair gives an equation for the mean of its accuracies on the file; they are solved in the least-squares sense.
    Source: Baek et al. (2022), arXiv 2206.13089.
    """
    if len(vals) < 3:
        raise ValueError(f"agreement of {len(vals)} runs; expected at least 3")
    pairs = list(combinations(range(len(vals)), 2))
    seen = np.array([_probit(vals[i].scores.predicted == vals[j].scores.predicted) for i, j in pairs])
    found = np.array([_probit(files[i].predicted == files[j].predicted) for i, j in pairs])
    accuracies = np.array([_probit(val.correct) for val in vals])
    spread = float(((seen - seen.mean()) ** 2).sum())
    slope = float(((seen - seen.mean()) * (found - found.mean())).sum() / spread) if spread > 1e-12 else 1.0
    bias = float(found.mean() - slope * seen.mean())
    left = float(((found - bias - slope * seen) ** 2).sum())
    total = float(((found - found.mean()) ** 2).sum())
    matrix = np.zeros((len(pairs), len(vals)))
    for row, (i, j) in enumerate(pairs):
        matrix[row, [i, j]] = 0.5
    known = found + slope * (matrix @ accuracies - seen)
    solved = np.linalg.lstsq(matrix, known, rcond=None)[0]
    return AgreementLine(slope, bias, 1 - left / total if total > 1e-12 else float("nan"), _normal_cdf(solved))


def _probit(outcomes: npt.NDArray[np.bool_]) -> float:
    """The normal quantile of a share, which half an image keeps away from 0 and 1."""
    from scipy.special import ndtri

    count = len(outcomes)
    return float(ndtri(np.clip(outcomes.mean(), 0.5 / count, 1 - 0.5 / count)))


def _normal_cdf(values: Floats) -> Floats:
    from scipy.special import ndtr

    return np.asarray(ndtr(values), np.float64)


def _each(
    one: Callable[[Validation, Scores], float],
) -> Callable[[Sequence[Validation], Sequence[Scores]], Floats]:
    return lambda vals, files: np.array([one(val, file) for val, file in zip(vals, files, strict=True)])


@dataclass(frozen=True)
class Estimator:
    """One way to estimate. estimate: R validations and R scores of the file -> accuracies (R,), NaN where there is none."""

    title: str
    assumes: str
    runs: int  # how many it takes at least
    estimate: Callable[[Sequence[Validation], Sequence[Scores]], Floats]


ESTIMATORS: Mapping[str, Estimator] = {
    "confidence": Estimator(
        "average confidence", "confidence means on the file what it means on val", 1, _each(average_confidence)
    ),
    "atc": Estimator(
        "average thresholded confidence",
        "images above one threshold of entropy are right as often on the file as on val",
        1,
        _each(thresholded_confidence),
    ),
    "doc": Estimator(
        "difference of confidences", "accuracy falls by as much as mean confidence", 1, _each(confidence_difference)
    ),
    "agreement": Estimator(
        "agreement on the line",
        "accuracies on the file lie on a line over those on val, in probits, and agreements on the same line",
        3,
        lambda vals, files: agreement_line(vals, files).estimates,
    ),
    "bbse": Estimator(
        "confusion-corrected class counts",
        "within a class the file's images are like val's; only class shares differ",
        1,
        _each(corrected_counts),
    ),
}

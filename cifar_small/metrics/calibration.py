"""Do probabilities mean what they say? Reliability and its error, and temperature scaling.

Confidence is the probability of the predicted class. The expected calibration error (ECE) is that of Guo et al. (2017),
arXiv 1706.04599: the mean over images of |accuracy - mean confidence| of the image's bin, bins of equal width. Chance alone
lifts it above 0 even where every confidence is true, the more so the fewer images; so it stands beside what chance gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.metrics.classification import brier_score, cross_entropy, log_softmax

BINS = 15
LIMITS = (0.01, 100.0)  # of a temperature; it ends there only where all labels are right, or none better than chance
DRAWS = 200

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in B bins of equal width, each open below and closed above.

    counts, confidences, accuracies: (B,), the latter two NaN where a bin is empty; ece: in [0, 1]; ece_by_chance: what a net
    whose confidences are all true would show on these images, the mean of drawn outcomes.
    """

    counts: Ints
    confidences: Floats
    accuracies: Floats
    ece: float
    ece_by_chance: float


def reliability(confidences: Floats, correct: npt.NDArray[np.bool_]) -> Reliability:
    """Bin N images by confidence (N,) in [0, 1]; correct: which predictions are right, (N,)."""
    place = np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), confidences, side="left") - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)

    def ece(outcomes: npt.NDArray[np.bool_]) -> float:
        gaps = np.bincount(place, weights=outcomes - confidences, minlength=BINS)
        return float(np.abs(gaps).sum() / len(confidences))

    rng = np.random.default_rng(0)
    by_chance = np.mean([ece(rng.random(len(confidences)) < confidences) for _ in range(DRAWS)])
    with np.errstate(invalid="ignore"):  # an empty bin has no mean
        means = [np.bincount(place, weights=values, minlength=BINS) / counts for values in (confidences, correct)]
    return Reliability(counts, means[0], means[1], ece(correct), float(by_chance))


@dataclass(frozen=True)
class Calibration:
    """How good the probabilities of labelled images are: NLL in nats, Brier score (0 to 2), reliability."""

    nll: float
    brier: float
    reliability: Reliability


def calibration(logits: npt.NDArray[Any], labels: Ints) -> Calibration:
    """The calibration of logits (N, K) for labels (N,)."""
    probabilities = np.exp(log_softmax(logits))
    found = reliability(probabilities.max(axis=1), logits.argmax(axis=1) == labels)
    return Calibration(cross_entropy(logits, labels), brier_score(probabilities, labels), found)


def fit_temperature(logits: npt.NDArray[Any], labels: Ints) -> float:
    """The T within LIMITS that minimizes the NLL of softmax(logits / T).

    The NLL is convex in 1 / T, so the only zero of its derivative, the mean over images of E[logit] - logit of the label, is
    the least. Source: Guo et al. (2017).
    """
    from scipy.optimize import brentq

    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(len(labels)), labels]

    def slope(log_inverse: float) -> float:
        probabilities = np.exp(log_softmax(logits * math.exp(log_inverse)))
        return float(((probabilities * logits).sum(axis=1) - own).mean())

    coldest, hottest = LIMITS
    if slope(-math.log(coldest)) <= 0:
        return coldest
    if slope(-math.log(hottest)) >= 0:
        return hottest
    return math.exp(-brentq(slope, -math.log(hottest), -math.log(coldest), xtol=1e-12))

"""Numbers computed from predictions: accuracy with its interval, per-class scores, losses, confusion, paired test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def wilson_interval(correct: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of a proportion, 95 % by default, both ends in [0, 1]. Source: Wilson (1927)."""
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} of {total} is not a proportion")
    share = correct / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def confusion_matrix(labels: Array, predicted: Array, num_classes: int) -> npt.NDArray[np.int64]:
    """Counts (K, K): row = true class, column = predicted class."""
    cells = labels.astype(np.int64) * num_classes + predicted  # small dtypes would wrap around
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    """Log-probabilities in nats of logits, over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float64)


def cross_entropy(logits: Array, labels: Array) -> float:
    """Mean negative log-likelihood in nats of labels (N,) under logits (N, K)."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def brier_score(probabilities: Array, labels: Array) -> float:
    """Mean squared distance of probabilities (N, K) from the true class as a one-hot vector: 0 to 2. Source: Brier (1950)."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities**2).sum(axis=1) - 2 * true + 1).mean())


def precision_recall_f1(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Precision, recall and F1 of each class, (K,) each, of a confusion matrix (K, K); NaN where they are 0 of 0."""
    right, predicted, true = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is promised
        return right / predicted, right / true, 2 * right / (predicted + true)


def mcnemar(first_correct: Array, second_correct: Array) -> tuple[int, int, float]:
    """Exact McNemar test of two classifiers on the same images: (only first right, only second right, two-sided p)."""
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((~first_correct & second_correct).sum())
    discordant = only_first + only_second
    if not discordant:
        return 0, 0, 1.0
    from scipy.stats import binomtest

    return only_first, only_second, float(binomtest(only_first, discordant).pvalue)

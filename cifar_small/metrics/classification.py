"""Numbers computed from predictions: accuracy with its interval, per-class scores, losses, confusion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Z = 1.959963984540054  # 95 % of a normal distribution lie within this many standard deviations


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion, both ends in [0, 1]. Source: Wilson (1927)."""
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} of {total} is not a proportion")
    # Not scipy's, whose last digit differs: an audit compares the intervals in summaries written earlier for equality.
    share, z = correct / total, Z
    center = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def top_k_accuracy(logits: Array, labels: Array, k: int) -> float:
    """Share of labels (N,) among the k largest of logits (N, K), 0 to 1.

    Of equal logits the first are the larger, as argmax has it, so that k = 1 gives the accuracy.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    first = np.arange(logits.shape[1]) < labels[:, None]
    before = (logits > own) | ((logits == own) & first)
    return float((before.sum(axis=1) < k).mean())


def confusion_matrix(labels: Array, predicted: Array, num_classes: int) -> npt.NDArray[np.int64]:
    """Counts (K, K): row = true class, column = predicted class."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    """Log-probabilities in nats of logits, over the last axis."""
    from scipy import special

    return np.asarray(special.log_softmax(logits.astype(np.float64), axis=-1), np.float64)


def cross_entropy(logits: Array, labels: Array) -> float:
    """Mean negative log-likelihood in nats of labels (N,) under logits (N, K)."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def brier_score(probabilities: Array, labels: Array) -> float:
    """Mean squared distance of probabilities (N, K) from the true class as a one-hot vector: 0 to 2. Source: Brier (1950)."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities**2).sum(axis=1) - 2 * true + 1).mean())


def precision_recall_f1(labels: Array, predicted: Array, num_classes: int) -> tuple[npt.NDArray[np.float64], ...]:
    """Precision, recall and F1 of each class, (K,) each; NaN where they are 0 of 0."""
    from sklearn import metrics

    found = metrics.precision_recall_fscore_support(labels, predicted, labels=range(num_classes), zero_division=np.nan)
    return tuple(found[:3])

"""Accuracy against coverage: how much better a net is on the images that it is surest of.

Source: Geifman & El-Yaniv (2017), arXiv 1705.08500; the area under the curve of risk, beside that of the best order of the same
predictions: Geifman, Uziel & El-Yaniv (2019), arXiv 1805.08206.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CoverageCurve:
    """Accuracy on the n surest of N images, n = 1..N; accuracies: (N,)."""

    accuracies: Floats

    @property
    def aurc(self) -> float:
        """The area under the curve of risk: the mean over n of 1 - accuracy, 0 (best) to 1."""
        return float(1 - self.accuracies.mean())

    def at(self, coverage: float) -> float:
        """The accuracy on the surest share of the images, at least one; coverage in (0, 1]."""
        # The product may lie a rounding error above the whole number that is meant: 0.07 * 100 is 7.000000000000001.
        number = math.ceil(round(coverage * len(self.accuracies), 6))
        return float(self.accuracies[max(number, 1) - 1])


def coverage_curve(scores: npt.NDArray[Any], correct: npt.NDArray[np.bool_]) -> CoverageCurve:
    """The curve when images are taken from the lowest score (N,) up; correct: (N,). Source: the module's.

    Images of one score have no order among themselves; the curve is the mean over all their orders.
    """
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(group, weights=correct) / sizes  # of right ones within each group, scores ascending
    right = np.cumsum(np.repeat(shares, sizes))
    return CoverageCurve(right / np.arange(1, len(scores) + 1))


def best_curve(correct: npt.NDArray[np.bool_]) -> CoverageCurve:
    """The curve of the best order there is: every right prediction before every wrong one."""
    return coverage_curve(~correct, correct)

"""Labels that are probably wrong, by the rule of confident learning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROUNDING = 1e-6  # of a mean of equal probabilities, which each of them reaches


@dataclass(frozen=True)
class DoubtfulLabels:
    """Labels that are probably wrong, the most doubtful first.

    index: (M,) places of the images; suggested: (M,) the class that each more probably is; margin: (M,) the probability of the
    given class less the largest of the others, -1 to 1; thresholds: (K,), infinite for a class that no label names.
    """

    index: npt.NDArray[np.int64]
    suggested: npt.NDArray[np.int64]
    margin: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float64]


def doubtful_labels(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> DoubtfulLabels:
    """Labels (N,) that probabilities (N, K) of nets which did not train on the images contradict.

    The threshold of a class is the mean probability of that class over the images that are labelled so. Of the classes whose
    threshold an image reaches, the most probable one is taken for its true class; the label is doubtful where that is another.
    Ordered by normalized margin. Source: Northcutt, Jiang, Chuang, "Confident learning" (2021), equations 1 and 2.
    """
    count, classes = probabilities.shape
    given = probabilities[np.arange(count), labels]
    sizes = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, given, minlength=classes)
    thresholds = np.divide(sums, sizes, out=np.full(classes, np.inf), where=sizes > 0)
    reached = np.where(probabilities >= thresholds - ROUNDING, probabilities, -1.0)
    suggested = reached.argmax(axis=1)
    index = np.flatnonzero((reached.max(axis=1) >= 0) & (suggested != labels))
    others = probabilities[index]
    others[np.arange(len(index)), labels[index]] = -1
    margin = given[index] - others.max(axis=1, initial=-1)
    order = np.argsort(margin, kind="stable")
    return DoubtfulLabels(index[order], suggested[index[order]], margin[order], thresholds)

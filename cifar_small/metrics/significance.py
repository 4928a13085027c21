"""Is it more than chance? Differences with their intervals, the correction for many tests, order and balance of labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_small.metrics.classification import Z

Correct = npt.NDArray[np.bool_]


class Difference(NamedTuple):
    """The second minus the first, with the 95 % interval; shares, so 0.01 is one point of accuracy."""

    estimate: float
    low: float
    high: float


class SeedDifference(NamedTuple):
    """A difference of means over seeds with its 95 % interval and two-sided p."""

    estimate: float
    low: float
    high: float
    p: float


class Runs(NamedTuple):
    """How often the label changes along an order, against a random order of the same labels; p: of so few or fewer runs."""

    runs: int
    expected: float
    sd: float
    p: float


def mcnemar(first_correct: Correct, second_correct: Correct) -> tuple[int, int, float]:
    """Exact McNemar test of two classifiers on the same images: (only first right, only second right, two-sided p)."""
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((~first_correct & second_correct).sum())
    discordant = only_first + only_second
    if not discordant:
        return 0, 0, 1.0
    from scipy.stats import binomtest

    return only_first, only_second, float(binomtest(only_first, discordant).pvalue)


def paired_difference(first_correct: Correct, second_correct: Correct, z: float = Z) -> Difference:
    """Accuracy of the second minus the first on the same images (N,), and its 95 % interval, all in [-1, 1].

    Wald's interval with one image added to either kind of disagreement, which keeps its coverage where the two hardly ever
    disagree and does not shrink to nothing where they never do. Source: Bonett and Price (2012), J. Educational and Behavioral
    Statistics 37(4).
    """
    total = len(first_correct)
    if total == 0 or len(second_correct) != total:
        raise ValueError(f"{total} and {len(second_correct)} images are no pairs")
    gained, lost = int((second_correct & ~first_correct).sum()), int((first_correct & ~second_correct).sum())
    gain, loss = (gained + 1) / (total + 2), (lost + 1) / (total + 2)
    half = z * math.sqrt((gain + loss - (gain - loss) ** 2) / (total + 2))
    return Difference((gained - lost) / total, max(-1.0, gain - loss - half), min(1.0, gain - loss + half))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: one is at most alpha exactly when Holm's procedure rejects it at alpha.

    Controls the chance of any false rejection among all tests of a table. Raises ValueError for a test without a p, which would
    stand anywhere in their order. Source: Holm (1979).
    """
    if any(math.isnan(p) for p in p_values):
        raise ValueError(f"{list(p_values)}: a test that has no p cannot be corrected for; leave it out")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seed_difference(first: Sequence[float], second: Sequence[float], *, paired: bool) -> SeedDifference | None:
    """Mean accuracy of the second recipe's seeds minus the first's; None where the seeds do not vary, so that no test exists.

    paired: the two are of the same seeds in the same order, and Student's t is taken of their differences; else Welch's t.
    At least two seeds each. It asks whether the recipes differ; McNemar's test asks it of two trained nets.
    """
    from scipy.stats import ttest_ind, ttest_rel

    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(one), len(other)) < 2 or (paired and len(one) != len(other)):
        raise ValueError(f"{len(one)} and {len(other)} seeds; expected at least two each, and as many where paired")
    varying = [other - one] if paired else [one, other]
    if sum(values.var(ddof=1) / len(values) for values in varying) < 1e-24:
        return None  # equal up to the rounding of shares: a coincidence of few images, no proof
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a recipe whose seeds are all equal, beside one whose seeds vary
        found = ttest_rel(other, one) if paired else ttest_ind(other, one, equal_var=False)
        low, high = found.confidence_interval()
    return SeedDifference(float(other.mean() - one.mean()), float(low), float(high), float(found.pvalue))


def mean_difference(differences: npt.NDArray[np.float64]) -> SeedDifference | None:
    """The mean of paired differences (N,), one an image, with Student's interval and p; None where they do not vary."""
    from scipy.stats import ttest_1samp

    if len(differences) < 2 or differences.var() < 1e-24:
        return None
    found = ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval()
    return SeedDifference(float(differences.mean()), float(low), float(high), float(found.pvalue))


def runs_test(labels: npt.NDArray[Any]) -> Runs | None:
    """Do equal labels stand together more than by chance? For labels of any number of classes, (N,); None where there is one.

    Normal approximation, one-sided. Source: Barton and David (1957), the Wald-Wolfowitz test for more than two kinds.
    """
    total = len(labels)
    counts = np.unique(labels, return_counts=True)[1].tolist()  # Python's integers: the cubes of large files would wrap around
    if len(counts) < 2:
        return None
    squares, cubes = sum(count**2 for count in counts), sum(count**3 for count in counts)
    expected = (total * (total + 1) - squares) / total
    above = squares * (squares + total * (total + 1)) - 2 * total * cubes - total**3
    sd = math.sqrt(above / (total**2 * (total - 1)))
    runs = 1 + int((labels[1:] != labels[:-1]).sum())
    return Runs(runs, expected, sd, _upper_tail((expected - runs) / sd) if sd else 1.0)


def balance_test(counts: npt.NDArray[np.int64]) -> tuple[float, float] | None:
    """Chi-square of class counts (K,) against as many of each, and its p; None with fewer than five expected of each."""
    if counts.sum() < 5 * len(counts):
        return None
    from scipy.stats import chisquare

    found = chisquare(counts)
    return float(found.statistic), float(found.pvalue)


def neighbor_likeness(features: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Are neighbors in an order more alike than by chance? The mean lag-one correlation of features (N, D), and its p.

    Features are made uncorrelated first, so the sum over them is normal with variance D / N under a random order; one-sided.
    None where nothing varies, or with fewer than ten images for each feature.
    """
    centered = features - features.mean(axis=0)
    basis, spread, _ = np.linalg.svd(centered, full_matrices=False)
    kept = basis[:, spread > 1e-9 * max(spread[0], 1e-300)]  # columns of unit length
    total, kinds = kept.shape
    if spread[0] == 0 or total < 10 * kinds:
        return None
    mean = float((kept[1:] * kept[:-1]).sum(axis=0).mean())
    return mean, _upper_tail((mean + 1 / total) * math.sqrt(total * kinds))  # under a random order the mean is -1 / N


def _upper_tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))

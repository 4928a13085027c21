"""Reliability, its error and the temperature, against scikit-learn, scipy, closed forms and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom
from sklearn.calibration import calibration_curve

from cifar_small.data.splits import halves
from cifar_small.errors import DataError
from cifar_small.metrics.calibration import LIMITS, calibration, fit_temperature, reliability
from cifar_small.metrics.classification import cross_entropy, log_softmax

CASE = st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=60)


def drawn(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Labels drawn from the softmax of logits."""
    shares = np.exp(log_softmax(logits)).cumsum(axis=1)
    return (np.random.default_rng(seed).random((len(logits), 1)) > shares[:, :-1]).sum(axis=1)


@settings(deadline=None, max_examples=60)
@given(CASE)
def test_bins_are_scikit_learns(case: list[tuple[float, bool]]) -> None:
    confidences, correct = np.array([c for c, _ in case]), np.array([right for _, right in case])
    found = reliability(confidences, correct)
    filled = found.counts > 0
    accuracies, means = calibration_curve(correct, confidences, n_bins=15, pos_label=True)
    assert np.allclose(found.accuracies[filled], accuracies)
    assert np.allclose(found.confidences[filled], means)
    assert np.isnan(found.accuracies[~filled]).all()
    assert found.counts.sum() == len(case)
    shares = found.counts[filled] / len(case)
    assert found.ece == pytest.approx((shares * np.abs(accuracies - means)).sum(), abs=1e-12)
    assert 0 <= found.ece <= 1


def test_ece_by_hand_and_edges_belong_to_the_bin_below() -> None:
    confidences, correct = np.array([0.95, 0.97, 0.6, 3 / 15]), np.array([True, False, True, False])
    found = reliability(confidences, correct)
    assert found.counts.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2]
    assert found.ece == pytest.approx((abs(1 - 1.92) + abs(1 - 0.6) + 0.2) / 4)
    assert reliability(np.array([1.0, 1.0]), np.array([True, True])).ece == 0
    certain = reliability(np.array([1.0, 0.97]), np.array([False, True]))  # 0.515 with a bin of its own for 1
    assert (certain.counts[-1], certain.ece) == (2, pytest.approx(0.485))
    assert reliability(np.array([1.0, 1.0]), np.array([True, True])).ece_by_chance == 0


@given(st.integers(0, 2**32 - 1))
def test_ece_is_the_same_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, order = rng.uniform(0.1, 1, 300), rng.permutation(300)
    right = rng.random(300) < confidence / 2
    found, shuffled = reliability(confidence, right), reliability(confidence[order], right[order])
    assert found.ece == pytest.approx(shuffled.ece, abs=1e-12)
    assert found.ece > 0.1


def test_ece_by_chance_is_the_mean_deviation_of_a_binomial() -> None:
    found = reliability(np.full(40, 0.9), np.ones(40, bool))
    number = np.arange(41)
    expected = (binom.pmf(number, 40, 0.9) * np.abs(number / 40 - 0.9)).sum()
    assert found.ece_by_chance == pytest.approx(expected, abs=0.008)  # 200 draws: 3.5 standard errors
    assert found.ece == pytest.approx(0.1)


def test_true_confidences_show_an_ece_of_chance_and_no_more() -> None:
    logits = np.random.default_rng(1).normal(0, 2, (2000, 10))
    eces, chance = [], calibration(logits, drawn(logits)).reliability.ece_by_chance
    for seed in range(60):
        eces.append(reliability(np.exp(log_softmax(logits)).max(axis=1), logits.argmax(axis=1) == drawn(logits, seed)).ece)
    assert np.mean(eces) == pytest.approx(chance, abs=0.001)
    assert chance > 0.01  # not zero, although nothing is wrong


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 5), st.floats(0.05, 0.95))
def test_temperature_of_two_classes_in_closed_form(margin: float, share: float) -> None:
    count = 1000
    right = round(share * count)
    share = right / count
    logits = np.stack([np.zeros(count), np.full(count, margin)], axis=1)
    labels = (np.arange(count) < right).astype(int)
    if share <= 0.5:  # no better than chance: the hottest temperature there is
        assert fit_temperature(logits, labels) == pytest.approx(LIMITS[1])
        return
    expected = margin / math.log(share / (1 - share))
    assert fit_temperature(logits, labels) == pytest.approx(min(max(expected, LIMITS[0]), LIMITS[1]), rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.floats(0.3, 4))
def test_temperature_is_the_one_a_general_minimiser_finds(seed: int, classes: int, true: float) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (200, classes))
    labels = drawn(logits / true, seed)
    found = fit_temperature(logits, labels)
    reference = minimize_scalar(lambda log: cross_entropy(logits / math.exp(log), labels), bounds=(-4.6, 4.6), method="bounded")
    assert cross_entropy(logits / found, labels) <= reference.fun + 1e-9
    if LIMITS[0] < found < LIMITS[1]:
        assert found == pytest.approx(math.exp(reference.x), rel=1e-3)
        assert fit_temperature(3 * logits, labels) == pytest.approx(min(3 * found, LIMITS[1]), rel=1e-6)


def test_the_true_temperature_is_found_again() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (20_000, 10)).astype(np.float32)
    labels = drawn(logits / 1.7)
    assert fit_temperature(logits, labels) == pytest.approx(1.7, rel=0.02)
    before, after = calibration(logits, labels), calibration(logits / 1.7, labels)
    assert before.reliability.ece > 10 * after.reliability.ece
    assert before.nll > after.nll
    assert before.brier > after.brier


def test_temperature_stays_within_its_limits() -> None:
    logits = np.array([[3.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.array([0, 1])) == LIMITS[0]
    assert fit_temperature(logits, np.array([1, 0])) == LIMITS[1]


def test_halves_share_nothing_and_have_the_same_classes() -> None:
    labels = np.repeat(np.arange(10), [50, 50, 40, 60, 50, 50, 50, 50, 50, 51])
    first, second = halves(labels)
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert abs(np.bincount(labels[first]) - np.bincount(labels[second])).max() <= 1
    assert all(np.array_equal(one, other) for one, other in zip((first, second), halves(labels), strict=True))
    with pytest.raises(DataError):
        halves(np.array([3]))

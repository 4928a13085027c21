"""Accuracy against coverage: by hand, by all orders of ties, in closed form."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_small.metrics.coverage import best_curve, coverage_curve


def test_curve_by_hand() -> None:
    curve = coverage_curve(np.array([0.9, 0.1, 0.5, 0.3]), np.array([False, True, False, True]))
    assert curve.accuracies == pytest.approx([1, 1, 2 / 3, 2 / 4])
    assert curve.aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert [curve.at(share) for share in (0.01, 0.25, 0.5, 0.51, 0.75, 1.0)] == pytest.approx([1, 1, 1, 2 / 3, 2 / 3, 1 / 2])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_ties_count_as_the_mean_over_their_orders(case: list[tuple[int, bool]]) -> None:
    orders = [order for order in permutations(case) if [score for score, _ in order] == sorted(score for score, _ in case)]
    expected = np.mean([np.cumsum([right for _, right in order]) / np.arange(1, len(case) + 1) for order in orders], axis=0)
    scores, correct = np.array([score for score, _ in case]), np.array([right for _, right in case])
    assert coverage_curve(scores, correct).accuracies == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_no_order_is_better_than_the_best_one_or_worse_than_its_reverse(right: list[bool], seed: int) -> None:
    correct = np.array(right)
    number, hits = len(correct), int(correct.sum())
    best, worst = best_curve(correct), coverage_curve(correct.astype(float), correct)
    found = coverage_curve(np.random.default_rng(seed).random(number), correct)
    assert (worst.accuracies - 1e-12 <= found.accuracies).all()
    assert (found.accuracies <= best.accuracies + 1e-12).all()
    assert best.accuracies == pytest.approx([1.0] * hits + [hits / n for n in range(hits + 1, number + 1)])
    assert found.accuracies[-1] == pytest.approx(hits / number)  # coverage 100 % is the accuracy, whatever the order
    assert coverage_curve(np.zeros(number), correct).aurc == pytest.approx(1 - hits / number)  # no order at all


def test_only_the_order_of_scores_counts() -> None:
    scores, correct = np.array([33.0, 30.0, 151.0, 90.0]), np.array([True, True, False, True])
    expected = coverage_curve(np.array([1, 0, 3, 2]), correct).accuracies.tolist()
    for own in (scores, scores / 200, (scores - 90) * 1e6):
        assert coverage_curve(own, correct).accuracies.tolist() == expected


def test_coverage_hits_the_whole_number_that_is_meant() -> None:
    curve = coverage_curve(np.arange(100.0), np.arange(100) < 7)
    assert curve.at(0.07) == 1.0  # 0.07 * 100 is 7.000000000000001
    assert curve.at(0.08) == 7 / 8

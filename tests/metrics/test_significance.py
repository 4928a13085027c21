"""Differences, corrections and tests of order against scipy, closed forms, brute force and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cifar_small.metrics.significance import (
    balance_test,
    holm,
    mean_difference,
    neighbor_likeness,
    paired_difference,
    runs_test,
    seed_difference,
)


def cells(gained: int, lost: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([False, True, True, False], [gained, lost, both, neither])
    second = np.repeat([True, False, True, False], [gained, lost, both, neither])
    return first, second


def test_paired_difference_by_hand() -> None:
    estimate, low, high = paired_difference(*cells(29, 9, 50, 10))
    assert estimate == pytest.approx(20 / 98)
    gain, loss = 30 / 100, 10 / 100
    half = 1.959963984540054 * math.sqrt((0.4 - 0.04) / 100)
    assert (low, high) == pytest.approx((gain - loss - half, gain - loss + half))
    assert (low, high) == pytest.approx((0.0824, 0.3176), abs=5e-5)


@settings(deadline=None, max_examples=100)
@given(*[st.integers(0, 300)] * 2, st.integers(1, 2000))
def test_paired_difference_is_antisymmetric_and_holds_its_estimate(gained: int, lost: int, both: int) -> None:
    first, second = cells(gained, lost, both, 5)
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.estimate == -other.estimate == (gained - lost) / len(first)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert -1 <= one.low <= one.estimate <= one.high <= 1


def test_paired_interval_covers_the_truth_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    for total, gain, loss in ((500, 0.04, 0.02), (2000, 0.03, 0.03), (200, 0.1, 0.02), (10_000, 0.02, 0.016)):
        counts = rng.multinomial(total, [gain, loss, 1 - gain - loss], size=1500)
        inside = 0
        for gained, lost, rest in counts.tolist():
            _, low, high = paired_difference(*cells(gained, lost, rest, 0))
            inside += low <= gain - loss <= high
        assert inside / 1500 == pytest.approx(0.95, abs=0.02), total  # 3.5 standard deviations


def test_an_unpaired_interval_would_be_too_wide_for_nets_that_agree() -> None:
    low, high = paired_difference(*cells(60, 40, 9300, 600))[1:]
    unpaired = 2 * 1.96 * math.sqrt(2 * 0.935 * 0.065 / 10_000)
    assert (high - low) < 0.6 * unpaired


@pytest.mark.parametrize("sizes", [(0, 0), (3, 4)])
def test_paired_difference_needs_pairs(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="are no pairs"):
        paired_difference(*(np.ones(size, bool) for size in sizes))


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04], [0.02, 0.04]),
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),  # 0.03 * 2 = 0.06 holds up the 0.04 * 1 behind it
        ([0.5, 0.9, 0.4], [1.0, 1.0, 1.0]),
        ([0.01, 0.01, 0.01, 0.01], [0.04] * 4),
    ],
)
def test_holm_by_hand(given: list[float], adjusted: list[float]) -> None:
    assert holm(given) == pytest.approx(adjusted)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_stepwise_procedure_rejects(p_values: list[float], alpha: float) -> None:
    ordered = sorted(range(len(p_values)), key=p_values.__getitem__)
    rejected = set()
    for rank, index in enumerate(ordered):  # Holm (1979): stop at the first that fails
        if (len(p_values) - rank) * p_values[index] > alpha:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def test_holm_keeps_false_alarms_of_a_table_at_one_in_twenty() -> None:
    p_values = np.random.default_rng(0).uniform(size=(4000, 5))
    plain, corrected = (np.mean([min(own) < 0.05 for own in rows]) for rows in (p_values, map(holm, p_values.tolist())))
    assert plain == pytest.approx(1 - 0.95**5, abs=0.025)
    assert corrected == pytest.approx(0.05, abs=0.012)


SEEDS = st.lists(st.integers(9000, 9500).map(lambda right: right / 10_000), min_size=2, max_size=6)


@settings(deadline=None, max_examples=60)
@given(SEEDS, SEEDS)
def test_unpaired_seeds_are_scipys_welch(first: list[float], second: list[float]) -> None:
    found = seed_difference(first, second, paired=False)
    if len(set(first)) == len(set(second)) == 1:
        assert found is None
        return
    if 1 in (len(set(first)), len(set(second))):
        return  # scipy warns of a sample that does not vary
    expected = stats.ttest_ind(second, first, equal_var=False)
    assert found is not None
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.integers(9000, 9500)] * 2), min_size=2, max_size=6))
def test_paired_seeds_are_scipys_paired_t(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(own) / 10_000 for own in zip(*pairs, strict=True))
    found = seed_difference(first.tolist(), second.tolist(), paired=True)
    if len({one - other for one, other in pairs}) == 1:
        assert found is None  # the same difference for every seed: no spread, no test
        return
    expected = stats.ttest_rel(second, first)
    assert found is not None
    assert found.estimate == pytest.approx((second - first).mean())
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("first", "second", "paired"), [([0.9], [0.8, 0.7], False), ([0.9, 0.8], [0.8, 0.7, 0.6], True)])
def test_seed_difference_needs_two_seeds_and_pairs(first: list[float], second: list[float], paired: bool) -> None:
    with pytest.raises(ValueError, match="expected at least two each"):
        seed_difference(first, second, paired=paired)


def test_a_test_without_p_stays_out_of_the_correction() -> None:
    """What equal seeds are to scipy: nothing varies, so there is no p, and no place in the order of p values."""
    assert seed_difference([0.9, 0.9, 0.9], [0.9, 0.9, 0.9], paired=False) is None
    assert seed_difference([0.90, 0.91, 0.92], [0.90, 0.91, 0.92], paired=True) is None
    with pytest.raises(ValueError, match="has no p"):
        holm([math.nan, 1e-6])


@pytest.mark.parametrize("shift", [0.02, -0.015, 0.0])
def test_mean_difference_is_students_interval_and_two_sided_p_by_hand(shift: float) -> None:
    differences = np.random.default_rng(0).normal(shift, 0.05, 30)
    mean, error = differences.mean(), differences.std(ddof=1) / math.sqrt(30)
    found = mean_difference(differences)
    assert found is not None
    assert found.estimate == pytest.approx(mean)
    half = stats.t.ppf(0.975, 29) * error
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(mean) / error, 29))


def test_mean_difference_needs_two_that_vary() -> None:
    assert mean_difference(np.array([0.1])) is None
    assert mean_difference(np.full(5, 0.1)) is None


@pytest.mark.parametrize("counts", [(2, 1), (3, 3), (2, 2, 2), (4, 1, 1), (3, 2, 1, 1)])
def test_runs_of_a_random_order_by_brute_force(counts: tuple[int, ...]) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    found = [runs_test(np.array(order)) for order in set(itertools.permutations(labels))]  # each equally likely
    observed = np.array([one.runs for one in found if one])
    assert found[0] is not None
    assert found[0].expected == pytest.approx(observed.mean())
    assert found[0].sd == pytest.approx(observed.std())


def test_runs_of_sorted_and_of_shuffled_labels() -> None:
    labels = np.repeat(np.arange(10), 1000)
    in_order = runs_test(labels)
    assert in_order is not None
    assert in_order.runs == 10
    assert in_order.p < 1e-300
    rng = np.random.default_rng(0)
    p_values = [found.p for _ in range(400) if (found := runs_test(rng.permutation(labels)))]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)
    alternating = runs_test(np.tile(np.arange(10), 1000))
    assert alternating is not None
    assert alternating.p > 0.999  # one-sided: too many runs are no sign of sorting
    assert runs_test(np.zeros(5, int)) is None


def test_balance_is_scipys_chi_square() -> None:
    counts = np.array([884, 1019, 988, 1083, 975, 1036, 936, 1020, 1037, 1022])
    found = balance_test(counts)
    assert found is not None
    statistic = ((counts - 1000) ** 2 / 1000).sum()
    assert found == pytest.approx((statistic, stats.chi2.sf(statistic, 9)))
    assert found[1] == pytest.approx(0.0006, abs=0.0001)
    assert balance_test(np.full(10, 1000)) == (0.0, 1.0)
    assert balance_test(np.array([4, 4, 6, 4])) is None  # under five expected of each


def test_neighbors_of_a_random_order_are_not_alike() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1000, 6)) @ rng.standard_normal((6, 6)) + 3  # correlated among themselves
    found = [neighbor_likeness(features[rng.permutation(1000)]) for _ in range(300)]
    likeness, p_values = np.array([one for one in found if one]).T
    assert likeness.mean() == pytest.approx(-1 / 1000, abs=0.004)
    assert likeness.std() == pytest.approx(1 / math.sqrt(6000), rel=0.15)
    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=0.04)


def test_neighbors_in_an_order_by_class_are_alike() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 200)
    features = rng.standard_normal((2000, 6)) + 0.4 * rng.standard_normal((10, 6))[labels]  # classes explain a seventh
    found = neighbor_likeness(features)
    assert found is not None
    assert found[0] > 0.05
    assert found[1] < 1e-9
    assert neighbor_likeness(np.ones((100, 6))) is None
    assert neighbor_likeness(features[:30]) is None
